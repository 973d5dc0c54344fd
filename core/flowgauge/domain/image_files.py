"""Which files are images, by their names: one list for whoever walks a folder."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def named_as_image(name: str) -> bool:
    """Of a file's name or path, in any case."""
    return name.lower().endswith(SUFFIXES)
