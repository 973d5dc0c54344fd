"""Pixels as files: without loss, and small ones for pages."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A file of (H, W, 3), or of (H, W) gray, that is quickly written."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def thumbnail(pixels: NDArray[np.uint8], side: int) -> bytes:
    """A JPEG of (H, W, 3), at most `side` pixels a side."""
    image, file = Image.fromarray(pixels), BytesIO()
    image.thumbnail((side, side))
    image.save(file, "JPEG", quality=82)
    return file.getvalue()
