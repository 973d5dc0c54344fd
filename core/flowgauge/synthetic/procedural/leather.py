"""Grained leather: rounded cells between fine creases."""

from itertools import product

import numpy as np

from flowgauge.synthetic.noise import Field
from flowgauge.synthetic.procedural.workpiece import Rng, Workpiece, between, filled, grains, plane, varied

_PERIOD = 64
"""Cells after which the pattern would repeat: more than fit into the frame."""

_HIDES = ((0.36, 0.21, 0.14), (0.2, 0.19, 0.19), (0.46, 0.28, 0.16))


def leather(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """Dyed hide; `wear` is a coarser hide: larger cells."""
    dye = varied(varied(_HIDES[line.integers(len(_HIDES))], line, 0.08), part, 0.03)
    cell = line.uniform(8, 11) * (1 + 0.4 * wear)
    bulge = _cells(part, *(_pulled(part, axis) / np.float32(cell) for axis in plane(size)))
    fine = grains(part, size, 1.2, 4)
    tone = np.clip(bulge * (1 + 0.05 * fine) + 0.08 * grains(part, size, 20, 90), 0, 1.2)
    crease = tuple(0.55 * channel for channel in dye)
    albedo = between((crease[0], crease[1], crease[2]), dye, tone)
    return Workpiece(albedo, 1.1 * bulge + 0.08 * fine, filled(size, 0.1), (0.5, 0.38, 0.27), filled(size))


def _pulled(part: Rng, axis: Field) -> Field:
    return np.asarray(axis + 1.2 * grains(part, len(axis), 6, 20), np.float32)


def _cells(part: Rng, y: Field, x: Field) -> Field:
    """Worley's cellular noise: 0 on the borders of the cells around random points, one per unit square, towards 1 in
    their middles."""
    jitter_y, jitter_x = part.random((2, _PERIOD * _PERIOD), dtype=np.float32)
    row, column = np.floor(y), np.floor(x)
    in_y, in_x = y - row, x - column
    square = row.astype(np.int32) * _PERIOD + column.astype(np.int32)
    nearest, second = np.full_like(y, np.inf), np.full_like(y, np.inf)
    for down, right in product((-1, 0, 1), repeat=2):
        neighbour = (square + (down * _PERIOD + right)) % (_PERIOD * _PERIOD)
        squared = (jitter_y[neighbour] + down - in_y) ** 2 + (jitter_x[neighbour] + right - in_x) ** 2
        second = np.minimum(second, np.maximum(nearest, squared))
        nearest = np.minimum(nearest, squared)
    return np.asarray(1 - np.exp(-4 * (np.sqrt(second) - np.sqrt(nearest))), np.float32)
