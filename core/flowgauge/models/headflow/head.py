"""The head of `headflow`: which directions of feature space matter for defects.

Good surfaces vary in most of the backbone's directions, and a density over all of them spends itself on that. The head
is a small network, trained on good images and on copies with synthetic anomalies before the flow is fitted: it maps
the features around each patch to a few numbers that lie near the origin for good patches and away from it for anomalous
ones (the hypersphere classifier of Ruff et al., arXiv 2006.00339, fully convolutional as in FCDD, 2007.01760). The flow
is fitted there, on good patches alone.
"""

from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.seeding import seeded
from flowgauge.models.detector import Embedding, FeatureShape, Progress, TrainingSet, length
from flowgauge.models.flows.training import one_cycle
from flowgauge.models.patch_scores import MEANS, pyramid_channels, to_grid
from flowgauge.models.windows import SYNTHETIC_SHARE, Windows


class HeadConfig(FrozenModel):
    hidden: int = Field(64, ge=1, description="channels before the 3 x 3 layer")
    inner: int = Field(48, ge=1, description="channels after it")
    dimensions: int = Field(16, ge=2, description="of the embedded tokens")
    window: float = Field(0.75, gt=0, le=1, description="share of the grid's side that training crops take, for speed")
    dropout: float = Field(0.1, ge=0, lt=1, description="of whole channels of the features")
    epochs: int = Field(4, ge=1, description="passes over the training set")
    batch: int = Field(16, ge=1, description="crops of a step")
    learning_rate: float = Field(2e-3, gt=0, description="the highest of the cycle")

    def side(self, patches: int) -> int:
        """Of a window, on a grid of so many patches to a side."""
        return round(self.window * patches)


class Standardise(nn.Module):
    """(B, C, H, W), less the mean and over the deviation that each channel had when `measure` was called."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(channels, 1, 1))
        self.deviation = nn.Buffer(torch.ones(channels, 1, 1))

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
        self.keys = shape.keys
        widths = pyramid_channels(shape)
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
        scales = {name: cast(Standardise, standardise) for name, standardise in self.standardise.items()}
        inputs = {name: scale(embedding[name]) for name, scale in scales.items()}
        centre = torch.cat([scale.mean.flatten() for scale in scales.values()])
        deviation = torch.cat([scale.deviation.flatten() for scale in scales.values()])
        # which patches are odd depends on what the image as a whole looks like
        together = self.context((embedding[MEANS].float() - centre) / deviation)[:, :, None, None]
        side = inputs[self.keys[0]].shape[-1]
        for name, layer in self.enter.items():
            together = together + to_grid(layer(self.dropout(inputs[name])), side)
        tokens: Tensor = self.leave(F.relu(self.neighbours(F.relu(together))))
        return tokens

    def logits(self, embedding: Embedding) -> Tensor:
        """(B, h, w): how anomalous each patch looks, higher is more so."""
        # pseudo-Huber distance from the origin, sqrt(1 + abs(x)^2) - 1 (FCDD eq. 3), on a learned scale
        distance = (1 + self(embedding).square().sum(dim=1)).sqrt() - 1
        logits: Tensor = self.scale * distance - self.offset
        return logits


# Weights of the loss: an anomalous patch counts as much as 32 good ones, but all of a window at most as 12 such
# patches, so that small defects count beside large ones. With less weight the many good patches decide; with more, the
# head calls good texture anomalous.
_SYNTHETIC_WEIGHT = 32.0
_MOST_SYNTHETIC = 12
# The window's highest patches decide whether the image alarms: their cross-entropy pulls down the tail of good windows.
# With more weight it outshouts the patches; over more patches than 5, a small defect's peak is averaged away.
_PEAK_WEIGHT = 0.3
_PEAK_PATCHES = 5


class HeadObjective(nn.Module):
    """The loss of windows: cross-entropy of patches, anomalous ones weighed up, and of each window's highest."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, windows: Embedding, share_BHW: Tensor) -> Tensor:
        logits = self.head.logits(windows)
        # patches that an anomaly only touches are in neither set
        target = (share_BHW >= SYNTHETIC_SHARE).float()
        clean = (share_BHW == 0).float()
        cluster = target.sum(dim=(1, 2), keepdim=True).clamp_min(_MOST_SYNTHETIC)
        weight = clean + _SYNTHETIC_WEIGHT * target * _MOST_SYNTHETIC / cluster
        patches = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum() / clean.sum()
        is_synthetic = target.amax(dim=(1, 2))
        peaks = logits.flatten(1).topk(_PEAK_PATCHES, dim=1)[0].mean(dim=1)
        return patches + _PEAK_WEIGHT * F.binary_cross_entropy_with_logits(peaks, is_synthetic)


def fit_head(head: Head, training_set: TrainingSet, config: HeadConfig, *, seed: int, progress: Progress) -> None:
    """Train the head, in place, to separate anomalous patches from all others: on good views, and on copies with
    synthetic anomalies and their masks. Deterministic for a seed on one machine.
    """
    head.measure(training_set.good)
    rows = length(training_set.good) + length(training_set.synthetic)
    size = min(config.batch, rows)
    batches = config.epochs * (rows // size)
    descend = one_cycle(head, config.learning_rate, 1e-2, batches, rising=0.1)
    windows = Windows(training_set, config.side(training_set.mask.shape[1]), seed)
    objective = HeadObjective(head)
    with seeded(seed):
        orders = torch.cat([torch.randperm(rows)[: rows // size * size] for _ in range(config.epochs)])
        for step, batch in enumerate(torch.split(orders, size), start=1):
            descend(objective(*windows.of(batch)))
            progress("training the head", step, batches)
