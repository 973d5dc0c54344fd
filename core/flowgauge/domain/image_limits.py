"""How large an image may be: one setting for the whole process, in a module that loads nothing."""

from dataclasses import dataclass

MAX_MEGAPIXELS = "FLOWGAUGE_MAX_MEGAPIXELS"
"""The variable that moves `ImageLimits.max_pixels`, as errors name it."""


@dataclass(frozen=True)
class ImageLimits:
    """`max_pixels` bounds width times height as the header declares them; `min_side` is in pixels.

    An image takes 10 to 20 bytes a pixel while it is decoded wholly and measured: with a larger bound one image may
    exhaust the memory, with a smaller one the images of large cameras are refused.
    """

    max_pixels: int = 64_000_000
    min_side: int = 8

    @property
    def max_bytes(self) -> int:
        """Of an encoded image: four channels of 16 bits for each pixel, uncompressed."""
        return 8 * self.max_pixels


_current = ImageLimits()


def current_limits() -> ImageLimits:
    return _current


def set_limits(limits: ImageLimits) -> None:
    """From now on, in every thread of this process."""
    global _current
    _current = limits
