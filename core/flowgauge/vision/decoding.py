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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import PREFIXES as TIFF_MAGICS
from PIL.TiffImagePlugin import TiffImageFile

from flowgauge.domain.errors import UnreadableImage
from flowgauge.domain.image_limits import current_limits
from flowgauge.domain.messages import Statistics
from flowgauge.vision.packed_tiff import packed_gray

BACKGROUND = (0, 0, 0)
"""What shows through transparent pixels: black, as in an empty field of view."""

_RESAVE = "Save it as PNG, JPEG, BMP or TIFF."
_RECAPTURE = "Capture or copy the image again, and check that the transfer completes."

OPENERS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"BM", BmpImageFile),
    *((magic, TiffImageFile) for magic in TIFF_MAGICS),
)
"""How files of each format begin, and what reads them."""

_KNOWN_BUT_REFUSED = (
    (b"GIF8", "a GIF (an animation of 256 colours)"),
    (b"RIFF", "a RIFF container (WebP or video)"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document"),
)

# modes with a channel of transparency; of a palette, somebody has declared one colour transparent
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA"})
# Pillow's names of 16-bit channels as they lie in the file, by the order of their bytes
_COLOUR_16 = re.compile(r"(RGB|RGBX|RGBA);16([LBN])")
_GRAY_ALPHA_16 = "LA;16B"
# tags of TIFF
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR = 258, 262, 277, 284
# Of the longer side of the gray image that statistics are taken of, in pixels, at most. With more, they cost more than
# 2 ms, and pictures are decoded finer for their sake alone than for a crop of 256 pixels; with less, images of twice
# that crop would be averaged before they are measured, and a lens would have to shift further before `focus` tells.
_GRAY_SIDE = 512
# Of its shorter side, at least, however long a strip is. With fewer, a strip's Laplacian is of hardly any values; with
# more, strips cost more than other images.
_GRAY_SIDE_LEAST = 8
# By how much a JPEG can be reduced while it is decoded: libjpeg averages the pixels of a block of 8 x 8, or of its
# parts. Other formats are reduced by the same numbers, so that the format does not change what a gauge sees.
_REDUCTIONS = (8, 4, 2)
# the variance that rounding to 8 bits makes, added to both sides of the focus ratio: a flat image has focus 0
_FLAT = (1 / 255) ** 2 / 12


class SixteenBit(StrEnum):
    """How 16-bit files, which hold 10, 12, 14 or 16 bits, become 8-bit: value / white * 255, rounded and clipped."""

    # Fixed, never per image: stretched to its own darkest and brightest pixel, an image would hide every change of
    # light from the drift monitor, and one glint would darken a whole part and move its score.
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

    `reduction` is 1, 2, 4 or 8: each of `pixels` is the mean of so many by so many pixels of the image, counted from
    its upper left corner, and those of the last row and column may be of fewer. `full_size` is then the (width, height)
    of the whole image. Pictures with a `cut`, and of 16-bit files, are never reduced.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    cut: NDArray[np.bool_] | None = None
    deep: NDArray[np.uint16] | None = None
    sixteen_bit: SixteenBit = SixteenBit.FULL_RANGE
    reduction: int = 1
    full_size: tuple[int, int] | None = None
    statistics: Statistics = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "statistics", statistics(self.pixels))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the whole image, whatever the reduction: the pixels that boxes and masks count in."""
        height, width, _ = self.pixels.shape
        return self.full_size or (width, height)

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes + (0 if self.deep is None else self.deep.nbytes)

    def reduced(self, reduction: int) -> "Picture":
        """With pixels that are means of `reduction` by `reduction`; the same where they are already, or of more, and
        where the picture is one that is never reduced.
        """
        if reduction <= self.reduction or self.cut is not None or self.deep is not None:
            return self
        image = Image.fromarray(self.pixels).reduce(reduction // self.reduction)
        return Picture(np.asarray(image), self.sha256, reduction=reduction, full_size=self.size)

    @cached_property
    def outline(self) -> NDArray[np.bool_]:
        """(H, W) of `pixels`: the object as it was cut out, else as it stands out from the border; False for none."""
        if self.cut is not None:
            return self.cut
        from flowgauge.vision.segmentation import segmented

        return segmented(self.pixels)

    def cut_out(self, mask: NDArray[np.bool_]) -> "Picture":
        """The same, of a picture that is not reduced, with `BACKGROUND` where the mask (H, W) leaves it out."""
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


Reduction = Callable[[tuple[int, int]], int]
"""By how much an image of that (width, height) may be reduced: 1, 2, 4 or 8."""


def whole(size: tuple[int, int]) -> int:
    """Not at all."""
    return 1


def coarsest(size: tuple[int, int], wanted: float) -> int:
    """The largest reduction of an image of that (width, height) that is at most `wanted` and leaves what `statistics`
    and heatmaps are made of: a longer side of 512 pixels, and of a strip a shorter one of 8."""
    most = min(wanted, max(size) / _GRAY_SIDE, _grain(size))
    return next((reduction for reduction in _REDUCTIONS if reduction <= most), 1)


def _grain(size: tuple[int, int]) -> int:
    """The side, in pixels, of the squares of an image of that (width, height) whose means are measured."""
    grain = 1
    while max(size) > grain * _GRAY_SIDE and -(-min(size) // (2 * grain)) >= _GRAY_SIDE_LEAST:
        grain *= 2
    return grain


def decode(data: bytes, reduction: Reduction = whole) -> Picture:
    """The picture in `data`: a single PNG, JPEG, BMP or TIFF, recognised by its content and never by a name.

    Gray, 1-bit, palette and CMYK become RGB; transparency is composited on `BACKGROUND`, and what is mostly opaque is
    then the object, but an alpha channel that is 0 everywhere means nothing; 16-bit files are seen over their full
    range, and by another rule with `Picture.by`, a TIFF that declares 9 to 15 bits over its own range; EXIF orientation
    is applied. The previews that some cameras append to a JPEG do not count.

    The picture is reduced as `reduction` says, unless it has 16 bits or an alpha channel. A JPEG is then not decoded
    any further, which takes a quarter of the time. That gives the means of the whole image's pixels too, but for what
    libjpeg rounds, clips and spreads of colours in either way: in a square that is made of it 1 level of 255 in the
    mean, and up to 8 beside edges of strong colours. Of other formats the means are exact.

    Raises `UnreadableImage` for everything else, and for files of several images (animated PNG, multi-page TIFF), since
    scoring one would let the others pass unseen. The declared size is checked against the process's `ImageLimits`
    before any pixel is decoded.
    """
    try:
        return _decoded(data, sha256(data).hexdigest(), reduction)
    except (UnreadableImage, MemoryError):
        raise  # running out of memory is not the image's fault
    except Exception as error:  # Pillow's readers raise almost any exception on damaged bytes, at any step
        said = str(error) or type(error).__name__
        raise UnreadableImage(f"The image is truncated or damaged ({said}).", _RECAPTURE) from error


def _decoded(data: bytes, digest: str, reduction: Reduction) -> Picture:
    packed = packed_gray(data)
    if packed is not None:
        return _plain(packed, digest, reduction)
    opened = _open(data)
    current_limits().check(opened.size)
    if getattr(opened, "is_animated", False):
        raise UnreadableImage("The file holds several images (frames or pages).", "Send each as an image of its own.")
    if isinstance(opened, JpegImageFile):
        return _of_jpeg(opened, digest, reduction)
    _refuse_planes(opened)
    rawmodes = {_rawmode(tile.args) for tile in opened.tile}  # which are gone once the pixels are decoded
    upright = _upright(opened)
    deep = _deep(upright, rawmodes, data)
    if deep is None and not upright.has_transparency_data:
        return _plain(upright, digest, reduction)
    cut = None
    if upright.has_transparency_data:
        alpha = _alpha(upright, deep)
        # the object is what transparency leaves; a mask of all or of nothing says nothing
        opaque = alpha >= 128
        cut = None if opaque.all() or not opaque.any() else opaque
        if deep is not None and alpha.any():
            shares = alpha.astype(np.uint32)
            deep = (deep * (shares if deep.ndim == 2 else shares[:, :, None]) // 255).astype(np.uint16)
    pixels = _rgb(upright) if deep is None else _rgb_of(deep, SixteenBit.FULL_RANGE)
    del opened, upright  # four bytes a pixel, before as many are needed to measure it
    return Picture(pixels, digest, cut, deep)


def _refuse_planes(opened: ImageFile) -> None:
    """Of a TIFF with a plane for each channel, Pillow reads 16-bit values as 8-bit ones, and says nothing."""
    if not isinstance(opened, TiffImageFile):
        return
    tags = opened.tag_v2
    if tags.get(_PLANAR) == 2 and tags.get(_SAMPLES, 1) > 1 and max(tags.get(_BITS, (1,))) > 8:
        raise UnreadableImage(
            "The TIFF holds a plane for each colour, of more than 8 bits.",
            "Save it with the colours of a pixel side by side (PlanarConfiguration 1).",
        )


def _alpha(image: ImageFile, deep: NDArray[np.uint16] | None) -> NDArray[np.uint8]:
    """(H, W) of an image with transparency; `deep` are its values where it has 16 bits a channel."""
    key = image.info.get("transparency")
    if deep is None or key is None:
        return np.asarray(image.convert("RGBA").getchannel("A"))
    # Pillow would compare the colour that is transparent with the higher bytes alone
    differs = deep != np.array(key, np.uint16)
    return np.where(differs if deep.ndim == 2 else differs.any(axis=2), np.uint8(255), np.uint8(0))


def _of_jpeg(opened: JpegImageFile, digest: str, reduction: Reduction) -> Picture:
    orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    width, height = opened.size
    # five to eight lay the image on its side
    size = (height, width) if orientation in range(5, 9) else (width, height)
    scale = reduction(size)
    # of an image that is turned, means of fewer pixels would come first and shift all others
    while orientation != 1 and (width % scale or height % scale):
        scale //= 2
    if scale > 1:
        opened.draft(None, (width // scale, height // scale))
    return Picture(_rgb(_upright(opened)), digest, reduction=scale, full_size=size)


def _plain(image: Image.Image, digest: str, reduction: Reduction) -> Picture:
    """Of an upright image without transparency, of 8 bits a channel. Raises `UnreadableImage` for other depths."""
    scale, size = reduction(image.size), image.size
    if scale > 1 and image.mode not in ("I", "F"):
        # means of a palette's numbers would be other colours
        image = (image if image.mode in ("L", "RGB") else image.convert("RGB")).reduce(scale)
    return Picture(_rgb(image), digest, reduction=scale, full_size=size)


def statistics(pixels: NDArray[np.uint8]) -> Statistics:
    """How a picture (H, W, 3) was taken; all numbers are finite, on a flat picture too.

    They are those of a small gray image: of the means of k by k pixels, where k is the smallest power of two that
    leaves no side longer than 512 (or, of strips, no side shorter than 8). Images of up to 512 pixels a side are
    measured as they are. Since a reduced picture consists of such means too, the statistics do not depend on whether it
    was reduced, to within rounding. Between an image and its reductions, and between a JPEG that was decoded wholly and
    one that was decoded reduced, brightness agrees to 0.004 (a level of 255), contrast to 0.002, and focus to 0.05
    where the means hold more than rounding, as with any sensor's noise; bits of the fingerprint differ where two cells
    are equal to within a level.
    """
    height, width, _ = pixels.shape
    grain = _grain((width, height))
    image = Image.fromarray(pixels)
    gray = (image if grain == 1 else image.reduce(grain)).convert("L")
    values = np.asarray(gray, np.int16)
    # a 64-bit difference hash, row by row: is a cell of the 8 x 9 thumbnail darker than its right neighbour?
    cells = np.asarray(gray.resize((9, 8), Image.Resampling.BOX), np.int16)
    return Statistics(
        brightness=float(values.mean(dtype=np.float64)) / 255,
        contrast=(_variance(values) / 255**2) ** 0.5,
        focus=sharpness(values),
        fingerprint=np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes().hex(),
    )


def sharpness(gray: NDArray[np.int16]) -> float:
    """log(var(Laplacian) / var(values)) of gray values (H, W) in [0, 255]: higher is sharper, 0 on a flat picture."""
    # exact in integers and quicker than a general filter; without the border, which lacks neighbours; in place, for
    # with a temporary array for each operation measuring is what takes the most memory of an image
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1]
    laplacian += gray[1:-1, :-2]
    laplacian += gray[1:-1, 2:]
    laplacian -= 4 * gray[1:-1, 1:-1]
    edges, values = (_variance(each) / 255**2 for each in (laplacian, gray))
    return float(np.log((edges + _FLAT) / (values + _FLAT)))


def _variance(values: NDArray[np.int16]) -> float:
    # sums of integers below 2**53 are exact in double precision, and the difference is of Python's integers: in single
    # precision the rounding of a bright, even image is larger than its variance
    flat = values.ravel().astype(np.float64)
    total, squared = int(flat.sum()), int(np.dot(flat, flat))
    return (flat.size * squared - total**2) / flat.size**2


def _open(data: bytes) -> ImageFile:
    # A filter keeps Pillow's remarks on odd metadata off the console: what matters of them, `decode` raises. One that
    # stays, and not `catch_warnings`, which mixes up the filters when several threads decode.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if not data:
        raise UnreadableImage("The image is empty (0 bytes).", _RECAPTURE)
    # the format's own class, because `Image.open` heeds Pillow's limit of pixels, a global that others may have changed
    opener = next((opener for magic, opener in OPENERS if data.startswith(magic)), None)
    if opener is None:
        for magic, name in _KNOWN_BUT_REFUSED:
            if data.startswith(magic):
                raise UnreadableImage(f"The file is {name}, and no format that is inspected.", _RESAVE)
        raise UnreadableImage(f"This is no image in a known format; it begins with {data[:8]!r}.", _RESAVE)
    return opener(BytesIO(data))


def _upright(image: ImageFile) -> ImageFile:
    """Its pixels decoded, turned in place as EXIF says."""
    image.load()
    image.getexif()
    # `exif_transpose` would write the other tags anew, and fail on what cameras put there
    for name in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _rawmode(arguments: Any) -> str:
    """Of a tile, whose arguments are the raw mode, or a tuple that begins with it."""
    return str(arguments if isinstance(arguments, str) else arguments[0])


def _deep(upright: ImageFile, rawmodes: set[str], data: bytes) -> NDArray[np.uint16] | None:
    """(H, W) or (H, W, 3) of a file of 16 bits a channel, without its alpha; None for any other."""
    if upright.mode.startswith("I;16"):
        values = np.asarray(upright).astype(np.uint16)
        # Pillow inverts 8 bits alone
        white_is_zero = isinstance(upright, TiffImageFile) and upright.tag_v2.get(_PHOTOMETRIC) == 0
        return np.uint16(65535) - values if white_is_zero else values
    if rawmodes == {_GRAY_ALPHA_16}:
        # as four channels of 8 bits, which are the bytes as they lie in the file
        four = _as(_open(data), "RGBA")
        four._mode = "RGBA"
        pairs = np.asarray(_upright(four), np.uint16)
        return pairs[:, :, 0] * np.uint16(256) + pairs[:, :, 1]
    if len(rawmodes) != 1 or (match := _COLOUR_16.fullmatch(rawmodes.pop())) is None:
        return None
    channels, order = match.groups()
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    # Pillow keeps 8 bits of each, the higher ones or, with the bytes' order swapped, the lower ones
    low = _as(_open(data), f"{channels};16{'B' if little else 'L'}")
    upper, lower = (np.asarray(each.convert("RGB"), np.uint16) for each in (upright, _upright(low)))
    deep: NDArray[np.uint16] = upper * np.uint16(256) + lower
    return deep


def _as(opened: ImageFile, rawmode: str) -> ImageFile:
    """Not decoded yet; its bytes will be read as `rawmode`."""
    arguments: list[Any] = [tile.args for tile in opened.tile]
    opened.tile = [
        tile._replace(args=rawmode if isinstance(each, str) else (rawmode, *each[1:]))
        for tile, each in zip(opened.tile, arguments, strict=True)
    ]
    return opened


def _rgb_of(deep: NDArray[np.uint16], rule: SixteenBit) -> NDArray[np.uint8]:
    """(H, W, 3) of 16-bit values (H, W) or (H, W, 3), rounded."""
    values = np.minimum(np.arange(65536), rule.white)
    shades = ((values * 255 + rule.white // 2) // rule.white).astype(np.uint8)[deep]
    return np.repeat(shades[:, :, None], 3, axis=2) if deep.ndim == 2 else shades


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("I", "F"):
        raise UnreadableImage(
            "The image has 32 bits per pixel, or signed values, whose range nothing declares.",
            "Save it with 8 or 16 bits per channel.",
        )
    try:
        if not image.has_transparency_data:
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
        coloured = image.convert("RGBA")
        # a fourth channel that is 0 everywhere is the unused byte of a camera's BGRx and no alpha
        if image.mode in _WITH_ALPHA and coloured.getchannel("A").getextrema() == (0, 0):
            return np.array(coloured.convert("RGB"))
        backdrop = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return np.array(Image.alpha_composite(backdrop, coloured).convert("RGB"))
    except ValueError as error:
        raise UnreadableImage(f"The image's colours cannot be read as RGB ({error}).", _RESAVE) from error
