"""Scalar fields to draw with: smooth noise, and distances to curves. Geometry only; what they mean is the caller's."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

Field = NDArray[np.float32]
Points = NDArray[np.float64]

# steps over which a path keeps to one curvature, and to one leg of its zigzag
_BEND, _ZIGZAG = 20, 4
# points per pixel that distances to a curve are measured from: fewer, and its edges show steps
_DENSITY = 4


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: float) -> Field:
    """(H, W) noise of mean 0 and deviation 1 with about `cells` bumps along the shorter side."""
    pitch = min(shape) / cells
    rows, columns = (max(2, round(side / pitch) + 1) for side in shape)
    seeds = rng.standard_normal((rows, columns)).astype(np.float32)
    field = np.asarray(Image.fromarray(seeds).resize(shape[::-1], Image.Resampling.BICUBIC))
    return standardised(field)


def standardised(field: Field) -> Field:
    """Mean 0, deviation 1; a flat field becomes 0."""
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), np.float32)


def wander(
    rng: np.random.Generator, start: tuple[float, float], heading: float, steps: int, bend: float, jitter: float
) -> Points:
    """(steps, 2) points (y, x), one pixel apart: a path that bends by about `bend` radians a step, now to one side, now
    to the other, and zigzags by `jitter` radians, which does not add up."""
    knots = rng.normal(0, bend, steps // _BEND + 2)
    curvature = np.interp(np.arange(steps) / _BEND, np.arange(len(knots)), knots)
    zigzag = np.repeat(rng.normal(0, jitter, steps // _ZIGZAG + 1), _ZIGZAG)[:steps]
    angles = heading + np.cumsum(curvature) + zigzag
    moves = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return np.asarray(np.array(start) + np.cumsum(moves, axis=0), np.float64)


def through(nearest: Points, path: Points) -> Points:
    """`path`, moved so that its middle lies at `nearest`."""
    return np.asarray(path - path[len(path) // 2] + nearest, np.float64)


@dataclass(frozen=True)
class Stroke:
    """Where a curve runs. `near` (H, W) bool: pixels within reach; for each of them, in that order, `distance` to the
    curve in pixels and `nearest`, the index of the curve's nearest point."""

    near: NDArray[np.bool_]
    distance: Points
    nearest: NDArray[np.intp]


def stroke(points: Points, shape: tuple[int, int], reach: float) -> Stroke:
    """Distances to a curve given by `points` (n, 2), (y, x), at most a pixel or so apart; exact below the pixel, so
    what is drawn from them is smooth-edged."""
    hit = np.zeros(shape, bool)
    cells = np.floor(points + 0.5).astype(int)
    inside = np.all((cells >= 0) & (cells < np.array(shape)), axis=1)
    hit[tuple(cells[inside].T)] = True
    near = np.asarray(ndimage.maximum_filter(hit, size=2 * int(np.ceil(reach + 1.5)) + 1), bool)
    if not near.any():
        return Stroke(near, np.empty(0), np.empty(0, np.intp))
    fine = np.arange((len(points) - 1) * _DENSITY + 1) / _DENSITY
    dense = np.stack([np.interp(fine, np.arange(len(points)), column) for column in points.T], axis=1)
    distance, nearest = cKDTree(dense).query(np.argwhere(near))
    return Stroke(near, np.asarray(distance), np.minimum(nearest // _DENSITY, len(points) - 1))
