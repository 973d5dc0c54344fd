"""anomalib's models with features handed to them where they would run a backbone of their own."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from core.detectors.base import FeatureShape
from core.detectors.guide import key

Features = dict[str, Tensor]
"""(B, C_s, H_s, W_s) per stride s, by `key(s)`, in single precision."""


class Stages(nn.Module):
    """Layers as wide and as coarse as the backbone's. Models ask for these sizes once, and never run them again."""

    def __init__(self, shape: FeatureShape, strides: Sequence[int]) -> None:
        super().__init__()
        for stride in strides:
            self.add_module(key(stride), nn.Conv2d(3, channels_of(shape, stride), 1, stride))

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        return [layer(images_BCHW) for layer in self.children()]


class Handed(nn.Module):
    """Features of images of `size` pixels a side -> what `model` answers to the images."""

    def __init__(self, model: Any, size: int) -> None:
        super().__init__()
        model.feature_extractor = _Extracted()
        self.model = model
        self._size = size

    def forward(self, features: Features) -> Any:
        extracted: Any = self.model.feature_extractor
        first = next(iter(features.values()))
        extracted.features = features
        try:
            return self.model(first.new_empty(len(first), 3, self._size, self._size))
        finally:
            del extracted.features


class _Extracted(nn.Module):
    """Where a model has its backbone: gives the features that were put here for the batch."""

    features: Features

    def forward(self, images_BCHW: Tensor) -> Features:
        return self.features


def channels_of(shape: FeatureShape, stride: int) -> int:
    return shape.channels[shape.strides.index(stride)]
