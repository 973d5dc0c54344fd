"""Which files are images, by their names: one list for whoever walks a folder; and how one is read."""

import stat
from pathlib import Path

from flowgauge.domain.errors import UnreadableImage

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff")

# Of images that are not decoded: whoever puts one into a watched folder waits for its verdict. What else lies there,
# such as half of a copy, may have a suffix of its own each time.
_UNREAD = frozenset(
    (
        *(".webp", ".gif", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".pgm", ".ppm", ".pnm", ".tga", ".pcx"),
        *(".ico", ".svg", ".psd", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".nef", ".arw", ".dcm", ".fits", ".eps"),
    )
)


def named_as_image(name: str) -> bool:
    """Of a file's name or path, in any case."""
    return name.lower().endswith(SUFFIXES)


def unread_format(name: str) -> str:
    """The suffix, where it is one of images that are not decoded; "" for every other file."""
    suffix = f".{name.rpartition('.')[2].lower()}"
    return suffix if suffix in _UNREAD else ""


def image_bytes(path: Path) -> bytes:
    """Raises `UnreadableImage` for what is no regular file, and `OSError`. A pipe waits for its writer, and a device
    such as /dev/zero has no end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadableImage(
            f"{path} is a folder, pipe or device, and no file of an image.", "Give PNG, JPEG, BMP or TIFF files."
        )
    return path.read_bytes()
