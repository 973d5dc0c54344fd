"""Which files are images, by their names: one list for whoever walks a folder."""

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
