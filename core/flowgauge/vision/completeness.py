"""Whether a file holds an image to its end, or one whose rest is still to be written.

Decoders do not report it: a copy that reserves its space first leaves zeros for what has not arrived, which BMP, TIFF
and JPEG decode without a word.
"""

import warnings
from enum import Enum, auto
from io import BytesIO
from typing import Any

from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from flowgauge.vision.decoding import OPENERS
from flowgauge.vision.packed_tiff import packed_rows

_JPEG = b"\xff\xd8\xff"
_ENDS = {b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82", _JPEG: b"\xff\xd9"}
_LONGEST_MAGIC = 8
# smaller, and a dark corner looks like a rest that is missing; larger, and a small rest is overlooked
_TAIL_BYTES = 64
# the same where there is less than a kilobyte of pixels: one in so many of its bytes
_TAIL_SHARE = 16
# zeros in a row that only dark pixels make; larger, and a dark picture passes for one that was cut
_GAP_BYTES = 16
# zeros that end a row anyhow: padding to four bytes and a last pixel of up to four
_PADDING_BYTES = 8
# a page, the least that a copy leaves out; compressed pixels never hold so many zeros
_HOLE = bytes(4096)
# tags of TIFF
_TILE_WIDTH, _BITS, _PLANAR = 322, 258, 284


class Completeness(Enum):
    WHOLE = auto()
    UNDECODABLE = auto()
    """More bytes, or others, may make it an image."""
    CUT = auto()
    """It decodes, but from some place on nothing has been written."""
    DARK = auto()
    """Its last rows are zeros: a black border looks the same as rows that are missing."""


def completeness(data: bytes) -> Completeness:
    """How much of an image is in `data`. What is no PNG, JPEG, BMP or TIFF at all is WHOLE: no rest will mend it."""
    # some cameras fill the last block of a file with zeros
    written = data.rstrip(b"\0")
    for magic, opener in OPENERS:
        if data.startswith(magic):
            return _of_format(data, written, magic, opener)
        if magic.startswith(written):
            return Completeness.UNDECODABLE
    return Completeness.UNDECODABLE if not data[:_LONGEST_MAGIC].strip(b"\0") else Completeness.WHOLE


def _of_format(data: bytes, written: bytes, magic: bytes, opener: type[ImageFile]) -> Completeness:
    ended = magic in _ENDS and written.endswith(_ENDS[magic])
    # of a JPEG only in its last scan: before it, editors leave room for metadata
    has_hole = written.find(_HOLE, written.rfind(b"\xff\xda") if magic == _JPEG else 0) >= 0
    if ended and not has_hole:
        return Completeness.WHOLE
    # what Pillow remarks on metadata; a filter that stays, for threads
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        packed = packed_rows(data)
        if packed is None:
            image = opener(BytesIO(data))
            tiles = list(image.tile)
            image.load()
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise almost any exception on bytes that are not all there
        return Completeness.UNDECODABLE
    if packed is not None:
        return _of_rows(data, [start for start, _ in packed.strips], packed.row, packed.end)
    if tiles and all(tile.codec_name == "raw" for tile in tiles):
        return _of_tiles(data, image, tiles)
    if magic == _JPEG and has_hole:
        return Completeness.CUT
    return Completeness.WHOLE if ended or len(data) - len(written) < _least_tail(len(data)) else Completeness.CUT


def _least_tail(size: int) -> int:
    """The zeros that say that the rest of an image is missing, which has `size` bytes."""
    return min(_TAIL_BYTES, size // _TAIL_SHARE)


def _of_tiles(data: bytes, image: ImageFile, tiles: list[Any]) -> Completeness:
    """Rows that Pillow reads as they lie in the file, in BMP and TIFF."""
    last = max(tiles, key=lambda tile: tile.offset)
    if isinstance(image, TiffImageFile):
        # a row of TIFF has no padding
        bits = image.tag_v2.get(_BITS, (1,))
        depth = sum(bits) if image.tag_v2.get(_PLANAR, 1) == 1 else bits[0]
        row = int((image.tag_v2.get(_TILE_WIDTH, image.size[0]) * depth + 7) // 8)
    else:
        # BMP gives the distance of rows
        row = int(last.args[1])
    pixels_end = min(len(data), last.offset + row * (last.extents[3] - last.extents[1]))
    return _of_rows(data, [tile.offset for tile in tiles], row, pixels_end)


def _of_rows(data: bytes, starts: list[int], row: int, pixels_end: int) -> Completeness:
    """`starts`: where pieces begin of rows of `row` bytes each. A copy ends anywhere, a black border at a row's end."""
    written = len(data[:pixels_end].rstrip(b"\0"))
    tail = pixels_end - written
    if tail < _least_tail(pixels_end - min(starts)):
        return Completeness.WHOLE
    start = max((start for start in starts if start <= written), default=written)
    before = data[max(start, written - row) : written]
    if 0 < (written - start) % row < row - min(_PADDING_BYTES, row // 8) and bytes(_GAP_BYTES) not in before:
        return Completeness.CUT
    return Completeness.DARK if tail >= row else Completeness.WHOLE
