"""From a picture to the gauge's square input, and from the gauge's map back to the whole picture.

Part of the gauge and stored with it. Every aspect rule is one box of the original image, which is resampled to the
square: `squash` takes the whole image, `letterbox` a square around it, `centre` a square around the object in it, as
large as the object. `masked-crop` takes a square around the object that has the same size for all images, and blackens
what is not the object: it keeps scale and forgets place and background (Hönel and Nordqvist, From Lab to Factory, s.4).

Boxes count in pixels of the whole image. The picture itself may be reduced, to no less than twice the square's
resolution: `Preprocessing.reduction` is that rule.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import ceil
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from scipy import ndimage

from flowgauge.domain.choices import Aspect
from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import FrozenModel, Statistics
from flowgauge.vision.decoding import Picture, SixteenBit, blackened, coarsest, decode
from flowgauge.vision.pictures import Pictures

Box = tuple[float, float, float, float]

LARGEST = 2048
"""The largest side of the square input in pixels: with a larger one, a batch's first feature maps take gigabytes."""
# share of the window that is kept around the object: less, and what is wrong with its edge is cut off; more, and the
# ground shows
_RIM = 0.01
# Pixels of a reduced picture for each pixel of the square, at least. With fewer, what two steps of averaging leave out
# shows in the square, where one step would have kept it; with more, large images take longer to decode.
_OVERSAMPLED = 2
# of 255, of what `masked-crop` shows of an object: it stays above 0 in any light that detectors are trained with
DARKEST = 8


@dataclass(frozen=True, eq=False)
class Crop:
    """What is kept of a picture, however large the camera: the square input (size, size, 3), the statistics of the
    whole picture, and why a person should look at it.
    """

    pixels: NDArray[np.uint8]
    statistics: Statistics
    unclear_reasons: tuple[str, ...] = ()


