"""How large an image may be: one setting for the whole process, in a module that loads no library."""

from dataclasses import dataclass
from math import ceil

from flowgauge.domain.errors import UnreadableImage

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

    def check(self, size: tuple[int, int]) -> None:
        """Raises `UnreadableImage` for a (width, height) outside the limits."""
        width, height = size
        if width * height > self.max_pixels:
            raise UnreadableImage(
                f"The image declares {width} x {height} pixels, more than the limit of {self.max_pixels:,}.",
                f"Crop or shrink it; or, if the camera is really that large, set {MAX_MEGAPIXELS} to "
                f"{ceil(width * height / 1e6)} or more, or --max-megapixels.",
            )
        if min(width, height) < self.min_side:
            raise UnreadableImage(
                f"The image is only {width} x {height} pixels; at least {self.min_side} x {self.min_side} are needed.",
                "Check the camera's region of interest.",
            )


_current = ImageLimits()


def current_limits() -> ImageLimits:
    return _current


def set_limits(limits: ImageLimits) -> None:
    """From now on, in every thread of this process."""
    global _current
    _current = limits
