"""Gray TIFF of 9 to 15 bits a sample, as machine-vision cameras write Mono10, Mono12 and Mono14; Pillow knows one form
of one of them, and takes its values for 16 bits.
"""

import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2

from flowgauge.domain.errors import UnreadableImage
from flowgauge.domain.image_limits import current_limits

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_OFFSETS, _ORIENTATION, _SAMPLES, _COUNTS = 273, 274, 277, 279
# what can be unpacked, by tag; the first is what the format means where the tag is missing
_KNOWN = (
    ("samples a pixel:", _SAMPLES, (1,)),
    ("compression", _COMPRESSION, (1,)),
    ("photometric interpretation", _PHOTOMETRIC, (1, 0)),
    ("fill order", _FILL_ORDER, (1,)),
)
# pixels that are unpacked at once: with more, a byte for each bit takes memory; with fewer, it takes longer
_BLOCK = 1 << 20


@dataclass(frozen=True)
class PackedRows:
    """Where a TIFF of 9 to 15 bits a sample holds its rows. `size`: (width, height) as stored; `depth`: bits a sample;
    `strips`: (offset in the file, bytes), from the top; `words`: the header promises bytes for 16 bits a sample, which
    then do not lie one behind the other; `orientation`: as EXIF counts.
    """

    size: tuple[int, int]
    depth: int
    strips: list[tuple[int, memoryview]]
    words: bool
    inverted: bool
    orientation: int

    @property
    def stored(self) -> int:
        return sum(len(piece) for _, piece in self.strips)

    @property
    def row(self) -> int:
        """Bytes of a row."""
        width, _ = self.size
        return width * 2 if self.words else -(-width * self.depth // 8)

    @property
    def end(self) -> int:
        """Where the last row in the file ends; of a single strip, what lies behind its rows does not count."""
        start, piece = max(self.strips, key=lambda strip: strip[0])
        return start + min(len(piece), self.row * self.size[1])


def packed_gray(data: bytes) -> Image.Image | None:
    """The upright image (8 bits, over the range that the header declares) in a TIFF of 9 to 15 bits a sample; None for
    any other file. Raises `UnreadableImage` as `packed_rows` does.
    """
    rows = packed_rows(data)
    if rows is None:
        return None
    shades = _shades(rows, "<" if data.startswith(b"II") else ">")
    image = Image.fromarray(255 - shades if rows.inverted else shades)
    image.getexif()[ExifTags.Base.Orientation] = rows.orientation
    ImageOps.exif_transpose(image, in_place=True)
    return image


def packed_rows(data: bytes) -> PackedRows | None:
    """What the header says; None for other files, and for one whose header is damaged, which Pillow then refuses.

    Raises `UnreadableImage` for forms that nothing here unpacks, too many pixels (`ImageLimits`), too few bytes, and
    strips that share bytes: a small file could list any number of those.
    """
    if not data.startswith(tuple(PREFIXES)):
        return None
    try:
        tags = _tags(data)
        bits = np.ravel(tags.get(_BITS, 1))
        if not ((bits > 8) & (bits < 16)).all():
            return None
        unread = [
            f"{name} {value}"
            for name, tag, known in _KNOWN
            if (value := int(np.ravel(tags.get(tag, known[0]))[0])) not in known
        ]
        unread += ["several pages"] if tags.next else []
        unread += ["tiles"] if _OFFSETS not in tags else []
        size = int(tags[_WIDTH]), int(tags[_HEIGHT])
        starts, counts = ([int(each) for each in np.ravel(tags.get(tag, ()))] for tag in (_OFFSETS, _COUNTS))
        rows = PackedRows(
            size,
            int(bits[0]),
            [(start, memoryview(data)[start : start + count]) for start, count in zip(starts, counts, strict=True)],
            sum(counts) >= 2 * size[0] * size[1],
            int(tags.get(_PHOTOMETRIC, 1)) == 0,
            int(tags.get(_ORIENTATION, 1)),
        )
    except Exception:  # Pillow's reader of tags raises almost anything on damaged bytes
        return None
    if unread:
        raise UnreadableImage(
            f"The TIFF packs {rows.depth} bits a sample in a form that is not read ({', '.join(unread)}).",
            "Save it as one uncompressed gray page, or with 8 or 16 bits a sample.",
        )
    current_limits().check(rows.size)
    _check_bytes(rows, len(data))
    return rows


def _check_bytes(rows: PackedRows, size: int) -> None:
    needed = rows.row * rows.size[1]
    if rows.stored > size:
        raise UnreadableImage(
            f"The TIFF lists the same bytes in several strips: {rows.stored:,} bytes of a file of {size:,}.",
            "Save it again, each row once.",
        )
    if rows.stored < needed:
        raise UnreadableImage(
            f"The image is truncated: {rows.stored:,} of {needed:,} bytes.",
            "Capture or copy the image again, and check that the transfer completes.",
        )


def _tags(data: bytes) -> ImageFileDirectory_v2:
    # a filter that stays, and not `catch_warnings`, which mixes up the filters when several threads decode
    warnings.filterwarnings("ignore", module=r"PIL\.")
    stream = BytesIO(data)
    header = stream.read(8)
    if header[2:4] in (b"\x2b\x00", b"\x00\x2b"):
        # of a BigTIFF, whose header is longer
        header += stream.read(8)
    tags = ImageFileDirectory_v2(header)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def _shades(packed: PackedRows, order: str) -> NDArray[np.uint8]:
    """(H, W) as stored."""
    (width, height), depth = packed.size, packed.depth
    white = (1 << depth) - 1
    table = ((np.arange(65536).clip(max=white) * 255 + white // 2) // white).astype(np.uint8)
    found = np.empty((height, width), np.uint8)
    strips = b"".join(piece for _, piece in packed.strips)
    rows = np.frombuffer(strips, np.uint8, packed.row * height).reshape(height, packed.row)
    step = max(1, _BLOCK // width)
    for start in range(0, height, step):
        part = rows[start : start + step]
        if packed.words:
            values = part.view(f"{order}u2").astype(np.uint16)
        else:
            bits = np.unpackbits(part, axis=1)[:, : width * depth].reshape(len(part), width, depth)
            values = np.zeros((len(part), width), np.uint16)
            for index in range(depth):
                values = values * np.uint16(2) + bits[:, :, index]
        found[start : start + step] = table[values]
    return found