class Preprocessing(FrozenModel):
    size: int = Field(256, ge=64, le=LARGEST, multiple_of=32, description="side of the square input in pixels")
    aspect: Aspect = Aspect.SQUASH
    margin: float = Field(0.1, ge=0, le=1, description="share of the object's longer side that is left around it")
    window: int | None = Field(
        None, ge=1, description="side of `masked-crop`'s square in pixels of the original; None: to be measured"
    )
    mean: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="per channel, of values in [0, 1]")
    std: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="per channel, of values in [0, 1]")
    sixteen_bit: SixteenBit | None = Field(
        None, description="how 16-bit files become 8-bit; None: over their full range, until images were measured"
    )

    def reduction(self, size: tuple[int, int]) -> int:
        """By how much an image of that (width, height) may be reduced: as far as the box keeps twice the resolution of
        the square, and the image what statistics and heatmaps need. Not at all for `centre`, and for `masked-crop`
        before its window is measured: how large objects are is not known before the image is decoded.
        """
        match self.aspect:
            case Aspect.SQUASH:
                side = min(size)
            case Aspect.LETTERBOX:
                side = max(size)
            case Aspect.MASKED_CROP if self.window is not None:
                side = self.window
            case _:
                return 1
        return coarsest(size, side / (_OVERSAMPLED * self.size))

    def decode(self, data: bytes) -> Picture:
        """As the gauge sees it, decoded no finer than that takes. Raises `UnreadableImage`."""
        return self.seen(decode(data, self.reduction))

    def resolves(self, picture: Picture) -> bool:
        """Whether the gauge can see it: a picture that was reduced for a coarser gauge has to be decoded again."""
        return picture.reduction <= self.reduction(picture.size)

    def seen(self, picture: Picture) -> Picture:
        """As the gauge sees it: 16-bit values by its own rule, and large images reduced."""
        if not self.resolves(picture):
            raise ValueError("The picture was decoded for a coarser gauge.")
        return picture.by(self.sixteen_bit or SixteenBit.FULL_RANGE).reduced(self.reduction(picture.size))

    def measured(self, pictures: Collection[Picture]) -> Self:
        """With the rule for 16-bit files, and for `masked-crop` with the smallest window that every object fits into,
        and `margin` of it around. `unclear_reasons` then names the pictures that show none.

        Raises `DatasetError` where most pictures show no object.
        """
        if self.sixteen_bit is None:
            return self.model_copy(update={"sixteen_bit": sixteen_bit_rule(pictures)}).measured(pictures)
        if not self.blackens:
            return self
        seen = map(self.seen, pictures)
        sides = [_longer_side(object_box(picture)) for picture in seen if picture.outline.any()]
        if 2 * len(sides) <= len(pictures):
            raise DatasetError(
                f"Only {len(sides)} of {len(pictures)} images show an object that stands out from its ground.",
                "Give masks with --masks, or another --aspect.",
            )
        return self.model_copy(update={"window": ceil(max(sides) * (1 + 2 * self.margin))})

    @property
    def blackens(self) -> bool:
        """Whether crops show nothing but the object."""
        return self.aspect is Aspect.MASKED_CROP

    def unclear_reasons(self, picture: Picture) -> tuple[str, ...]:
        """Why the image needs review: `masked-crop` would score what is not the object, or not all of it."""
        if not self.blackens or self.window is None:
            return ()
        if not picture.outline.any():
            return ("no object stands out from the ground",)
        side = _longer_side(object_box(picture))
        if side > self.window:
            return (f"the object is {side:.0f} pixels long, more than the window of {self.window}",)
        return ()

    def crop(self, picture: Picture) -> Crop:
        picture = self.seen(picture)
        return Crop(self.resampled(picture), picture.statistics, self.unclear_reasons(picture))

    def crops(self, pictures: Iterable[Picture]) -> NDArray[np.uint8]:
        """(B, size, size, 3); of pictures that are decoded as they come, one is in memory at a time."""
        return np.stack([self.resampled(picture) for picture in pictures])

    def resampled(self, picture: Picture) -> NDArray[np.uint8]:
        """(size, size, 3): the box, padded where it leaves the image, resampled with antialiasing. Padding goes on like
        the edge, or is black where all background is.
        """
        picture = self.seen(picture)
        left, top, right, bottom = (side / picture.reduction for side in self._box(picture))
        height, width, _ = picture.pixels.shape
        pad = [max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width)]
        above, below, before, after = (int(np.ceil(side)) for side in pad)
        pixels = self._object_alone(picture) if self.blackens else picture.pixels
        if any((above, below, before, after)):
            sides = ((above, below), (before, after), (0, 0))
            pixels = np.pad(pixels, sides) if self.blackens else np.pad(pixels, sides, mode="edge")
        shifted = (left + before, top + above, right + before, bottom + above)
        resized = Image.fromarray(pixels).resize((self.size, self.size), Image.Resampling.BILINEAR, box=shifted)
        return np.asarray(resized)

    def _object_alone(self, picture: Picture) -> NDArray[np.uint8]:
        alone = np.zeros_like(picture.pixels)
        if picture.outline.any():
            rim = max(1, round(_RIM * (self.window or 0) / picture.reduction))
            left, top, right, bottom = _extent(picture.outline)
            region = slice(max(0, top - rim), bottom + rim), slice(max(0, left - rim), right + rim)
            covered = ndimage.maximum_filter(picture.outline[region], size=2 * rim + 1)
            # black is for what is not the object
            alone[region] = blackened(np.maximum(picture.pixels[region], DARKEST), covered)
        return alone

    def restore(self, map_hw: NDArray[np.float32], picture: Picture) -> NDArray[np.float32]:
        """The map over the whole original image, on a grid of the same shape; 0 where the box did not look."""
        if self.aspect is Aspect.SQUASH:
            return map_hw
        left, top, right, bottom = self._box(picture)
        # the middle of each patch of the whole image, in patches of the box
        (width, height), (rows, columns) = picture.size, map_hw.shape
        y = ((np.arange(rows) + 0.5) / rows * height - top) / (bottom - top) * rows - 0.5
        x = ((np.arange(columns) + 0.5) / columns * width - left) / (right - left) * columns - 0.5
        at = np.meshgrid(y, x, indexing="ij")
        restored = ndimage.map_coordinates(map_hw, at, order=1, mode="grid-constant", cval=0.0)
        return np.asarray(restored, dtype=np.float32)

    def _box(self, picture: Picture) -> Box:
        if self.aspect is Aspect.SQUASH:
            return _whole(picture)
        inner = _whole(picture) if self.aspect is Aspect.LETTERBOX else object_box(picture)
        side = _longer_side(inner)
        if self.aspect is Aspect.CENTRE:
            side *= 1 + 2 * self.margin
        elif self.aspect is Aspect.MASKED_CROP:
            if self.window is None:
                raise ValueError("the window of `masked-crop` has not been measured")
            side = self.window
        left, top, right, bottom = inner
        x, y, half = (left + right) / 2, (top + bottom) / 2, side / 2
        return x - half, y - half, x + half, y + half


def sixteen_bit_rule(pictures: Iterable[Picture]) -> SixteenBit:
    """The narrowest range that holds every value of the 16-bit files among `pictures`; the full one where none are."""
    if isinstance(pictures, Pictures):
        peaks = [peak for _, peak in pictures.seen if peak is not None]
    else:
        peaks = [int(picture.deep.max()) for picture in pictures if picture.deep is not None]
    return SixteenBit.holding(max(peaks)) if peaks else SixteenBit.FULL_RANGE


def _whole(picture: Picture) -> Box:
    width, height = picture.size
    return 0.0, 0.0, float(width), float(height)


def _longer_side(inner: Box) -> float:
    left, top, right, bottom = inner
    return max(right - left, bottom - top)


def object_box(picture: Picture) -> Box:
    """Around the object, in pixels of the whole image; the whole image when nothing clearly stands out."""
    if not picture.outline.any():
        return _whole(picture)
    left, top, right, bottom = (float(side * picture.reduction) for side in _extent(picture.outline))
    width, height = picture.size
    return left, top, min(right, width), min(bottom, height)


def _extent(outline: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The first column and row of the object, and those behind its last ones."""
    rows, columns = np.flatnonzero(outline.any(axis=1)), np.flatnonzero(outline.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def shown(crop: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(S, S): the object of a crop (S, S, 3) that `masked-crop` made; all of it where everything is black."""
    found = np.asarray(crop.any(axis=2))
    return np.asarray(found if found.any() else ~found)
