"""From a picture to the gauge's square input, and from the gauge's map back to the whole picture.

Part of the gauge and stored with it. Every aspect rule is one box of the original image, which is resampled to the
square: `squash` takes the whole image, `letterbox` a square around it, `centre` a square around the object in it.
"""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from scipy import ndimage
from torch import Tensor

from core.images import Picture, SixteenBit
from core.messages import Part
from core.views import PLAIN, View

Box = tuple[float, float, float, float]


class Aspect(StrEnum):
    SQUASH = "squash"
    LETTERBOX = "letterbox"
    CENTRE = "centre"


class Preprocessing(Part):
    """`size`: side of the square input in pixels; `mean` and `std` per channel for values in [0, 1].

    `margin` is the share of the object's longer side that `centre` leaves around it. `sixteen_bit` is how 16-bit
    images become 8-bit ones.
    """

    size: int = Field(256, ge=64, le=2048, multiple_of=32)
    aspect: Aspect = Aspect.SQUASH
    margin: float = Field(0.1, ge=0, le=1)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    sixteen_bit: SixteenBit = SixteenBit.FULL_RANGE

    def squares(self, pictures: Sequence[Picture]) -> NDArray[np.uint8]:
        """(B, size, size, 3)."""
        return np.stack([self.square(picture.pixels) for picture in pictures])

    def square(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) -> (size, size, 3): the box, edge-padded where it leaves the image, resampled with antialiasing."""
        left, top, right, bottom = box(pixels, self.aspect, self.margin)
        height, width = pixels.shape[:2]
        pad = [max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width)]
        above, below, before, after = (int(np.ceil(side)) for side in pad)
        if above or below or before or after:
            pixels = np.pad(pixels, ((above, below), (before, after), (0, 0)), mode="edge")
        shifted = (left + before, top + above, right + before, bottom + above)
        resized = Image.fromarray(pixels).resize((self.size, self.size), Image.Resampling.BILINEAR, box=shifted)
        return np.asarray(resized)

    def normalised(self, squares_BHWC: NDArray[np.uint8], view: View = PLAIN) -> Tensor:
        """The view of (B, size, size, 3) squares as (B, 3, size, size) float32, normalised."""
        images = torch.from_numpy(np.ascontiguousarray(squares_BHWC)).permute(0, 3, 1, 2).float().div_(255)
        return (view.apply(images) - _channels(self.mean)) / _channels(self.std)

    def restore(self, map_hw: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The map over the whole original image, on a grid of the same shape; 0 where the box did not look."""
        if self.aspect is Aspect.SQUASH:
            return map_hw
        left, top, right, bottom = box(pixels, self.aspect, self.margin)
        (height, width), (rows, columns) = pixels.shape[:2], map_hw.shape
        y = ((np.arange(rows) + 0.5) / rows * height - top) / (bottom - top) * rows - 0.5
        x = ((np.arange(columns) + 0.5) / columns * width - left) / (right - left) * columns - 0.5
        at = np.meshgrid(y, x, indexing="ij")
        restored = ndimage.map_coordinates(map_hw, at, order=1, mode="grid-constant", cval=0.0)
        return np.asarray(restored, dtype=np.float32)


def _channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def box(pixels: NDArray[np.uint8], aspect: Aspect, margin: float) -> Box:
    """(left, top, right, bottom) in pixels of the original; may leave the image."""
    height, width = pixels.shape[:2]
    whole = (0.0, 0.0, float(width), float(height))
    match aspect:
        case Aspect.SQUASH:
            return whole
        case Aspect.LETTERBOX:
            return _square_around(whole, 0.0)
        case Aspect.CENTRE:
            return _square_around(object_box(pixels), margin)


def _square_around(inner: Box, margin: float) -> Box:
    left, top, right, bottom = inner
    half = max(right - left, bottom - top) * (0.5 + margin)
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - half, y - half, x + half, y + half


def object_box(pixels: NDArray[np.uint8]) -> Box:
    """The box of what differs from the border's median colour; the whole image when nothing clearly does."""
    height, width = pixels.shape[:2]
    found = foreground(pixels)
    if found.mean() < 0.01:
        return 0.0, 0.0, float(width), float(height)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def foreground(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W): what differs from the border's median colour by more than the border does, specks left out."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.float32)
    distance = np.abs(pixels.astype(np.float32) - np.median(border, axis=0)).max(axis=2)
    noise = float(np.percentile(np.abs(border - np.median(border, axis=0)).max(axis=1), 95))
    return np.asarray(ndimage.binary_opening(distance > max(3 * noise, 16.0), iterations=2))
