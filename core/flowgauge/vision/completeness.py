"""Whether a file holds an image to its end, or one whose rest is still to be written.

Decoders do not tell: a copy that reserves its space first leaves zeros for what has not arrived, which BMP, TIFF and
JPEG decode without a word.
"""

import warnings
from enum import Enum, auto
from io import BytesIO
from typing import Any

from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import PREFIXES as TIFF_MAGICS
from PIL.TiffImagePlugin import TiffImageFile

_PNG, _JPEG, _BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"
_ENDS = {_PNG: b"IEND\xaeB`\x82", _JPEG: b"\xff\xd9"}
_OPENERS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (_PNG, PngImageFile),
    (_JPEG, JpegImageFile),
    (_BMP, BmpImageFile),
    *((magic, TiffImageFile) for magic in TIFF_MAGICS),
)
_LONGEST_MAGIC = 8
_TAIL_BYTES = 64  # smaller, and a dark corner looks like a rest that is missing; larger, and a small rest is overlooked
_GAP_BYTES = 16  # zeros in a row that only dark pixels make; larger, and a dark picture passes for one that was cut
_PADDING_BYTES = 8  # zeros that end a row anyhow: padding to four bytes and a last pixel of up to four
_HOLE = bytes(4096)  # a page, the least that a copy leaves out; compressed pixels never hold so many zeros
_TILE_WIDTH, _BITS, _PLANAR = 322, 258, 284  # tags of TIFF


class Completeness(Enum):
    WHOLE = auto()
    UNDECODABLE = auto()
    """More bytes, or others, may make it an image."""
    CUT = auto()
    """It decodes, but from some place on nothing has been written."""
    DARK = auto()
    """Its last rows are zeros: nothing tells a black border from rows that are missing."""


def completeness(data: bytes) -> Completeness:
    """How much of an image is in `data`. What is no PNG, JPEG, BMP or TIFF at all is WHOLE: no rest will mend it."""
    written = data.rstrip(b"\0")  # some cameras fill the last block of a file with zeros
    for magic, opener in _OPENERS:
        if data.startswith(magic):
            return _of_format(data, written, magic, opener)
        if magic.startswith(written):
            return Completeness.UNDECODABLE
    return Completeness.UNDECODABLE if not data[:_LONGEST_MAGIC].strip(b"\0") else Completeness.WHOLE


def _of_format(data: bytes, written: bytes, magic: bytes, opener: type[ImageFile]) -> Completeness:
    end = _ENDS.get(magic)
    if end is not None and written.endswith(end) and not _has_hole(written, magic):
        return Completeness.WHOLE
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what it remarks on metadata; a filter that stays, for threads
    try:
        image = opener(BytesIO(data))
        tiles = list(image.tile)
        image.load()
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise almost any exception on bytes that are not all there
        return Completeness.UNDECODABLE
    if tiles and all(tile.codec_name == "raw" for tile in tiles):
        return _of_rows(data, image, tiles)
    if magic == _JPEG and _has_hole(written, magic):
        return Completeness.CUT
    ended = end is not None and written.endswith(end)
    return Completeness.WHOLE if ended or len(data) - len(written) < _TAIL_BYTES else Completeness.CUT


def _has_hole(written: bytes, magic: bytes) -> bool:
    """Of a JPEG only in its last scan: before it, editors leave room for metadata."""
    return written.find(_HOLE, written.rfind(b"\xff\xda") if magic == _JPEG else 0) >= 0


def _row_bytes(image: ImageFile, arguments: object) -> int:
    """BMP gives the distance of rows; a row of TIFF has no padding."""
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(_BITS, (1,))
        depth = sum(bits) if image.tag_v2.get(_PLANAR, 1) == 1 else bits[0]
        return int((image.tag_v2.get(_TILE_WIDTH, image.size[0]) * depth + 7) // 8)
    assert isinstance(arguments, tuple)
    return int(arguments[1])


def _of_rows(data: bytes, image: ImageFile, tiles: list[Any]) -> Completeness:
    """Rows that lie in the file as they are, in BMP and TIFF. A copy ends anywhere, a black border at a row's end."""
    last = max(tiles, key=lambda tile: tile.offset)
    row = _row_bytes(image, last.args)
    pixels_end = min(len(data), last.offset + row * (last.extents[3] - last.extents[1]))
    written = len(data[:pixels_end].rstrip(b"\0"))
    tail = pixels_end - written
    if tail < _TAIL_BYTES:
        return Completeness.WHOLE
    start = max((tile.offset for tile in tiles if tile.offset <= written), default=written)
    before = data[max(start, written - row) : written]
    if 0 < (written - start) % row < row - min(_PADDING_BYTES, row // 8) and bytes(_GAP_BYTES) not in before:
        return Completeness.CUT
    return Completeness.DARK if tail >= row else Completeness.WHOLE
