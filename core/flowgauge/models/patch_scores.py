"""Detectors that look at each patch of one grid by the features of all levels there."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Detector, Embedding, FeatureShape, length

PATCHES = "patches"


class PatchDetector(Detector):
    """On the grid of the level next to the finest."""

    def __init__(self, config: FrozenModel, shape: FeatureShape) -> None:
        side = shape.sides[shape.grid]
        super().__init__(config, shape, (side, side))

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """`patches` (B, sum C, h, w)."""
        return {PATCHES: on_one_grid(features, self.shape).half()}

    def patch_features(self, embedding: Embedding) -> Tensor:
        return embedding[PATCHES]


def patches_of(embedding: Embedding, rows: Tensor | None = None) -> Tensor:
    """(n, T, C) of those rows, or of all."""
    rows = torch.arange(length(embedding)) if rows is None else rows
    return embedding[PATCHES][rows].float().flatten(2).transpose(1, 2)


def highest(value_BT: Tensor, share: float) -> Tensor:
    """(B,): the mean of the highest `share` of an image's patches, of one at least."""
    most = max(1, round(share * value_BT.shape[1]))
    return value_BT.topk(most, dim=1)[0].mean(dim=1)


def on_one_grid(features: Sequence[Tensor], shape: FeatureShape) -> Tensor:
    """(B, sum C, h, w) on the grid of the level next to the finest: finer features by their means, coarser ones
    interpolated; then each patch's mean over its 3 x 3 neighbourhood, for a defect is rarely one patch alone
    (PatchCore, arXiv 2106.08265 s.3.1). Beyond the border lie zeros, as there: parts end near it, and what is cut off
    differs so much from image to image that unweakened it outshouts defects.
    """
    side = shape.sides[shape.grid]
    levels = [
        F.adaptive_avg_pool2d(feature, side)
        if feature.shape[-1] >= side
        else F.interpolate(feature, size=side, mode="bilinear", align_corners=False)
        for feature in features
    ]
    return F.avg_pool2d(torch.cat(levels, dim=1), 3, stride=1, padding=1)
