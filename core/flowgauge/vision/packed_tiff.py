"""Gray TIFF of 9 to 15 bits a sample, as machine-vision cameras write Mono10, Mono12 and Mono14; Pillow knows one form
of one of them, and takes its values for 16 bits.
"""

import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2

from flowgauge.domain.errors import UnreadableImage

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
class PackedGray:
    """`size`: (width, height) as stored; `bits` a sample; `strips`: the encoded bytes; `words`: samples lie in 16 bits
    each, in that byte order, and not one behind the other; `inverted`: 0 is white; `unread`: what is beyond us,
    or ""."""

    size: tuple[int, int]
    bits: int
    strips: bytes
    words: str | None
    inverted: bool
    orientation: int
    unread: str

    def shades(self) -> NDArray[np.uint8]:
        """(H, W) as stored, over the range that the header declares. Raises `UnreadableImage` for too few bytes."""
        width, height = self.size
        row = width * 2 if self.words else -(-width * self.bits // 8)
        if len(self.strips) < row * height:
            raise UnreadableImage(
                f"The image is truncated: {len(self.strips):,} of {row * height:,} bytes.",
                "Capture or copy the image again, and check that the transfer completes.",
            )
        white = (1 << self.bits) - 1
        table = ((np.arange(65536).clip(max=white) * 255 + white // 2) // white).astype(np.uint8)
        found = np.empty((height, width), np.uint8)
        rows = np.frombuffer(self.strips, np.uint8, row * height).reshape(height, row)
        step = max(1, _BLOCK // width)
        for start in range(0, height, step):
            part = rows[start : start + step]
            if self.words:
                values = part.view(f"{self.words}u2").astype(np.uint16)
            else:
                bits = np.unpackbits(part, axis=1)[:, : width * self.bits].reshape(len(part), width, self.bits)
                values = np.zeros((len(part), width), np.uint16)
                for index in range(self.bits):
                    values = values * np.uint16(2) + bits[:, :, index]
            found[start : start + step] = table[values]
        return 255 - found if self.inverted else found


def packed_gray(data: bytes) -> PackedGray | None:
    """What a TIFF declares that has 9 to 15 bits a sample; None for any other file, and for one whose header is
    damaged, which Pillow then refuses. Raises `UnreadableImage` for forms that nothing here unpacks.
    """
    if not data.startswith(tuple(PREFIXES)):
        return None
    try:
        found = _declared(data)
    except Exception:  # Pillow's reader of tags raises almost anything on damaged bytes
        return None
    if found is None:
        return None
    if found.unread:
        raise UnreadableImage(
            f"The TIFF packs {found.bits} bits a sample in a form that is not read ({found.unread}).",
            "Save it as one uncompressed gray page, or with 8 or 16 bits a sample.",
        )
    return found


def _declared(data: bytes) -> PackedGray | None:
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
    bits = np.ravel(tags.get(_BITS, 1))
    if not ((bits > 8) & (bits < 16)).all():
        return None
    size = int(tags[_WIDTH]), int(tags[_HEIGHT])
    unread = [
        f"{name} {value}"
        for name, tag, known in _KNOWN
        if (value := int(np.ravel(tags.get(tag, known[0]))[0])) not in known
    ]
    if tags.next:
        unread.append("several pages")
    if _OFFSETS not in tags:
        unread.append("tiles")
    strips_at = zip(np.ravel(tags.get(_OFFSETS, ())), np.ravel(tags.get(_COUNTS, ())), strict=True)
    strips = b"".join(data[int(start) : int(start + count)] for start, count in strips_at)
    order = "<" if data.startswith(b"II") else ">"
    return PackedGray(
        size=size,
        bits=int(bits[0]),
        strips=strips,
        words=order if len(strips) >= 2 * size[0] * size[1] else None,
        inverted=int(tags.get(_PHOTOMETRIC, 1)) == 0,
        orientation=int(tags.get(_ORIENTATION, 1)),
        unread=", ".join(unread),
    )
