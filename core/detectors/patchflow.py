"""`patchflow`, the default: a flow over guided tokens, one for every place of the image.

Features of several strides meet on one grid, where the guide (see `core.detectors.guide`) keeps what tells defects from
good surfaces; a flow of coupling blocks gives the likelihood of each place. The image's score is that of its most
anomalous places, and a share of how unlikely its pooled features are.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from core.detectors.base import Detector, Embedding, FeatureShape, Lesson, Progress, Scores, length, select
from core.detectors.guide import Guide, GuideConfig, grid_stride, key, pyramid, teach
from core.detectors.pooled import PooledConfig, PooledDensity, pooled
from core.detectors.windows import nhwc
from core.flows.coupling import CouplingFlow
from core.flows.training import Rows, Training, held_out_images, maximise_likelihood
from core.messages import Part
from core.seeding import seeded

POOLED = "pooled"

_BATCH = 64


class PatchFlowConfig(Part):
    """`top` is the share of places whose mean is the image's score, in (0, 1]; `noise` of the training lies on tokens
    whose mean deviation is 1, and keeps the flow from whitening away the guide's sense of distance. `pooled_weight` is
    that of the pooled features' likelihood beside the places', both in units of their own spread on good images.

    Maps are the places smoothed by a Gaussian of deviation `near`, which outlines small defects, and `far_weight` times
    the same by one of deviation `far`, which fills what is spread out; in places.
    """

    guide: GuideConfig = GuideConfig()
    blocks: int = Field(2, ge=1)
    hidden: int = Field(32, ge=1)
    clamp: float = Field(0.3, gt=0)
    top: float = Field(0.01, gt=0, le=1)
    near: float = Field(0.7, ge=0)
    far: float = Field(5.0, ge=0)
    far_weight: float = Field(0.7, ge=0)
    training: Training = Training(steps=600, batch=2048, learning_rate=2e-3, noise=3.0, check_every=50)
    tokens_per_image: int = Field(340, ge=1)
    paintings: int = Field(2, ge=1)
    pooled: PooledConfig = PooledConfig()
    pooled_weight: float = Field(1.0, ge=0)


class PatchFlow(Detector):
    name = "patchflow"
    config: PatchFlowConfig

    def __init__(self, config: PatchFlowConfig, shape: FeatureShape) -> None:
        side = shape.size // grid_stride(shape)
        super().__init__(config, shape, (side, side))
        self.paintings = config.paintings
        with seeded(0):
            self.guide = Guide(config.guide, shape).to(memory_format=torch.channels_last)
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("centre", torch.zeros(config.guide.dimensions))
        self.register_buffer("spread", torch.ones(()))
        self.pooled = PooledDensity(config.pooled, 3 * sum(shape.channels))
        self.pooled_scale: Tensor
        self.pooled_centre: Tensor
        self.pooled_spread: Tensor
        self.register_buffer("pooled_scale", torch.zeros(()))
        self.register_buffer("pooled_centre", torch.zeros(()))
        self.register_buffer("pooled_spread", torch.ones(()))
        self.flow = CouplingFlow(
            config.guide.dimensions, blocks=config.blocks, hidden=config.hidden, clamp=config.clamp, seed=0
        )

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """`stride<s>` (B, C, H, W): every stride's features, those finer than the grid brought to it; `means` and
        `pooled` (B, ...) of the whole image.
        """
        levels = {name: nhwc(feature.half()) for name, feature in pyramid(features, self.shape).items()}
        return levels | {POOLED: pooled(features)}

    def surface(self, embedding: Embedding) -> Tensor:
        """Of the coarsest stride: finer ones tell the texture's phase rather than what it is."""
        return embedding[key(max(self.shape.strides))]

    def learn(self, lesson: Lesson, *, seed: int, progress: Progress) -> None:
        teach(self.guide, lesson, self.config.guide, seed=seed, progress=progress)
        self.guide.eval().requires_grad_(False)
        guided_NTD = self._guided(lesson.good)
        self.centre.copy_(guided_NTD.mean(dim=(0, 1)))
        self.spread.copy_(guided_NTD.std(dim=(0, 1)).mean())
        rows = self._sampled(self._standardised(guided_NTD), lesson.image, seed)
        maximise_likelihood(self.flow, rows, self.config.training, seed=seed, progress=progress)
        self._learn_pooled(lesson, seed, progress)

    def _learn_pooled(self, lesson: Lesson, seed: int, progress: Progress) -> None:
        """Its centre and spread are those on images that did not teach: few images leave much that none has shown."""
        x = lesson.good[POOLED]
        whole = self.pooled.cross_fitted(x, lesson.image, seed=seed, progress=progress)
        self.pooled.learn(x, lesson.image, seed=seed, progress=progress)
        with torch.no_grad():
            places = self._highest(self.nll(lesson.good))
        self.pooled_scale.copy_(self.config.pooled_weight * _lower_spread(places))
        self.pooled_centre.copy_(whole.median())
        self.pooled_spread.copy_(_lower_spread(whole))

    def recentre(self, embedding: Embedding) -> None:
        self.pooled.recentre(embedding[POOLED])

    def _sampled(self, tokens_NTD: Tensor, image: Tensor, seed: int) -> Rows:
        generator = torch.Generator().manual_seed(seed)
        places = tokens_NTD.shape[1]
        few = min(self.config.tokens_per_image, places)
        chosen = torch.randperm(places, generator=generator)[:few]
        held_out = held_out_images(image, 0.1, seed)
        return Rows(tokens_NTD[:, chosen].flatten(0, 1), held_out.repeat_interleave(few))

    def _guided(self, embedding: Embedding) -> Tensor:
        with torch.inference_mode():
            parts = [
                self.guide(select(embedding, rows)) for rows in torch.split(torch.arange(length(embedding)), _BATCH)
            ]
        return torch.cat(parts).flatten(2).transpose(1, 2).clone()

    def _standardised(self, tokens: Tensor) -> Tensor:
        # one number for all dimensions: the guide's distances keep their meaning
        return (tokens - self.centre) / self.spread

    def tokens(self, embedding: Embedding) -> Tensor:
        """(B, h * w, D), row by row of the grid."""
        return self._standardised(self.guide(embedding).flatten(2).transpose(1, 2))

    def image_scores(self, nll_BT: Tensor, embedding: Embedding) -> Tensor:
        """The mean of the most anomalous places, and the pooled term."""
        return self._highest(nll_BT) + self._whole(embedding[POOLED])

    def _whole(self, pooled_BP: Tensor) -> Tensor:
        # linear near the good ones and logarithmic beyond: far from what taught it, a flow's likelihood has no scale
        standard = (self.pooled(pooled_BP) - self.pooled_centre) / self.pooled_spread
        whole: Tensor = self.pooled_scale * torch.asinh(standard)
        return whole

    def _highest(self, nll_BT: Tensor) -> Tensor:
        most = max(1, round(self.config.top * nll_BT.shape[1]))
        return nll_BT.topk(most, dim=1)[0].mean(dim=1)

    def score_embedding(self, embedding: Embedding) -> Scores:
        nll_BT = self.nll(embedding)
        return Scores(self.image_scores(nll_BT, embedding), self._maps(nll_BT.view(-1, *self.grid)))

    def _maps(self, places_BHW: Tensor) -> Tensor:
        far = self.config.far_weight * smoothed(places_BHW, self.config.far)
        return smoothed(places_BHW, self.config.near) + far

    def score(self, features: Sequence[Tensor]) -> Scores:
        return self.score_embedding(pyramid(features, self.shape) | {POOLED: pooled(features)})


def _lower_spread(scores: Tensor) -> Tensor:
    """Median less lower quartile: what the skew of the upper half does not reach."""
    q1, median = torch.quantile(scores, torch.tensor([0.25, 0.5]))
    spread: Tensor = (median - q1).clamp_min(1e-9)
    return spread


def smoothed(maps_BHW: Tensor, deviation: float) -> Tensor:
    """Each map under a Gaussian of so many places; the border's values go on beyond it."""
    if deviation == 0:
        return maps_BHW
    reach = max(1, round(3 * deviation))
    offsets = torch.arange(-reach, reach + 1, device=maps_BHW.device, dtype=maps_BHW.dtype)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(maps_BHW.unsqueeze(1), (reach,) * 4, mode="replicate")
    columns = F.conv2d(padded, kernel[None, None, :, None])
    return F.conv2d(columns, kernel[None, None, None, :]).squeeze(1)
