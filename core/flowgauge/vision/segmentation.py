"""The object in a picture, told from its ground: scikit-image's watershed, started from what is certain.

Loading scikit-image takes a while: `Picture.outline` imports this when an object is sought and not before.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.segmentation import watershed

Flags = NDArray[np.bool_]

_SIDE = 256
"""Pixels of the longer side that are looked at; outlines of larger pictures are as coarse as these."""
_SMALLEST = 0.01
"""The share of the picture below which nothing stands out."""
_SHADOW = 0.3
"""The share of the object's own contrast up to which the ground may darken beside it."""
_PIECE = 0.1
"""Pieces smaller than this share of the largest one are dirt on the ground."""
_BACKGROUND, _OBJECT = 1, 2


def segmented(pixels: NDArray[np.uint8]) -> Flags:
    """(H, W, 3) -> (H, W): the object with its holes filled; all False where nothing clearly differs from the border.

    Certain are what differs from the border's median colour by much more than the border does and shadows do, and what
    hardly differs at all; between them the outline runs along the steepest slope.
    """
    distance, noise = _from_border(_shrunk(pixels))
    limit = max(3 * noise, 16.0)
    certain = _beyond(distance, limit)
    if certain.mean() < _SMALLEST:
        return np.zeros(pixels.shape[:2], dtype=bool)
    certain &= _beyond(distance, _SHADOW * float(np.percentile(distance[certain], 90)))
    markers = np.where(certain, _OBJECT, np.where(distance < limit / 2, _BACKGROUND, 0))
    slope = ndimage.gaussian_gradient_magnitude(distance, 1)
    found = ndimage.binary_fill_holes(watershed(slope, markers) == _OBJECT)  # type: ignore[no-untyped-call]
    return _enlarged(_without_specks(ndimage.binary_opening(found)), pixels.shape[:2])


def _beyond(distance: NDArray[np.float32], limit: float) -> Flags:
    """Specks left out."""
    return np.asarray(ndimage.binary_opening(distance > limit, iterations=2))


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(image)


def _from_border(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """(H, W): how far each colour lies from the border's median, and how far the border's own do at most."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.float32)
    background = np.median(border, axis=0)
    distance = np.abs(pixels.astype(np.float32) - background).max(axis=2)
    return distance, float(np.percentile(np.abs(border - background).max(axis=1), 95))


def _without_specks(found: Flags) -> Flags:
    pieces, count = ndimage.label(found)
    if count < 2:
        return found
    sizes = np.bincount(pieces.ravel())[1:]
    return np.isin(pieces, 1 + np.flatnonzero(sizes >= _PIECE * sizes.max()))


def _enlarged(found: Flags, shape: tuple[int, ...]) -> Flags:
    image = Image.fromarray(found).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(image)
