"""`lamp`: an autoencoder of good images, trained with an amplified loss; it reads pixels (see the README).

What good images did not show comes back wrong, and the squared error is the score.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from flowgauge.domain.errors import SettingsError
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.seeding import seeded
from flowgauge.models.detector import Detector, Embedding, FeatureShape, Progress, Scores, TrainingSet
from flowgauge.models.lamp.reconstruction import Autoencoder, Reconstructing, fit_reconstruction, squared
from flowgauge.models.patch_scores import highest

_PIXELS = "pixels"
# pixels of the image a side of a map's cell: smaller, and maps show single pixels' noise; larger, and they blur
_CELL = 4
# images whose activations are in memory together
_AT_ONCE = 16
# pixels a side of what images are compared by
_COARSE = 16


class LampConfig(FrozenModel):
    patches: int = Field(4, ge=1, description="n: an image is n x n parts, each of which is reconstructed by itself")
    layers: int = Field(6, ge=2, multiple_of=2, description="convolutions down, and as many up")
    width: int = Field(16, ge=1, description="channels at first, twice as many after each halving")
    kernel: int = Field(3, ge=1, description="side of the convolutions")
    top: float = Field(1.0, gt=0, le=1, description="share of cells whose mean error is the score; 1: the paper's")
    training: Reconstructing = Reconstructing()


class Lamp(Detector):
    name = "lamp"
    config: LampConfig

    def __init__(self, config: LampConfig, shape: FeatureShape) -> None:
        if shape.strides != (1,):
            raise SettingsError("lamp reads pixels and no features.", "Use the backbone `pixels` with it.")
        side = shape.size // config.patches
        if shape.size % config.patches or side % 2 ** (config.layers // 2):
            raise SettingsError(
                f"{config.layers} layers do not suit {config.patches}² patches of {shape.size} pixels.",
                f"Their side must be a multiple of {2 ** (config.layers // 2)}.",
            )
        super().__init__(config, shape, (shape.size // _CELL, shape.size // _CELL))
        with seeded(0):
            self.net = Autoencoder(shape.channels[0], layers=config.layers, width=config.width, kernel=config.kernel)
        self._side = side

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """`pixels` (B, 3, size, size), with values in [-1, 1]."""
        return {_PIXELS: features[0].half()}

    def patch_features(self, embedding: Embedding) -> Tensor:
        return F.avg_pool2d(embedding[_PIXELS].float(), _COARSE)

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        with seeded(seed):
            for module in self.net.modules():
                if isinstance(module, torch.nn.Conv2d):
                    module.reset_parameters()
        fit_reconstruction(
            self.net, self._cut(training_set.good[_PIXELS]), self.config.training, seed=seed, progress=progress
        )

    def _cut(self, pixels_BCHW: Tensor) -> Tensor:
        """(B * n * n, C, side, side)."""
        parts = pixels_BCHW.unfold(2, self._side, self._side).unfold(3, self._side, self._side)
        return parts.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)

    def _together(self, parts: Tensor, images: int) -> Tensor:
        """The inverse of `_cut`."""
        n = self.config.patches
        return parts.view(images, n, n, -1, self._side, self._side).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def score_embedding(self, embedding: Embedding) -> Scores:
        # batch normalisation that looked at the batch would let neighbours change a score
        training, _ = self.net.training, self.net.eval()
        parts = []
        for some in torch.split(embedding[_PIXELS], _AT_ONCE):
            pixels_BCHW = some.float()
            reconstruction = self._together(self.net(self._cut(pixels_BCHW)), len(pixels_BCHW))
            # (B, h, w): the squared error, averaged over the channels and each cell (s.3.1 of the paper)
            error = squared(pixels_BCHW, reconstruction).mean(dim=1, keepdim=True)
            parts.append(F.avg_pool2d(error, _CELL)[:, 0])
        self.net.train(training)
        maps_BHW = torch.cat(parts)
        return Scores(highest(maps_BHW.flatten(1), self.config.top), maps_BHW)
