"""All strides' features at the places of one grid."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.detectors.base import FeatureShape
from core.detectors.guide import grid_stride


def on_one_grid(features: Sequence[Tensor], shape: FeatureShape) -> Tensor:
    """(B, sum C, h, w) on the grid of the stride next to the finest: finer features by their means, coarser ones
    interpolated; then each place's mean over its 3 x 3 neighbourhood, for a defect is rarely one place alone
    (PatchCore, arXiv 2106.08265 s.3.1). Beyond the border lie zeros, as there: parts end near it, and what is cut off
    differs so much from image to image that unweakened it outshouts defects.
    """
    side = shape.size // grid_stride(shape)
    levels = [
        F.adaptive_avg_pool2d(feature, side)
        if feature.shape[-1] >= side
        else F.interpolate(feature, size=side, mode="bilinear", align_corners=False)
        for feature in features
    ]
    return F.avg_pool2d(torch.cat(levels, dim=1), 3, stride=1, padding=1)
