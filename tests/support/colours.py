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
    return _tiff(values.shape, 16, order, [values.astype(f"{order}u2").tobytes()])


def planes_tiff(values: NDArray[np.uint8] | NDArray[np.uint16], order: str = "<") -> bytes:
    """(H, W, 3), uncompressed, in a strip for each colour."""
    size = values.dtype.itemsize
    planes = [values[:, :, channel].astype(f"{order}u{size}").tobytes() for channel in range(3)]
    return _tiff(values.shape, 8 * size, order, planes)


def _tiff(shape: tuple[int, ...], bits: int, order: str, strips: list[bytes]) -> bytes:
    height, width, _ = shape
    counts = [len(strip) for strip in strips]
    tags = {256: [width], 257: [height], 258: [bits] * 3, 259: [1], 262: [2], 273: counts, 277: [3], 278: [height]}
    tags |= {279: counts, 284: [1 if len(strips) == 1 else 2]}
    lists_at = 8 + 2 + 12 * len(tags) + 4
    pixels_at = lists_at + 4 * sum(len(numbers) for numbers in tags.values() if len(numbers) > 1)
    tags[273] = [pixels_at + sum(counts[:number]) for number in range(len(strips))]
    entries, lists = b"", b""
    for tag, numbers in tags.items():
        value = numbers[0] if len(numbers) == 1 else lists_at + len(lists)
        entries += struct.pack(f"{order}HHII", tag, 4, len(numbers), value)
        lists += struct.pack(f"{order}{len(numbers)}I", *numbers) if len(numbers) > 1 else b""
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return magic + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + lists + b"".join(strips)
