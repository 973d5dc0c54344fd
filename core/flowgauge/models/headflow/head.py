"""The head of `headflow`: which directions of feature space matter for defects.

Good surfaces vary in most of the backbone's directions, and a density over all of them spends itself on that. The head
is a small network, trained on good images and on copies with synthetic anomalies before the flow is fitted: it maps
the features around each patch to a few numbers that lie near the origin for good patches and away from it for painted
ones (the hypersphere classifier of Ruff et al., arXiv 2006.00339). The flow is fitted there, on good patches alone.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.seeding import seeded
from flowgauge.models.detector import Embedding, FeatureShape, Progress, TrainingSet, length
from flowgauge.models.windows import Windows

MEANS = "means"


class HeadConfig(FrozenModel):
    """`dimensions` D of the embedded tokens; `hidden` and `inner` are the widths before and after the 3x3 layer.

    Training sets are taken in square windows of the share `window` of the grid's side, which is quicker than whole
    images.
    """

    hidden: int = Field(64, ge=1)
    inner: int = Field(48, ge=1)
    dimensions: int = Field(16, ge=2)
    window: float = Field(0.75, gt=0, le=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    epochs: int = Field(4, ge=1)
    batch: int = Field(16, ge=1)
    learning_rate: float = Field(2e-3, gt=0)

    def side(self, patches: int) -> int:
        """Of a window, on a grid of so many patches to a side."""
        return round(self.window * patches)


class Standardise(nn.Module):
    """(B, C, H, W), less the mean and over the deviation that each channel had when `measure` was called."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))

    def measure(self, features_BCHW: Tensor) -> None:
        features = features_BCHW.float()
        self.mean.copy_(features.mean(dim=(0, 2, 3))[:, None, None])
        self.deviation.copy_(features.std(dim=(0, 2, 3)).clamp_min(1e-6)[:, None, None])

    def forward(self, features_BCHW: Tensor) -> Tensor:
        standard: Tensor = (features_BCHW.float() - self.mean) / self.deviation
        return standard


class Head(nn.Module):
    """Levels of features -> embedded tokens (B, D, h, w) on the grid of the level next to the finest."""

    def __init__(self, config: HeadConfig, shape: FeatureShape) -> None:
        super().__init__()
        self.config = config
        self.grid_stride = shape.strides[shape.grid]
        self.keys = shape.keys
        widths = [
            channels * (2 if stride < self.grid_stride else 1)
            for channels, stride in zip(shape.channels, shape.strides, strict=True)
        ]
        self.standardise = nn.ModuleDict({name: Standardise(w) for name, w in zip(self.keys, widths, strict=True)})
        self.enter = nn.ModuleDict({n: nn.Conv2d(w, config.hidden, 1) for n, w in zip(self.keys, widths, strict=True)})
        self.context = nn.Linear(sum(widths), config.hidden, bias=False)
        self.neighbours = nn.Conv2d(config.hidden, config.inner, 3, padding=1)
        self.leave = nn.Conv2d(config.inner, config.dimensions, 1)
        self.dropout = nn.Dropout2d(config.dropout)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.offset = nn.Parameter(torch.tensor(4.0))

    def measure(self, embedding: Embedding) -> None:
        """Take the mean and deviation of every channel, which standardise the inputs from then on."""
        for name, standardise in self.standardise.items():
            cast(Standardise, standardise).measure(embedding[name])

    def forward(self, embedding: Embedding) -> Tensor:
        inputs = {name: standardise(embedding[name]) for name, standardise in self.standardise.items()}
        together = self.context(self._standard_means(embedding[MEANS]))[:, :, None, None]
        grid = inputs[self.keys[0]].shape[-2:]
        for name, layer in self.enter.items():
            together = together + _on(grid, layer(self.dropout(inputs[name])))
        tokens: Tensor = self.leave(F.relu(self.neighbours(F.relu(together))))
        return tokens

    def _standard_means(self, means_BC: Tensor) -> Tensor:
        scales = [cast(Standardise, standardise) for standardise in self.standardise.values()]
        centre = torch.cat([scale.mean.flatten() for scale in scales])
        deviation = torch.cat([scale.deviation.flatten() for scale in scales])
        return (means_BC.float() - centre) / deviation

    def logits(self, embedding: Embedding) -> Tensor:
        """(B, h, w): how painted each patch looks; a pseudo-Huber distance from the origin."""
        distance = (1 + self(embedding).square().sum(dim=1)).sqrt() - 1
        logits: Tensor = self.scale * distance - self.offset
        return logits


