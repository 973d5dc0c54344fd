"""`lamp`: an autoencoder of good images, trained with an amplified loss (LAMP, Park et al.).

It reads pixels and no features: its backbone is the identity. What good images did not show comes back wrong, and the
squared error is the score, whatever loss trained (s.3.1 of the paper).
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
from flowgauge.models.lamp.autoencoder import Autoencoder
from flowgauge.models.lamp.losses import squared
from flowgauge.models.lamp.training import Reconstructing, fit_reconstruction

_PIXELS = "pixels"
_CELL = 4
"""Pixels of the image a side of a map's cell."""
_AT_ONCE = 16
"""Images whose activations are in memory together."""
_COARSE = 16
"""Pixels a side of what images are compared by."""


class LampConfig(FrozenModel):
    """`patches` n cuts an image into n x n, each of which is reconstructed by itself. `top` is the share of cells whose
    mean squared error is the image's score; 1 is the paper's.
    """

    patches: int = Field(4, ge=1)
    layers: int = Field(6, ge=2, multiple_of=2)
    width: int = Field(16, ge=1)
    kernel: int = Field(3, ge=1)
    top: float = Field(1.0, gt=0, le=1)
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
        error = torch.cat([self._error(pixels.float()) for pixels in torch.split(embedding[_PIXELS], _AT_ONCE)])
        self.net.train(training)
        most = max(1, round(self.config.top * error[0].numel()))
        return Scores(error.flatten(1).topk(most, dim=1)[0].mean(dim=1), error)

    def _error(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, h, w): the squared error, averaged over each cell and the channels."""
        reconstruction = self._together(self.net(self._cut(pixels_BCHW)), len(pixels_BCHW))
        return F.avg_pool2d(squared(pixels_BCHW, reconstruction).mean(dim=1, keepdim=True), _CELL)[:, 0]
