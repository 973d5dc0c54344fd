"""TIFF files as machine-vision cameras write them, byte by byte."""

import struct

import numpy as np
from numpy.typing import NDArray


def packed_tiff(values: NDArray[np.uint16], bits: int, order: str = "<", strips: int = 1, **tags: int) -> bytes:
    """Gray (H, W) of `bits` a sample, one behind the other, rows beginning at whole bytes; `order` is that of the
    header's numbers, and `tags` (`t259=5`) replace what it says."""
    height, width = values.shape
    shifts = np.arange(bits - 1, -1, -1)
    rows = np.packbits((values[:, :, None] >> shifts & 1).reshape(height, width * bits).astype(np.uint8), axis=1)
    return _tiff(rows, (width, height), bits, order, strips, tags)


def word_tiff(values: NDArray[np.uint16], bits: int, order: str = "<", **tags: int) -> bytes:
    """Gray (H, W) of 16 bits a sample, of which the header declares `bits`."""
    height, width = values.shape
    rows = values.astype(f"{order}u2").view(np.uint8).reshape(height, width * 2)
    return _tiff(rows, (width, height), bits, order, 1, tags)


def _tiff(
    rows: NDArray[np.uint8], size: tuple[int, int], bits: int, order: str, strips: int, tags: dict[str, int]
) -> bytes:
    width, height = size
    per_strip = -(-height // strips)
    pieces = [rows[start : start + per_strip].tobytes() for start in range(0, height, per_strip)]
    facts = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 277: 1, 278: per_strip}
    facts |= {int(name[1:]): value for name, value in tags.items()}
    lists_at = 8 + 2 + 12 * (len(facts) + 2) + 4
    offsets, counts = lists_at, lists_at + 4 * len(pieces)
    data = counts + 4 * len(pieces)
    starts = [data + sum(map(len, pieces[:number])) for number in range(len(pieces))]
    lists = {273: (starts, offsets), 279: ([len(piece) for piece in pieces], counts)}
    entries = {tag: struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in facts.items()}
    for tag, (numbers, at) in lists.items():
        entries[tag] = struct.pack(f"{order}HHII", tag, 4, len(numbers), numbers[0] if len(numbers) == 1 else at)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    tables = b"".join(struct.pack(f"{order}{len(numbers)}I", *numbers) for numbers, _ in lists.values())
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return magic + directory + tables + b"".join(pieces)
