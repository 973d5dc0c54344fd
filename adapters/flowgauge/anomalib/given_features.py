"""anomalib's models with features handed to them where they would run a backbone of their own."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from flowgauge.models.detector import FeatureShape

Features = dict[str, Tensor]
"""(B, C, S, S) per level, by `FeatureShape.keys`, in single precision."""


class Stages(nn.Module):
    """Layers as wide and as coarse as the backbone's. Models ask for these sizes once, and never run them again."""

    def __init__(self, shape: FeatureShape, levels: Sequence[int]) -> None:
        super().__init__()
        for level in levels:
            self.add_module(shape.keys[level], nn.Conv2d(3, shape.channels[level], 1, shape.strides[level]))

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        return [layer(images_BCHW) for layer in self.children()]


class GivenFeatures(nn.Module):
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
