"""Image files as they should not be, and as they may well be."""

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A whole and valid PNG of `side` x `side` black pixels, in about a hundred kilobytes."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + side // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def broken_files(pixels: Pixels) -> dict[str, tuple[bytes, str]]:
    """Name -> contents, and what the reason says. `pixels` (H, W, 3) is what the cut-off JPEG shows."""
    image = Image.fromarray(pixels)
    whole = encoded(image, "JPEG")
    frames = [image, image.rotate(90)]
    return {
        "empty.png": (b"", "empty (0 bytes)"),
        "truncated.jpg": (whole[: len(whole) // 2], "truncated or damaged"),
        "text.png": (b"these are words and not pixels\n", "no image in a known format"),
        "dot.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), "only 1 x 1 pixels"),
        "bomb.png": (bomb(), "30000 x 30000 pixels, more than the limit"),
        "animated.png": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "a GIF"),
        "pages.tif": (encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]), "several images"),
    }


def equal_files(gray: Pixels) -> dict[str, bytes]:
    """One (H, W) gray picture in forms that cameras and tools write; all must decode to the same pixels."""
    image = Image.fromarray(gray)
    opaque = image.convert("RGB")
    opaque.putalpha(255)
    return {
        "gray.png": encoded(image, "PNG"),
        "colour.bmp": encoded(image.convert("RGB"), "BMP"),
        "sixteen.png": encoded(Image.fromarray(gray.astype(np.uint16) * 257), "PNG"),
        "sixteen.tif": encoded(Image.fromarray(gray.astype(np.uint16) * 257), "TIFF"),
        "alpha.png": encoded(opaque, "PNG"),
        "cmyk.tif": encoded(_in_black_ink(gray), "TIFF"),
    }


def _in_black_ink(gray: Pixels) -> Image.Image:
    none = Image.new("L", gray.shape[::-1], 0)
    return Image.merge("CMYK", (none, none, none, Image.fromarray(255 - gray)))
