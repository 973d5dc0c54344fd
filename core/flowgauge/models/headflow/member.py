"""A member of `headflow`: a head and a density of pooled features that were trained together, and their scales."""

import torch
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Embedding, FeatureShape, Progress, TrainingSet, length, select
from flowgauge.models.headflow.head import Head, HeadConfig, fit_head
from flowgauge.models.headflow.pooled import PooledConfig, PooledDensity

POOLED = "pooled"

_BATCH = 64


class MemberConfig(FrozenModel):
    head: HeadConfig = HeadConfig()
    pooled: PooledConfig = PooledConfig()


class Member(nn.Module):
    """What it says is measured on images that it has not seen, so that several members speak on one scale."""

    centre: Tensor
    spread: Tensor
    whole_centre: Tensor
    whole_spread: Tensor

    def __init__(self, config: MemberConfig, shape: FeatureShape) -> None:
        super().__init__()
        self._config = config
        self.head = Head(config.head, shape).to(memory_format=torch.channels_last)
        self.pooled = PooledDensity(config.pooled, 3 * sum(shape.channels))
        self.register_buffer("centre", torch.zeros(config.head.dimensions))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("whole_centre", torch.zeros(()))
        self.register_buffer("whole_spread", torch.ones(()))

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        """The head, from where its parameters stand, and the pooled density."""
        fit_head(self.head, training_set, self._config.head, seed=seed, progress=progress)
        self.head.eval().requires_grad_(False)
        self.pooled.learn(training_set.good[POOLED], training_set.image, seed=seed, progress=progress)

    def measure(self, good: Embedding, whole_N: Tensor) -> Tensor:
        """Take its scales from good images and their pooled negative log-likelihoods. Returns the images' tokens."""
        self.whole_centre.copy_(whole_N.median())
        self.whole_spread.copy_(lower_spread(whole_N))
        return self.rescale(good)

    def rescale(self, good: Embedding) -> Tensor:
        """Take the tokens' scale from good images, and return their tokens (N, h * w, D)."""
        embedded_NTD = self._embedded(good)
        self.centre.copy_(embedded_NTD.mean(dim=(0, 1)))
        # one number for all dimensions: the head's distances keep their meaning
        self.spread.copy_(embedded_NTD.std(dim=(0, 1)).mean())
        return self._standardised(embedded_NTD)

    def _embedded(self, embedding: Embedding) -> Tensor:
        with torch.inference_mode():
            rows = torch.split(torch.arange(length(embedding)), _BATCH)
            return torch.cat([self._patches(select(embedding, some)) for some in rows]).clone()

    def _patches(self, embedding: Embedding) -> Tensor:
        patches: Tensor = self.head(embedding).flatten(2).transpose(1, 2)
        return patches

    def _standardised(self, embedded: Tensor) -> Tensor:
        return (embedded - self.centre) / self.spread

    def tokens(self, embedding: Embedding) -> Tensor:
        """(B, h * w, D), row by row of the grid."""
        return self._standardised(self._patches(embedding))

    def whole(self, embedding: Embedding) -> Tensor:
        """(B,): how unlikely each image's pooled features are, 0 for a common one and 1 a spread above it."""
        # linear near the good ones and logarithmic beyond: far from what trained it, a flow's likelihood has no scale
        standard = (self.pooled(embedding[POOLED]) - self.whole_centre) / self.whole_spread
        return torch.asinh(standard)


def lower_spread(scores: Tensor) -> Tensor:
    """Median less lower quartile: what the skew of the upper half does not reach."""
    q1, median = torch.quantile(scores, torch.tensor([0.25, 0.5]))
    spread: Tensor = (median - q1).clamp_min(1e-9)
    return spread
