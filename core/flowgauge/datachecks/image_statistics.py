"""One pass over a data set: of each image what the checks need, and not its pixels."""

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flowgauge.datachecks.outliers import Flags, apart
from flowgauge.domain.errors import DatasetError
from flowgauge.evaluation.datasets import Dataset, Entry, Sample, Unreadable, sift
from flowgauge.models.detector import Progress
from flowgauge.training.thresholds import Scores
from flowgauge.training.training_set import Embedder
from flowgauge.vision.augmentation import normalised
from flowgauge.vision.decoding import sharpness as focus
from flowgauge.vision.pictures import in_batches
from flowgauge.vision.preprocessing import Preprocessing
from flowgauge.vision.segmentation import segmented

SIDE = 64
"""Of thumbnails, in pixels: enough for colours of regions, 12 KiB of each image."""

GRID = 16
"""Of features: the grid of the default backbone's coarsest stride at 256 pixels. Finer ones take memory with
their square, and most of their places are interpolated."""
_BATCH = 16

_LONGEST = 512
# What must be gone of the edges' energy, as a logarithm: a lens that shifts so far is seen by eye.
_LOST = np.log(1.6)

Bytes = NDArray[np.uint8]


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
        return blurred(self.values("sharpness"), self.values("sharpness")[self.train])

    def test_entries(self, *, defective: bool) -> list[Entry]:
        return [look.entry for look in self.looks[self.trained :] if look.entry.defective is defective]

    def values(self, name: str) -> NDArray[np.float64]:
        """(N,) that number of each look."""
        return np.array([getattr(look, name) for look in self.looks], dtype=np.float64)


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """`Statistics.focus` of an image (H, W, 3) of half its size, and of 512 pixels at most: there the sensor's noise,
    which stays sharp in any blur, is averaged out, in images that `statistics` measures as they are too. Higher is
    sharper.
    """
    gray = Image.fromarray(pixels).convert("L")
    shrink = max(2.0, max(gray.size) / _LONGEST)
    size = (max(4, round(gray.width / shrink)), max(4, round(gray.height / shrink)))
    return focus(np.asarray(gray.resize(size, Image.Resampling.BOX), np.int16))


def blurred(sharp: Scores, usual: Scores) -> Flags:
    """(N,) which of `sharp` (N,) are far below what is `usual`."""
    return apart(sharp, usual, _LOST) & (sharp < np.median(usual))


def image_statistics(dataset: Dataset, embedder: Embedder, progress: Progress) -> ImageStatistics:
    """Raises `DatasetError` where no training image can be read."""
    preprocessing, size = embedder.preprocessing, embedder.preprocessing.size
    looks, unreadable, features = list[Look](), list[Unreadable](), list[tuple[Tensor, Tensor]]()
    total, gray_second_moment, trained = np.zeros((size, size, 3)), np.zeros((size, size)), 0
    for part in (dataset.train, dataset.test):
        for found in in_batches(sift(part), _BATCH, lambda item: item.picture if isinstance(item, Sample) else None):
            seen = preprocessing.seen
            samples = [replace(item, picture=seen(item.picture)) for item in found if isinstance(item, Sample)]
            unreadable += [item for item in found if isinstance(item, Unreadable)]
            if samples:
                crops_NSSC = preprocessing.crops([sample.picture for sample in samples])
                looks += [_look(sample, crop) for sample, crop in zip(samples, crops_NSSC, strict=True)]
                with torch.inference_mode():
                    levels = embedder.backbone(normalised(preprocessing, crops_NSSC))[-2:]
                    features.append((_patches(levels[0]), _patches(levels[-1])))
                if not trained:
                    total += crops_NSSC.sum(axis=0, dtype=np.float64)
                    gray_second_moment += (crops_NSSC.astype(np.float64).mean(axis=3) ** 2).sum(axis=0)
            progress("looking at images", len(looks) + len(unreadable), len(dataset.train) + len(dataset.test))
        # of the training images alone, which come first
        trained = trained or len(looks)
        if not trained:
            cause = unreadable[0].cause
            raise DatasetError(f"None of the training images in {dataset.root} can be read.", cause)
    fine, coarse = (torch.cat(parts) for parts in zip(*features, strict=True))
    mean = total / trained
    spread = np.sqrt(np.maximum(gray_second_moment / trained - mean.mean(axis=2) ** 2, 0))
    return ImageStatistics(
        looks=tuple(looks),
        unreadable=tuple(unreadable),
        fine=fine,
        coarse=coarse,
        summary=Summary(np.rint(mean).astype(np.uint8), spread.astype(np.float32)),
        trained=trained,
        preprocessing=preprocessing,
    )


def _look(sample: Sample, crop: Bytes) -> Look:
    picture = sample.picture
    return Look(
        entry=sample.entry,
        size=picture.size,
        digest=sha256(f"{picture.size}".encode() + picture.pixels.tobytes()).hexdigest(),
        brightness=picture.statistics.brightness,
        contrast=picture.statistics.contrast,
        sharpness=sharpness(picture.pixels),
        thumb=np.asarray(Image.fromarray(crop).resize((SIDE, SIDE), Image.Resampling.BOX)),
        mask=None if sample.mask is None else np.asarray(_shrunk(sample.mask) > 0),
        foreground=_shrunk(segmented(crop)) >= 128,
    )


def _shrunk(flags: Flags) -> Bytes:
    return np.asarray(Image.fromarray(flags.astype(np.uint8) * 255).resize((SIDE, SIDE), Image.Resampling.BOX))


def _patches(features_BCHW: Tensor) -> Tensor:
    return F.normalize(F.adaptive_avg_pool2d(features_BCHW, GRID), dim=1).half().cpu().clone()
