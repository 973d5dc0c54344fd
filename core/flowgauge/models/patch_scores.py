"""What the detectors of patches share: features on one grid, and how the scores of patches become the image's."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Detector, Embedding, FeatureShape, length

PATCHES = "patches"
MEANS = "means"


class PatchDetector(Detector):
    """Looks at each patch by the features of all levels there, on the grid of the level next to the finest."""

    def __init__(self, config: FrozenModel, shape: FeatureShape) -> None:
        side = shape.sides[shape.grid]
        super().__init__(config, shape, (side, side))

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """`patches` (B, sum C, h, w) in half precision."""
        return {PATCHES: on_one_grid(features, self.shape).half()}

    def patch_features(self, embedding: Embedding) -> Tensor:
        return embedding[PATCHES]


def patches_of(embedding: Embedding, rows: Tensor | None = None) -> Tensor:
    """(n, T, C) of those rows, or of all."""
    rows = torch.arange(length(embedding)) if rows is None else rows
    return embedding[PATCHES][rows].float().flatten(2).transpose(1, 2)


def to_grid(x_BCHW: Tensor, side: int) -> Tensor:
    """(B, C, side, side): finer maps by the means over each cell, coarser ones interpolated."""
    if x_BCHW.shape[-1] == side:
        return x_BCHW
    if x_BCHW.shape[-1] > side:
        return F.adaptive_avg_pool2d(x_BCHW, side)
    return F.interpolate(x_BCHW, size=side, mode="bilinear", align_corners=False)


def repeated(x_BTD: Tensor, side: int) -> Tensor:
    """(B, side * side, D): rows (B, T, D) of a square grid, each cell as often as a finer grid has cells within it."""
    own = math.isqrt(x_BTD.shape[1])
    if own == side:
        return x_BTD
    maps_BDHW = x_BTD.transpose(1, 2).reshape(len(x_BTD), -1, own, own)
    return F.interpolate(maps_BDHW, size=side, mode="nearest").flatten(2).transpose(1, 2)


def on_one_grid(features: Sequence[Tensor], shape: FeatureShape) -> Tensor:
    """(B, sum C, h, w): all levels on the grid next to the finest, each patch the mean over its 3 x 3 neighbourhood."""
    levels = [to_grid(feature, shape.sides[shape.grid]) for feature in features]
    # A defect is rarely one patch alone (PatchCore, arXiv 2106.08265 s.3.1). Beyond the border lie zeros, as there:
    # parts end near it, and what is cut off differs so much between images that unweakened it outshouts defects.
    return F.avg_pool2d(torch.cat(levels, dim=1), 3, stride=1, padding=1)


def pyramid(features: Sequence[Tensor], shape: FeatureShape) -> Embedding:
    """Features by level. Those finer than the grid come as the mean and the maximum over each of its cells,
    (B, 2 C, h, w). `means` (B, sum C): of all of these channels over the image.
    """
    grid, levels = shape.strides[shape.grid], {}
    for name, stride, feature in zip(shape.keys, shape.strides, features, strict=True):
        levels[name] = feature
        if stride < grid:
            # the mean alone would dilute a defect that is smaller than a cell of the grid
            factor = grid // stride
            levels[name] = torch.cat([F.avg_pool2d(feature, factor), F.max_pool2d(feature, factor)], dim=1)
    return levels | {MEANS: torch.cat([level.float().mean(dim=(2, 3)) for level in levels.values()], dim=1)}


def pyramid_channels(shape: FeatureShape) -> list[int]:
    """How many channels each level of `pyramid` has."""
    grid = shape.strides[shape.grid]
    return [
        channels * (2 if stride < grid else 1) for channels, stride in zip(shape.channels, shape.strides, strict=True)
    ]


def nhwc(tensor: Tensor) -> Tensor:
    """Channels last in memory, where there are channels: what convolutions on CPUs are quickest with."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def highest(value_BT: Tensor, share: float) -> Tensor:
    """(B,): the mean of the highest `share` of an image's patches, in (0, 1], of one patch at least."""
    most = max(1, round(share * value_BT.shape[1]))
    return value_BT.topk(most, dim=1)[0].mean(dim=1)


def smoothed(maps_BHW: Tensor, deviation: float) -> Tensor:
    """Each map under a Gaussian of so many patches; the border's values go on beyond it."""
    if deviation == 0:
        return maps_BHW
    # beyond three deviations lies 0.3 % of a Gaussian
    reach = max(1, round(3 * deviation))
    offsets = torch.arange(-reach, reach + 1, device=maps_BHW.device, dtype=maps_BHW.dtype)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(maps_BHW.unsqueeze(1), (reach,) * 4, mode="replicate")
    columns = F.conv2d(padded, kernel[None, None, :, None])
    return F.conv2d(columns, kernel[None, None, None, :]).squeeze(1)


def lower_spread(scores: Tensor) -> Tensor:
    """Median less lower quartile, which neither the skew of the upper half reaches nor a minority of defects."""
    q1, median = torch.quantile(scores, torch.tensor([0.25, 0.5]))
    spread: Tensor = (median - q1).clamp_min(1e-9)
    return spread
