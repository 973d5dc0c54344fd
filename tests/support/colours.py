"""Files of 16 bits a channel, which Pillow reads and does not write."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def png16(values: NDArray[np.uint16], key: tuple[int, ...] | None = None) -> bytes:
    """(H, W, channels), every second row filtered by the one above, as encoders do; `key` is the colour that is
    transparent."""
    height, width, channels = values.shape

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = [
        b"\x02" + (rows[y] - rows[y - 1]).tobytes() if y % 2 else b"\x00" + rows[y].tobytes() for y in range(height)
    ]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    header += b"" if key is None else chunk(b"tRNS", struct.pack(f">{channels}H", *key))
    pieces = header + chunk(b"IDAT", zlib.compress(b"".join(filtered))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + pieces


def tiff48(values: NDArray[np.uint16], order: str) -> bytes:
    """(H, W, 3), uncompressed, in one strip."""
    height, width, _ = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 0), (259, 4, 1, 1), (262, 4, 1, 2), (273, 4, 1, 0)]
    tags += [(277, 4, 1, 3), (278, 4, 1, height), (279, 4, 1, len(data))]
    bits = 8 + 2 + 12 * len(tags) + 4
    known = {258: bits, 273: bits + 6}
    entries = b"".join(
        struct.pack(f"{order}HHII", t, kind, count, known.get(t, value)) for t, kind, count, value in tags
    )
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return magic + directory + struct.pack(f"{order}3H", 16, 16, 16) + data
