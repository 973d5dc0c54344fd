"""From encoded bytes to pixels, by rules that are stored with the gauge and never depend on one image's own range.

Poison data ends here: whatever `decode` cannot read becomes an `UnreadableImage` that names its cause and its remedy.
"""

import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import PREFIXES as TIFF_MAGICS
from PIL.TiffImagePlugin import TiffImageFile

from flowgauge.domain.errors import UnreadableImage
from flowgauge.domain.image_limits import MAX_MEGAPIXELS, ImageLimits, current_limits
from flowgauge.domain.messages import Statistics
from flowgauge.vision.packed_tiff import packed_gray

BACKGROUND = (0, 0, 0)
"""What shows through transparent pixels: black, as in an empty field of view."""

_RESAVE = "Save it as PNG, JPEG, BMP or TIFF."
_RECAPTURE = "Capture or copy the image again, and check that the transfer completes."

_OPENERS: tuple[tuple[bytes, Callable[[BytesIO], ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"BM", BmpImageFile),
    *((magic, TiffImageFile) for magic in TIFF_MAGICS),
)

_KNOWN_BUT_REFUSED = (
    (b"GIF8", "a GIF (an animation of 256 colours)"),
    (b"RIFF", "a RIFF container (WebP or video)"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document"),
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the picture upright. 1, absent or nonsense: as it lies."""

_WITH_ALPHA = frozenset({"RGBA", "LA", "PA"})
"""Modes with a channel of transparency. Of a palette, somebody has declared one colour transparent."""

_COLOUR_16 = re.compile(r"(RGB|RGBX|RGBA);16([LBN])")
"""Pillow's names of 16-bit colour as it lies in the file, by the order of its bytes."""

_FLAT = (1 / 255) ** 2 / 12
"""The variance that rounding to 8 bits makes, added to both sides of the focus ratio: a flat image has focus 0."""


class SixteenBit(StrEnum):
    """How 16-bit files become 8-bit: value / white * 255, rounded and clipped. Cameras put 10, 12 or 14 bits into them.

    Fixed, never per image: stretched to its own darkest and brightest pixel, an image would hide every change of light
    from the drift monitor, and one glint would darken a whole part and move its score.
    """

    TEN_BIT = "10-bit"
    TWELVE_BIT = "12-bit"
    FOURTEEN_BIT = "14-bit"
    FULL_RANGE = "full-range"

    @property
    def white(self) -> int:
        """The value that becomes 255; anything brighter is clipped."""
        return 65535 if self is SixteenBit.FULL_RANGE else (1 << int(self.removesuffix("-bit"))) - 1

    @classmethod
    def holding(cls, peak: int) -> "SixteenBit":
        """The narrowest range that clips nothing of images whose brightest value is `peak`."""
        return next(rule for rule in cls if peak <= rule.white)


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image. `pixels`: (H, W, 3) uint8, RGB, upright; `sha256`: hex digest of the encoded bytes; `cut`:
    (H, W), the object as somebody has cut it out, None where nobody has; `deep`: (H, W) or (H, W, 3) uint16, the values
    of a 16-bit file, which became `pixels` by the rule `sixteen_bit`; `statistics`: how it was taken, measured here
    once, on the thread that decodes.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    cut: NDArray[np.bool_] | None = None
    deep: NDArray[np.uint16] | None = None
    sixteen_bit: SixteenBit = SixteenBit.FULL_RANGE
    statistics: Statistics = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "statistics", statistics(self.pixels))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        height, width, _ = self.pixels.shape
        return width, height

    @cached_property
    def outline(self) -> NDArray[np.bool_]:
        """(H, W): the object, as it was cut out or else as it stands out from the border; all False for none."""
        if self.cut is not None:
            return self.cut
        from flowgauge.vision.segmentation import segmented

        return segmented(self.pixels)

    def cut_out(self, mask: NDArray[np.bool_]) -> "Picture":
        """The same with what the mask (H, W) leaves out as `BACKGROUND`, as if it had been transparent."""
        deep = self.deep
        if deep is not None:
            deep = np.where(mask if deep.ndim == 2 else mask[:, :, None], deep, np.uint16(0))
        return Picture(blackened(self.pixels, mask), self.sha256, mask, deep, self.sixteen_bit)

    def by(self, rule: SixteenBit) -> "Picture":
        """As a gauge of that rule sees it: the same, unless it comes of a 16-bit file that was decoded by another."""
        if self.deep is None or rule is self.sixteen_bit:
            return self
        return Picture(_rgb_of(self.deep, rule), self.sha256, self.cut, self.deep, rule)


def blackened(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`pixels` (H, W, 3) with `BACKGROUND` where the mask (H, W) leaves them out."""
    return np.where(mask[:, :, None], pixels, np.array(BACKGROUND, np.uint8))


def decode(data: bytes, limits: ImageLimits | None = None, sixteen_bit: SixteenBit = SixteenBit.FULL_RANGE) -> Picture:
    """The picture in `data`: a single PNG, JPEG, BMP or TIFF, told by its content and never by a name.

    Gray, 1-bit, palette and CMYK become RGB; transparency is composited on `BACKGROUND`, and what is mostly opaque is
    then the object, but an alpha channel that is 0 everywhere means nothing; 16-bit files follow `sixteen_bit`, and a
    TIFF that declares 9 to 15 bits its own header; EXIF orientation is applied. Files of several images (animated PNG,
    multi-page TIFF) are refused, since judging one would let the others pass unseen. The previews that some cameras
    append to a JPEG do not count.

    Raises `UnreadableImage` for everything else. The declared size is checked before any pixel is decoded, against
    those of the process where no `limits` are given.
    """
    limits = current_limits() if limits is None else limits
    digest = sha256(data).hexdigest()
    packed = packed_gray(data)
    if packed is not None:
        _check_extent(packed.size, limits)
        turned = _turned(Image.fromarray(packed.shades()), packed.orientation)
        return Picture(_gray_to_rgb(np.asarray(turned)), digest)
    opened = _open(data)
    _check_extent(opened.size, limits)
    if getattr(opened, "is_animated", False):
        raise UnreadableImage("The file holds several images (frames or pages).", "Send each as an image of its own.")
    deep = _deep_colour(opened, data)
    upright = _upright(_load(opened))
    if upright.mode.startswith("I;16"):
        deep = np.asarray(upright).astype(np.uint16)
    if deep is not None:
        return Picture(_rgb_of(deep, sixteen_bit), digest, _cut(upright), deep, sixteen_bit)
    pixels, cut = _rgb(upright), _cut(upright)
    del opened, upright  # four bytes a pixel, before as many are needed to measure it
    return Picture(pixels, digest, cut)


def statistics(pixels: NDArray[np.uint8]) -> Statistics:
    """How a picture (H, W, 3) was taken; all numbers are finite, on a flat picture too."""
    gray = Image.fromarray(pixels).convert("L")
    values = np.asarray(gray, np.int16)
    variance = _variance(values) / 255**2
    edges = _variance(_laplacian(values)) / 255**2
    return Statistics(
        brightness=float(values.mean(dtype=np.float64)) / 255,
        contrast=variance**0.5,
        focus=float(np.log((edges + _FLAT) / (variance + _FLAT))),
        fingerprint=_difference_hash(gray),
    )


def _laplacian(values: NDArray[np.int16]) -> NDArray[np.int16]:
    """Exact in integers and quicker than a general filter; without the border, which lacks neighbours."""
    # in place: with a temporary array for each operation, measuring is what takes the most memory of an image
    sums = values[:-2, 1:-1] + values[2:, 1:-1]
    sums += values[1:-1, :-2]
    sums += values[1:-1, 2:]
    sums -= 4 * values[1:-1, 1:-1]
    return sums


def _variance(values: NDArray[np.int16]) -> float:
    flat = values.ravel().astype(np.float32)
    mean = float(flat.mean(dtype=np.float64))
    return max(float(np.dot(flat, flat)) / flat.size - mean**2, 0.0)


def _difference_hash(gray: Image.Image) -> str:
    """64 bits, row by row: is a cell of the 8 x 9 thumbnail darker than its right neighbour?"""
    cells = np.asarray(gray.resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(cells[:, :-1] < cells[:, 1:])
    return bits.tobytes().hex()


def _open(data: bytes) -> ImageFile:
    """The image with its header read. Going to the format's class directly keeps Pillow's own bomb limit, a global
    that other libraries may have changed, out of the decision."""
    _hush_pillow()
    opener = _opener(data)
    try:
        return opener(BytesIO(data))
    except Exception as error:
        raise _damaged(error) from error


def _hush_pillow() -> None:
    """Keep Pillow's remarks on odd metadata off the console: what matters of them, `decode` raises.

    A filter that stays, and not `catch_warnings`, which mixes up the filters when several threads decode.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _opener(data: bytes) -> Callable[[BytesIO], ImageFile]:
    if not data:
        raise UnreadableImage("The image is empty (0 bytes).", _RECAPTURE)
    for magic, opener in _OPENERS:
        if data.startswith(magic):
            return opener
    for magic, name in _KNOWN_BUT_REFUSED:
        if data.startswith(magic):
            raise UnreadableImage(f"The file is {name}, and no format that is inspected.", _RESAVE)
    raise UnreadableImage(f"This is no image in a known format; it begins with {data[:8]!r}.", _RESAVE)


def _damaged(error: Exception) -> UnreadableImage:
    """Pillow's readers raise almost any exception on damaged bytes; running out of memory is not the image's fault."""
    if isinstance(error, MemoryError):
        raise error
    return UnreadableImage(f"The image is truncated or damaged ({error}).", _RECAPTURE)


def _check_extent(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise UnreadableImage(
            f"The image declares {width} x {height} pixels, more than the limit of {limits.max_pixels:,}.",
            f"Crop or shrink it; or, if the camera is really that large, set {MAX_MEGAPIXELS} to "
            f"{ceil(width * height / 1e6)} or more, or --max-megapixels.",
        )
    if min(width, height) < limits.min_side:
        raise UnreadableImage(
            f"The image is only {width} x {height} pixels; at least {limits.min_side} x {limits.min_side} are needed.",
            "Check the camera's region of interest.",
        )


def _load(image: ImageFile) -> ImageFile:
    try:
        image.load()
    except Exception as error:
        raise _damaged(error) from error
    return image


def _upright(image: ImageFile) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        raise _damaged(error) from error
    return _turned(image, orientation)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _deep_colour(image: ImageFile, data: bytes) -> NDArray[np.uint16] | None:
    """(H, W, 3) of a file of 16-bit colours, composited on black; None for any other.

    Pillow keeps 8 bits of each, the higher ones or, told that the bytes lie the other way round, the lower ones.
    """
    rawmodes = {_rawmode(tile.args) for tile in image.tile}
    if len(rawmodes) != 1 or (match := _COLOUR_16.fullmatch(rawmodes.pop())) is None:
        return None
    channels, order = match.groups()
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    low = _open(data)
    swapped = f"{channels};16{'B' if little else 'L'}"
    low.tile = [tile._replace(args=_with_rawmode(tile.args, swapped)) for tile in low.tile]
    high = _upright(_load(_open(data)))
    upper, lower = (np.asarray(each.convert("RGB"), np.uint16) for each in (high, _upright(_load(low))))
    deep: NDArray[np.uint16] = upper * np.uint16(256) + lower
    if high.has_transparency_data and (alpha := np.asarray(high.getchannel("A"), np.uint32)).any():
        deep = (deep * alpha[:, :, None] // 255).astype(np.uint16)
    return deep


def _rawmode(arguments: Any) -> str:
    return str(arguments if isinstance(arguments, str) else arguments[0])


def _with_rawmode(arguments: Any, rawmode: str) -> Any:
    return rawmode if isinstance(arguments, str) else (rawmode, *arguments[1:])


def _rgb_of(deep: NDArray[np.uint16], rule: SixteenBit) -> NDArray[np.uint8]:
    """(H, W, 3) of 16-bit values (H, W) or (H, W, 3)."""
    shades = _shades(rule)[deep]
    return _gray_to_rgb(shades) if deep.ndim == 2 else shades


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("I", "F"):
        raise UnreadableImage(
            "The image has 32 bits per pixel, or signed values, whose range nothing declares.",
            "Save it with 8 or 16 bits per channel.",
        )
    try:
        opaque = _opaque(image)
        return np.array(opaque if opaque.mode == "RGB" else opaque.convert("RGB"))
    except ValueError as error:
        raise UnreadableImage(f"The image's colours cannot be read as RGB ({error}).", _RESAVE) from error


def _cut(image: Image.Image) -> NDArray[np.bool_] | None:
    """What transparency leaves; None where it leaves all or nothing."""
    if not image.has_transparency_data:
        return None
    opaque = np.asarray(image.convert("RGBA").getchannel("A")) >= 128
    return None if opaque.all() or not opaque.any() else opaque


def _opaque(image: Image.Image) -> Image.Image:
    """On `BACKGROUND`. A fourth channel that is 0 everywhere is the unused byte of a camera's BGRx and no alpha."""
    if not image.has_transparency_data:
        return image
    coloured = image.convert("RGBA")
    if image.mode in _WITH_ALPHA and coloured.getchannel("A").getextrema() == (0, 0):
        return coloured.convert("RGB")
    backdrop = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(backdrop, coloured)


def _shades(rule: SixteenBit) -> NDArray[np.uint8]:
    """(65536,) table: 16-bit value -> 8-bit value, rounded."""
    values = np.minimum(np.arange(65536), rule.white)
    return ((values * 255 + rule.white // 2) // rule.white).astype(np.uint8)


def _gray_to_rgb(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(gray[:, :, None], 3, axis=2)