def _on(grid: torch.Size, x_BCHW: Tensor) -> Tensor:
    return x_BCHW if x_BCHW.shape[-2:] == grid else F.interpolate(x_BCHW, size=grid, mode="bilinear")


def pyramid(features: Sequence[Tensor], shape: FeatureShape) -> Embedding:
    """Features by level; those finer than the grid are brought to it by mean and by maximum, (B, 2 C, h, w). And
    `means` (B, sum C): of all of their channels over the image.
    """
    grid = shape.strides[shape.grid]
    levels = {
        name: _pooled(feature, grid // stride) if stride < grid else feature
        for name, stride, feature in zip(shape.keys, shape.strides, features, strict=True)
    }
    return levels | {MEANS: torch.cat([level.float().mean(dim=(2, 3)) for level in levels.values()], dim=1)}


def _pooled(feature: Tensor, factor: int) -> Tensor:
    return torch.cat([F.avg_pool2d(feature, factor), F.max_pool2d(feature, factor)], dim=1)


def fit_head(head: Head, training_set: TrainingSet, config: HeadConfig, *, seed: int, progress: Progress) -> None:
    """Tell anomalous patches from all others, in place. `training_set` holds good views and copies with synthetic
    anomalies with their masks."""
    head.measure(training_set.good)
    rows = length(training_set.good) + length(training_set.synthetic)
    size = min(config.batch, rows)
    batches = config.epochs * (rows // size)
    optimiser = torch.optim.AdamW(head.parameters(), config.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=batches, pct_start=0.1)
    windows = Windows(training_set, config.side(training_set.mask.shape[1]), seed)
    with seeded(seed):
        orders = torch.cat([torch.randperm(rows)[: rows // size * size] for _ in range(config.epochs)])
        for step, batch in enumerate(torch.split(orders, size), start=1):
            optimiser.zero_grad(set_to_none=True)
            _loss(head, *windows.of(batch)).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            progress("training the head", step, batches)


_SYNTHETIC_SHARE = 0.08
"""From this share of its cell on, a patch counts as painted; one that is touched less trains nothing."""
_MOST_SYNTHETIC = 12
"""The anomalous patches of one window weigh at most as much as this many, so that small defects count."""
_SYNTHETIC_WEIGHT = 32.0
_PEAK_WEIGHT = 0.3
_PEAK_PATCHES = 5


def _loss(head: Head, windows: Embedding, share_BHW: Tensor) -> Tensor:
    """Cross-entropy of the patches, painted ones weighed up, and of each window's highest patches."""
    logits = head.logits(windows)
    target = (share_BHW >= _SYNTHETIC_SHARE).float()
    clean = (share_BHW == 0).float()
    cluster = target.sum(dim=(1, 2), keepdim=True).clamp_min(_MOST_SYNTHETIC)
    weight = clean + _SYNTHETIC_WEIGHT * target * _MOST_SYNTHETIC / cluster
    patches = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum() / clean.sum()
    is_synthetic = target.amax(dim=(1, 2))
    peaks = logits.flatten(1).topk(_PEAK_PATCHES, dim=1)[0].mean(dim=1)
    return patches + _PEAK_WEIGHT * F.binary_cross_entropy_with_logits(peaks, is_synthetic)


class HeadObjective(nn.Module):
    """The loss of training sets as a function of the head's parameters, for `torch.func`."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, windows: Embedding, share_BHW: Tensor) -> Tensor:
        return _loss(self.head, windows, share_BHW)
