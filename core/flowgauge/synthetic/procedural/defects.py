"""Defects of the surface itself: in its colour, relief and gloss, before any light falls.

They share no code with `flowgauge.synthetic.anomalies`, which draws on finished photographs: were they the same, a
gauge would be tested on what it was tuned with.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from flowgauge.synthetic.noise import Field, Points, smooth_noise, stroke, through, wander
from flowgauge.synthetic.procedural.workpiece import FRAME, Colour, Rng, Workpiece

_FIBRES: tuple[Colour, ...] = ((0.05, 0.05, 0.06), (0.85, 0.85, 0.82), (0.12, 0.2, 0.5), (0.5, 0.1, 0.08))
_STAINS: tuple[Colour, ...] = ((0.55, 0.42, 0.25), (0.35, 0.34, 0.33), (0.6, 0.35, 0.2), (0.4, 0.45, 0.4))


Damage = tuple[Workpiece, Field]
"""The surface with a defect, and the share (N, N) of each pixel that it covers, in [0, 1]."""


def damaged(workpiece: Workpiece, kind: str, rng: Rng, contrast: float) -> tuple[Workpiece, NDArray[np.bool_]]:
    """`workpiece` with one defect of `kind`, of a severity drawn from subtle to obvious and scaled by `contrast`, and
    the mask (N, N) of the pixels of which it covers more than 0.3.

    Raises ValueError for a kind that is not in `DEFECTS`.
    """
    if kind not in DEFECTS:
        raise ValueError(f"{kind!r} is no defect of a surface. Use one of: {', '.join(DEFECTS)}.")
    severity = contrast * float(np.exp(rng.uniform(np.log(0.35), np.log(1.0))))
    defective, footprint = _DAMAGES[kind](workpiece, rng, severity)
    return defective, footprint > 0.3


def scratch(workpiece: Workpiece, rng: Rng, severity: float) -> Damage:
    """A groove with raised lips through the skin, showing the body."""
    length = _pixels(workpiece, rng.uniform(40, 150))
    path = through(_spot(workpiece, rng), wander(rng, (0, 0), rng.uniform(0, 2 * np.pi), length, 0.003, 0.02))
    # full in the middle, thin at both ends
    tapered = np.asarray(np.clip(np.sin(np.linspace(0.15, np.pi - 0.15, length)) * 1.6, 0.3, 1))
    widths = tapered * rng.uniform(1.1, 2.2) * (0.7 + 0.5 * severity)
    groove, lips = _line(workpiece, path, widths), _line(workpiece, path, 3 * widths)
    bare = _coloured(workpiece, groove * min(1, 0.35 + 0.5 * severity), workpiece.body)
    relief = 0.5 * severity * (lips - groove) - 1.2 * severity * groove
    return _shifted(bare, relief, gloss=0.2 * groove), groove


def pit(workpiece: Workpiece, rng: Rng, severity: float) -> Damage:
    """A ragged hollow with a dark bottom, or two or three side by side."""
    hollow: Field = np.zeros_like(workpiece.height)
    spot = _spot(workpiece, rng)
    for _ in range(rng.choice([1, 1, 2, 3])):
        size = np.exp(rng.uniform(np.log(3), np.log(7))) * (0.7 + 0.4 * severity)
        near = spot + rng.normal(0, workpiece.scale * 7, 2)
        hollow = np.maximum(hollow, np.clip(1.3 * (1 - _ragged(workpiece, rng, near, size, 0.15)), 0, 1))
    edge = np.clip(3 * hollow, 0, 1)
    dark = _coloured(workpiece, edge * 0.6 * min(1, severity + 0.2), (0.05, 0.045, 0.04))
    depth = np.asarray(4.5 * severity * np.sqrt(hollow), np.float32)
    return _shifted(dark, -depth, gloss=-edge), edge


def stain(workpiece: Workpiece, rng: Rng, severity: float) -> Damage:
    """A dried drop: it filters the light that the surface returns, most at its rim."""
    size = np.exp(rng.uniform(np.log(9), np.log(34)))
    inside = 1 - _ragged(workpiece, rng, _spot(workpiece, rng), size, 0.18)
    drop = np.clip(inside * size / 2.5, 0, 1)
    rim = np.exp(-((inside / 0.12) ** 2)) * drop
    cloud = np.clip(1 + 0.25 * smooth_noise(rng, workpiece.height.shape, 10), 0.5, 1.5)
    thickness = np.clip(severity * (0.45 * drop * cloud + 0.35 * rim), 0, 1)
    colour = np.array(_STAINS[rng.integers(len(_STAINS))], np.float32)
    filtered = workpiece.albedo * (1 - thickness[:, :, None] * (1 - colour))
    return replace(workpiece, albedo=filtered, gloss=workpiece.gloss * (1 - 0.7 * thickness)), drop


def crack(workpiece: Workpiece, rng: Rng, severity: float) -> Damage:
    """A crooked gap that branches; next to no light comes back out of it."""
    length, heading = _pixels(workpiece, rng.uniform(45, 150)), rng.uniform(0, 2 * np.pi)
    trunk = through(_spot(workpiece, rng), wander(rng, (0, 0), heading, length, 0.003, 0.7))
    width = rng.uniform(1.0, 1.8) * (0.7 + 0.5 * severity)
    gap = _line(workpiece, trunk, width * np.linspace(1, 0.45, length))
    for _ in range(rng.integers(0, 4)):
        root, reach = rng.integers(length // 5, length), _pixels(workpiece, rng.uniform(12, 40))
        side = heading + rng.choice([-1, 1]) * rng.uniform(0.5, 1.3)
        branch = wander(rng, tuple(trunk[root]), side, reach, 0.003, 0.7)
        gap = np.maximum(gap, _line(workpiece, branch, width * np.linspace(0.7, 0.3, reach)))
    dark = _coloured(workpiece, gap * min(1, 0.4 + 0.6 * severity), (0.03, 0.03, 0.03))
    return _shifted(dark, -2.0 * severity * gap, gloss=-gap), gap


def chip(workpiece: Workpiece, rng: Rng, severity: float) -> Damage:
    """A piece broken off the part's edge: a rough, faceted break in the colour of the body."""
    size = np.exp(rng.uniform(np.log(10), np.log(22))) * (0.7 + 0.4 * severity)
    # a pixel on the part's edge; the frame's border, where the part goes on beyond it
    part = workpiece.part > 0.5
    candidates = np.argwhere(part & ~ndimage.binary_erosion(part, border_value=0))
    spot = np.asarray(candidates[rng.integers(len(candidates))], np.float64)
    inside = 1 - _ragged(workpiece, rng, spot, size, 0.2)
    broken = np.clip(inside * size * 1.5, 0, 1) * workpiece.part
    facets = smooth_noise(rng, workpiece.height.shape, 28)
    bare = _coloured(workpiece, broken * (0.92 + 0.04 * np.clip(facets, -2, 2)), workpiece.body)
    relief = broken * (-3 * np.clip(inside, 0, 1) - 2 + 0.7 * facets)
    return _shifted(bare, relief, gloss=-broken), broken


