"""One pass over a data set: of each image what the checks need, and not its pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flowgauge.datachecks.focus import blurred, sharpness
from flowgauge.domain.errors import DatasetError
from flowgauge.evaluation.datasets import Dataset, Entry, Sample, Unreadable, sift
from flowgauge.models.detector import Progress
from flowgauge.training.training_set import Embedder
from flowgauge.vision.pictures import in_batches
from flowgauge.vision.preprocessing import Preprocessing
from flowgauge.vision.segmentation import segmented

SIDE = 64
"""Of thumbnails, in pixels: enough for colours of regions, 12 KiB of each image."""

GRID = 16
_BATCH = 16

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Look:
    """`digest` is of the pixels, whatever the file's format; `thumb` (SIDE, SIDE, 3); `mask` and `foreground`
    (SIDE, SIDE): where the defect is (None: nobody said) and where an object stands out from the border."""

    entry: Entry
    size: tuple[int, int]
    digest: str
    brightness: float
    contrast: float
    sharpness: float
    thumb: Bytes
    mask: Flags | None
    foreground: Flags


@dataclass(frozen=True, eq=False)
class Summary:
    """Of the training images: `mean` (S, S, 3) and `spread` (S, S), the standard deviation in levels of 255."""

    mean: Bytes
    spread: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """`fine` and `coarse` (N, C, GRID, GRID) half floats: features of the backbone's last two strides, of length 1 at
    each place; rows are in the order of `looks`, training images first. `preprocessing`: through which they were
    seen."""

    looks: tuple[Look, ...]
    unreadable: tuple[Unreadable, ...]
    fine: Tensor
    coarse: Tensor
    summary: Summary
    trained: int
    preprocessing: Preprocessing

    @property
    def names(self) -> list[str]:
        return [look.entry.name for look in self.looks]

    @cached_property
    def train(self) -> Flags:
        return np.arange(len(self.looks)) < self.trained

    @cached_property
    def good(self) -> Flags:
        return np.array([not look.entry.defective for look in self.looks])

    @cached_property
    def soft(self) -> Flags:
        """Which looks are out of focus."""
        return blurred(self.values("sharpness"), self.values("sharpness")[self.train])

    def values(self, name: str) -> NDArray[np.float64]:
        """(N,) that number of each look."""
        return np.array([getattr(look, name) for look in self.looks], dtype=np.float64)


def image_statistics(dataset: Dataset, embedder: Embedder, progress: Progress) -> ImageStatistics:
    """Raises `DatasetError` where no training image can be read."""
    surveyor = _Surveyor(embedder, len(dataset.train) + len(dataset.test), progress)
    fitted_on = _Painter(embedder.preprocessing.size)
    for batch in _batches(dataset.train):
        fitted_on.add(surveyor.look_at(batch))
    trained = len(surveyor.looks)
    if not trained:
        cause = surveyor.unreadable[0].cause
        raise DatasetError(f"None of the training images in {dataset.root} can be read.", cause)
    for batch in _batches(dataset.test):
        surveyor.look_at(batch)
    fine, coarse = (torch.cat(parts) for parts in zip(*surveyor.features, strict=True))
    return ImageStatistics(
        tuple(surveyor.looks),
        tuple(surveyor.unreadable),
        fine,
        coarse,
        fitted_on.summary(),
        trained,
        embedder.preprocessing,
    )


class _Surveyor:
    def __init__(self, embedder: Embedder, total: int, progress: Progress) -> None:
        self.looks: list[Look] = []
        self.unreadable: list[Unreadable] = []
        self.features: list[tuple[Tensor, Tensor]] = []
        self._embedder, self._total, self._progress = embedder, total, progress

    def look_at(self, found: Sequence[Sample | Unreadable]) -> Bytes:
        """The squares (N, size, size, 3) of those that can be read."""
        seen = self._embedder.preprocessing.seen
        samples = [replace(item, picture=seen(item.picture)) for item in found if isinstance(item, Sample)]
        self.unreadable += [item for item in found if isinstance(item, Unreadable)]
        size = self._embedder.preprocessing.size
        crops = np.zeros((0, size, size, 3), np.uint8)
        if samples:
            crops = self._embedder.preprocessing.crops([sample.picture for sample in samples])
            self.looks += [_look(sample, square) for sample, square in zip(samples, crops, strict=True)]
            self.features.append(_features(self._embedder, crops))
        self._progress("looking at images", len(self.looks) + len(self.unreadable), self._total)
        return crops


def _batches(entries: Sequence[Entry]) -> Iterator[list[Sample | Unreadable]]:
    return in_batches(sift(entries), _BATCH, lambda item: item.picture if isinstance(item, Sample) else None)


def _look(sample: Sample, square: Bytes) -> Look:
    seen = sample.picture.statistics
    return Look(
        entry=sample.entry,
        size=sample.picture.size,
        digest=sha256(f"{sample.picture.size}".encode() + sample.picture.pixels.tobytes()).hexdigest(),
        brightness=seen.brightness,
        contrast=seen.contrast,
        sharpness=sharpness(sample.picture.pixels),
        thumb=np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BOX)),
        mask=None if sample.mask is None else _touched(sample.mask),
        foreground=_shrunk(segmented(square)) >= 128,
    )


def _shrunk(flags: Flags) -> Bytes:
    return np.asarray(Image.fromarray(flags.astype(np.uint8) * 255).resize((SIDE, SIDE), Image.Resampling.BOX))


def _touched(mask: Flags) -> Flags:
    return np.asarray(_shrunk(mask) > 0)


def _features(embedder: Embedder, crops: Bytes) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        levels = embedder.backbone(embedder.preprocessing.normalised(crops))[-2:]
        return _patches(levels[0]), _patches(levels[-1])


def _patches(features_BCHW: Tensor) -> Tensor:
    return F.normalize(F.adaptive_avg_pool2d(features_BCHW, GRID), dim=1).half().cpu().clone()


class _Painter:
    """Mean and spread of squares that are not kept."""

    def __init__(self, size: int) -> None:
        self._count = 0
        self._sum = np.zeros((size, size, 3))
        self._crops = np.zeros((size, size))

    def add(self, crops_NSSC: Bytes) -> None:
        self._count += len(crops_NSSC)
        self._sum += crops_NSSC.sum(axis=0, dtype=np.float64)
        self._crops += (crops_NSSC.astype(np.float64).mean(axis=3) ** 2).sum(axis=0)

    def summary(self) -> Summary:
        mean = self._sum / max(1, self._count)
        spread = np.sqrt(np.maximum(self._crops / max(1, self._count) - mean.mean(axis=2) ** 2, 0))
        return Summary(np.rint(mean).astype(np.uint8), spread.astype(np.float32))
