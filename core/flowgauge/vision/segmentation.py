"""Segmentation of the object from its background: scikit-image's watershed, started from what is certain.

Loading scikit-image takes a while: `Picture.outline` imports this when an object is sought and not before.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.segmentation import watershed

Flags = NDArray[np.bool_]

# pixels of the longer side that are looked at: larger takes longer; smaller, and outlines are coarser
_SIDE = 256
# the share of the picture below which nothing stands out
_SMALLEST = 0.01
# the share of the object's own contrast up to which the ground may darken beside it: less, and shadows are object;
# more, and the object's pale parts are ground
_SHADOW = 0.3
# pieces smaller than this share of the largest one are dirt on the ground
_PIECE = 0.1
_BACKGROUND, _OBJECT = 1, 2


def segmented(pixels: NDArray[np.uint8]) -> Flags:
    """(H, W, 3) -> (H, W): the object with its holes filled; all False where nothing clearly differs from the border.

    Certain are what differs from the border's median colour by much more than the border does and shadows do, and what
    hardly differs at all; between them the outline runs along the steepest slope.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    small = np.asarray(image)
    # how far each colour lies from the border's median, and how far the border's own do at most
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]]).astype(np.float32)
    background = np.median(border, axis=0)
    distance = np.abs(small.astype(np.float32) - background).max(axis=2)
    noise = float(np.percentile(np.abs(border - background).max(axis=1), 95))
    limit = max(3 * noise, 16.0)
    certain = _beyond(distance, limit)
    if certain.mean() < _SMALLEST:
        return np.zeros(pixels.shape[:2], dtype=bool)
    certain &= _beyond(distance, _SHADOW * float(np.percentile(distance[certain], 90)))
    markers = np.where(certain, _OBJECT, np.where(distance < limit / 2, _BACKGROUND, 0))
    slope = ndimage.gaussian_gradient_magnitude(distance, 1)
    found = ndimage.binary_fill_holes(watershed(slope, markers) == _OBJECT)  # type: ignore[no-untyped-call]
    opened = ndimage.binary_opening(found)
    pieces, count = ndimage.label(opened)
    if count > 1:
        sizes = np.bincount(pieces.ravel())[1:]
        opened = np.isin(pieces, 1 + np.flatnonzero(sizes >= _PIECE * sizes.max()))
    shape = (pixels.shape[1], pixels.shape[0])
    return np.asarray(Image.fromarray(opened).resize(shape, Image.Resampling.NEAREST))


def _beyond(distance: NDArray[np.float32], limit: float) -> Flags:
    """Specks left out."""
    return np.asarray(ndimage.binary_opening(distance > limit, iterations=2))