def fibre(workpiece: Workpiece, rng: Rng, severity: float) -> Damage:
    """A hair or a thread that lies on the part, and its soft shadow."""
    length = _pixels(workpiece, rng.uniform(25, 90))
    path = through(_spot(workpiece, rng), wander(rng, (0, 0), rng.uniform(0, 2 * np.pi), length, 0.05, 0.05))
    hair = _line(workpiece, path, np.full(length, rng.uniform(1.1, 1.6) + 0.7 * severity))
    shadow = ndimage.gaussian_filter(hair, 1.6 * workpiece.scale) * (1 - hair)
    shaded = replace(workpiece, albedo=workpiece.albedo * (1 - 0.5 * shadow[:, :, None]))
    # a colour that differs from the part's own
    own = workpiece.albedo.mean(axis=(0, 1))
    distinct = [colour for colour in _FIBRES if np.abs(np.array(colour) - own).max() > 0.2]
    lying = _coloured(shaded, hair, distinct[rng.integers(len(distinct))])
    return _shifted(lying, 0.8 * hair, gloss=-0.5 * hair), hair


def dent(workpiece: Workpiece, rng: Rng, severity: float) -> Damage:
    """A smooth hollow from a blow; nothing but the way that it turns the light gives it away."""
    size = np.exp(rng.uniform(np.log(8), np.log(20)))
    radius = _ragged(workpiece, rng, _spot(workpiece, rng), size, 0.06)
    hollow = np.exp(-(radius**2) * 2) - 0.25 * np.exp(-(((radius - 1.25) / 0.3) ** 2))
    footprint = np.clip((1.15 - radius) * 4, 0, 1) * workpiece.part
    return _shifted(workpiece, -0.75 * size * severity * hollow), footprint


_DAMAGES = {damage.__name__: damage for damage in (scratch, pit, stain, crack, chip, fibre, dent)}

DEFECTS = tuple(_DAMAGES)


def _pixels(workpiece: Workpiece, length: float) -> int:
    return max(6, round(length * workpiece.scale))


def _spot(workpiece: Workpiece, rng: Rng) -> Points:
    """A pixel well inside the part."""
    margin = round(12 * workpiece.scale)
    room = ndimage.binary_erosion(workpiece.part > 0.5, iterations=max(1, margin), border_value=0)
    candidates = np.argwhere(room)
    return np.asarray(candidates[rng.integers(len(candidates))], np.float64)


def _line(workpiece: Workpiece, path: Points, widths: Points) -> Field:
    """(N, N) coverage of a line of `widths` units, never thinner than a pixel, along `path` in pixels, on the part."""
    pixels = np.maximum(widths * workpiece.scale, 1)
    return np.asarray(stroke(path, workpiece.height.shape, pixels) * workpiece.part, np.float32)


def _ragged(workpiece: Workpiece, rng: Rng, centre: Points, size: float, raggedness: float) -> Field:
    """(N, N) distance from `centre` as a multiple of `size` units: an uneven ellipse has 1 on its rim."""
    size_y, size_x = workpiece.height.shape
    y, x = np.ogrid[:size_y, :size_x]
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.6)
    along = (x - centre[1]) * np.cos(angle) + (y - centre[0]) * np.sin(angle)
    across = (y - centre[0]) * np.cos(angle) - (x - centre[1]) * np.sin(angle)
    radius = np.hypot(along / stretch, across) / (size * workpiece.scale)
    uneven = smooth_noise(rng, workpiece.height.shape, min(60.0, 1.5 * FRAME / size))
    return np.asarray(radius * (1 + raggedness * np.clip(uneven, -2, 2)), np.float32)


def _coloured(workpiece: Workpiece, opacity: Field, colour: Colour) -> Workpiece:
    tinted_colour = np.array(colour, np.float32)
    return replace(workpiece, albedo=workpiece.albedo + opacity[:, :, None] * (tinted_colour - workpiece.albedo))


def _shifted(workpiece: Workpiece, relief: Field, gloss: Field | float = 0.0) -> Workpiece:
    """`relief` is added to the height; `gloss`, as a share of full, to the gloss."""
    return replace(
        workpiece,
        height=(workpiece.height + relief * workpiece.part).astype(np.float32),
        gloss=np.clip(workpiece.gloss + gloss * np.maximum(workpiece.gloss, 0.1), 0, 1).astype(np.float32),
    )
