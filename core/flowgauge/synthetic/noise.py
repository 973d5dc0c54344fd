"""Scalar fields to draw with: smooth noise, and distances to curves. Geometry only; what they mean is the caller's."""

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


def stroke(path: Points, shape: tuple[int, int], widths: Points, depth: Points | float = 1.0) -> Field:
    """(H, W) opacity of a smooth-edged line along `path` (n, 2), (y, x), at most a pixel or so apart, with a width in
    pixels and a depth in [0, 1] at each of its points. Distances to it are exact below the pixel.
    """
    opacity, hit = np.zeros(shape, np.float32), np.zeros(shape, bool)
    cells = np.floor(path + 0.5).astype(int)
    inside = np.all((cells >= 0) & (cells < np.array(shape)), axis=1)
    hit[tuple(cells[inside].T)] = True
    near = np.asarray(ndimage.maximum_filter(hit, size=2 * int(np.ceil(widths.max() + 1.5)) + 1), bool)
    if near.any():
        fine = np.arange((len(path) - 1) * _DENSITY + 1) / _DENSITY
        dense = np.stack([np.interp(fine, np.arange(len(path)), column) for column in path.T], axis=1)
        distance, dense_nearest = cKDTree(dense).query(np.argwhere(near))
        nearest = np.minimum(dense_nearest // _DENSITY, len(path) - 1)
        coverage = np.clip(widths[nearest] / 2 - distance + 0.5, 0, 1)
        opacity[near] = coverage * np.broadcast_to(depth, len(path))[nearest]
    return opacity
