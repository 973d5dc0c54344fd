"""`csflow`: a flow over the whole image at several scales, whose every step sees all of them.

Fully convolutional cross-scale flows (CS-Flow, arXiv 2110.02855): one frozen backbone sees the image at full, half and
quarter size, and cross-scale coupling blocks give the likelihood of the three feature maps together. A patch is as
anomalous as its latent vector is long. Here the features are whitened first, about what each patch looks like on
average: what the flow has to learn is then what is not linear, for which the images of one line are enough.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.adaptable import Adaptable
from flowgauge.models.detector import Embedding, FeatureShape, Progress, Scores, TrainingSet, select
from flowgauge.models.flows.cross_scale import CrossScaleFlow, Scales
from flowgauge.models.flows.training import Rows, Training, held_out_images, maximise_likelihood
from flowgauge.models.patch_scores import lower_spread, nhwc
from flowgauge.vision.augmentation import PLAIN, View

# The share of the parts that stop the flow and calibrate it, and train neither it nor the whitening. With fewer, a
# handful of parts sets the scale; with more, the flow lacks them.
_HELD_OUT = 0.15
# the least spread, as a share of the centre: a handful of parts that happen to score alike would blow up the scale
_LEAST_SPREAD = 0.02


class CsFlowConfig(FrozenModel):
    pyramid_levels: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="how often each scale halves the image"
    )
    blocks: int = Field(4, ge=1, description="coupling blocks")
    hidden: int = Field(48, ge=1, description="channels of the conditioners' first layers")
    kernel: int = Field(3, ge=1, description="side of the conditioners' first convolutions")
    clamp: float = Field(2.0, gt=0, description="bound on the logarithm of a coupling's scales")
    shrinkage: float = Field(1e-3, gt=0, le=1, description="of the features' correlations towards none")
    top: float = Field(0.1, gt=0, le=1, description="share of patches whose mean square of z is the image's score")
    whitened_share: float = Field(
        0.4, ge=0, le=1, description="weight of the whitened features beside z in the maps' geometric mean; 0: z alone"
    )
    augmentations: tuple[View, ...] = Field((PLAIN, View(flip=True)), description="that train; the plain one scores")
    training: Training = Training(steps=200, batch=16, learning_rate=1e-3, noise=0.2, check_every=50, patience=2)


class CsFlow(Adaptable):
    name = "csflow"
    config: CsFlowConfig
    flow: CrossScaleFlow

    def __init__(self, config: CsFlowConfig, shape: FeatureShape) -> None:
        channels = shape.channels[shape.coarsest]
        sides = tuple(-(-shape.sides[shape.coarsest] // 2**times) for times in config.pyramid_levels)
        super().__init__(config, shape, (max(sides), max(sides)))
        self.pyramid_levels = config.pyramid_levels
        self.whiten = nn.ModuleList(_Whiten(channels, side) for side in sides)
        self.flow = CrossScaleFlow(
            Scales(channels, sides),
            blocks=config.blocks,
            hidden=config.hidden,
            kernel=config.kernel,
            clamp=config.clamp,
            top=config.top,
            seed=0,
        )
        self.centre = nn.Buffer(torch.zeros(()))
        self.spread = nn.Buffer(torch.ones(()))
        self.unit = nn.Buffer(torch.ones(()))

    def training_views(self, images: int) -> tuple[View, ...]:
        return self.config.augmentations

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """`halved<n>` (B, C, S, S): the coarsest level's features of the image as it is halved so many times."""
        coarsest = features[self.shape.coarsest :: len(self.shape.strides)]
        return {_key(times): nhwc(x.half()) for times, x in zip(self.pyramid_levels, coarsest, strict=True)}

    def patch_features(self, embedding: Embedding) -> Tensor:
        return embedding[_key(min(self.pyramid_levels))]

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        parts = [training_set.part_of(number) for number in training_set.image.tolist()]
        numbers = {part: number for number, part in enumerate(dict.fromkeys(parts))}
        held_out = held_out_images(torch.tensor([numbers[part] for part in parts]), _HELD_OUT, seed)
        self.measure(select(training_set.good, ~held_out))
        rows = Rows(self.tokens(training_set.good)[:, 0], held_out)
        maximise_likelihood(self.flow, rows, self.config.training, seed=seed, progress=progress)
        # Scores and maps count in what parts have that trained nothing: over so many dimensions flow and whitening know
        # those that did by heart, the better the fewer they were, and cross-fitting would give another scale.
        token_scores_N, maps_NSS = self._scores(rows.x[rows.held_out])
        self.centre.copy_(token_scores_N.median())
        self.spread.copy_(lower_spread(token_scores_N).clamp_min(_LEAST_SPREAD * self.centre))
        self.unit.copy_(maps_NSS.mean())

    def measure(self, good: Embedding) -> None:
        """Take the whitening from good images."""
        for times, whiten in zip(self.pyramid_levels, self.whiten, strict=True):
            cast(_Whiten, whiten).measure(good[_key(times)].float(), self.config.shrinkage)

    def _scores(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """How anomalous each row is, (N,), and where, (N, S, S)."""
        with torch.no_grad():
            z_ND, log_det_N = self.flow(x_ND)
            after, before = self.flow.energies(z_ND), self.flow.energies(x_ND)
            # the paper's maps are E(z) alone, which show what is odd but blur where: each patch of z depends on all
            # patches around it
            share = self.config.whitened_share
            return self.flow.token_scores_of(z_ND, log_det_N), after ** (1 - share) * before**share

    def tokens(self, embedding: Embedding) -> Tensor:
        """One token an image: (B, 1, D), all patches of all scales."""
        maps = [w(embedding[_key(times)].float()) for times, w in zip(self.pyramid_levels, self.whiten, strict=True)]
        return self.flow.scales.rows(maps).unsqueeze(1)

    def image_scores(self, token_scores_BT: Tensor, embedding: Embedding) -> Tensor:
        """0 for what good parts commonly have that did not train, 1 a spread above it."""
        return (token_scores_BT[:, 0] - self.centre) / self.spread

    def score_embedding(self, embedding: Embedding) -> Scores:
        token_scores_B, maps_BSS = self._scores(self.tokens(embedding)[:, 0])
        return Scores(self.image_scores(token_scores_B[:, None], embedding), maps_BSS / self.unit)


class _Whiten(nn.Module):
    """(B, C, S, S), less what each patch is on average and multiplied by the channels' whitening matrix."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.centre = nn.Buffer(torch.zeros(channels, side, side))
        self.whitening = nn.Buffer(torch.eye(channels))

    def measure(self, x_NCSS: Tensor, shrinkage: float) -> None:
        """Take centre and covariance from good images."""
        # a patch shares its centre with its neighbours: products do not lie to the pixel
        self.centre.copy_(F.avg_pool2d(x_NCSS.mean(dim=0), 3, stride=1, padding=1, count_include_pad=False))
        departure_CM = (x_NCSS - self.centre).transpose(0, 1).flatten(1)
        deviation = departure_CM.square().mean(dim=1).sqrt().clamp_min(1e-6)
        standard_CM = departure_CM / deviation[:, None]
        correlation = (standard_CM @ standard_CM.T / standard_CM.shape[1]).double()
        # L^-1/2 V^T S^-1 of (1 - a) R + a I = V L V^T, with the correlations R and the channels' deviations S; without
        # the shrinkage directions in which a few images do not vary would be blown up
        shrunk = (1 - shrinkage) * correlation + shrinkage * torch.eye(len(correlation), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(shrunk)
        self.whitening.copy_((vectors / values.sqrt()).T / deviation)

    def forward(self, x_BCSS: Tensor) -> Tensor:
        return F.conv2d(x_BCSS - self.centre, self.whitening[:, :, None, None])


def _key(times: int) -> str:
    return f"halved{times}"
