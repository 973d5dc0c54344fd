"""What parts are made of: each function draws the surface of one part of a line.

`line` draws what all parts of a line share, `part` what tells them apart; `wear` in [0, 1] coarsens the surface as worn
tools do.
"""

from itertools import product

import numpy as np

from flowgauge.synthetic.noise import Field
from flowgauge.synthetic.procedural.workpiece import (
    FRAME,
    Rng,
    Workpiece,
    between,
    filled,
    grains,
    plane,
    streaks,
    tinted,
    turned,
    varied,
)

# colours in [0, 1], RGB
_FRESH_METAL = (0.78, 0.78, 0.8)
_BELT = (0.055, 0.055, 0.06)
_CLAY = (0.62, 0.38, 0.26)
_YARNS = ((0.2, 0.27, 0.42), (0.46, 0.4, 0.33), (0.3, 0.34, 0.28), (0.5, 0.5, 0.48))
_WOODS = (
    ((0.66, 0.47, 0.29), (0.45, 0.28, 0.15)),
    ((0.5, 0.32, 0.2), (0.3, 0.18, 0.11)),
    ((0.74, 0.6, 0.43), (0.58, 0.42, 0.26)),
)
_HIDES = ((0.36, 0.21, 0.14), (0.2, 0.19, 0.19), (0.46, 0.28, 0.16))
# cells of leather after which its pattern would repeat: more than fit into the frame
_PERIOD = 64


def brushed(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """Sheet metal, brushed in one direction: long fine streaks and a few deep ones."""
    angle = line.choice([0, np.pi / 2]) + line.normal(0, 0.1) + part.normal(0, 0.02)
    steel = varied(varied((0.43, 0.435, 0.45), line, 0.08), part, 0.02)
    width = (0.7 + 0.8 * wear) * line.uniform(0.8, 1.3)
    fine = streaks(part, size, angle, 45, width)
    broad = streaks(part, size, angle, 160, 5)
    deep = np.clip(streaks(part, size, angle, 70, 1.2) - 2, 0, None)
    shade = 1 + (0.075 + 0.05 * wear) * fine + 0.045 * broad - 0.12 * deep
    height = (0.05 + 0.05 * wear) * fine - 0.15 * deep
    return Workpiece(tinted(steel, shade), height, filled(size, 0.22), _FRESH_METAL, filled(size), filled(size, angle))


def turned_washer(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """A washer on a dark belt, its face turned on a lathe: concentric grooves, chamfered edges."""
    outer, bore = line.uniform(104, 116), line.uniform(30, 52)
    feed = line.uniform(3.2, 5) * (1 + 0.5 * wear)
    steel = varied(varied((0.46, 0.46, 0.475), line, 0.06), part, 0.02)
    y, x = plane(size)
    y, x = y - np.float32(part.normal(0, 2)), x - np.float32(part.normal(0, 2))
    radius, bearing = np.hypot(x, y), np.arctan2(y, x)
    # the lathe's profile along the radius: its feed, and the noise of chips and chatter
    wavy = radius + np.float32(0.25) * np.sin(bearing * 3 + part.uniform(0, 6))
    steps = np.arange(0, FRAME, 0.5)
    rough = np.convolve(part.standard_normal(len(steps)), (0.25, 0.5, 0.25), mode="same")
    profile = 0.8 * np.sin(2 * np.pi * wavy / feed) + 0.9 * np.interp(wavy, steps, rough)
    groove = np.asarray(profile, np.float32)
    mottle = grains(part, size, 1.5, 40)
    inside, outside = (np.clip(depth * size / FRAME + 0.5, 0, 1) for depth in (outer - radius, radius - bore))
    face = np.asarray(inside * outside, np.float32)
    chamfer = -1.3 * (np.clip(radius - outer + 5, 0, None) + np.clip(bore + 4 - radius, 0, None))
    metal = tinted(steel, 1 + 0.06 * groove + 0.035 * mottle)
    belt = tinted(_BELT, 1 + 0.25 * grains(part, size, 1, 6))
    height = ((0.1 + 0.06 * wear) * groove + 0.03 * mottle + np.maximum(chamfer, -7)) * face
    albedo = belt + face[:, :, None] * (metal - belt)
    return Workpiece(albedo, height, 0.3 * face, _FRESH_METAL, face, bearing + np.float32(np.pi / 2))


def cast_iron(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """Sand-cast iron: a rough gray skin with dull mottling."""
    iron = varied(varied((0.36, 0.355, 0.35), line, 0.1), part, 0.02)
    grain_size = line.uniform(2.2, 3.2) * (1 + 0.5 * wear)
    skin = grains(part, size, grain_size, 14, 1.5)
    mottle = grains(part, size, 8, 80)
    pores = np.clip(grains(part, size, 2, 5) - 2.2, 0, 1)
    height = (0.5 + 0.3 * wear) * skin - 1.5 * pores
    albedo = tinted(iron, 1 + 0.05 * skin + 0.06 * mottle - 0.3 * pores)
    return Workpiece(albedo, height, 0.1 + 0.03 * mottle, _FRESH_METAL, filled(size))


def ceramic(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """Brown and gray specks of two sizes in a pale glaze, whose `wear` is a coarser, denser batch of specks."""
    glaze = varied(varied((0.56, 0.53, 0.475), line, 0.06), part, 0.015)
    speck_colour = varied((0.3, 0.22, 0.16), line, 0.3)
    small, large = 1.6 + 0.6 * wear, line.uniform(3.2, 4.5) + 1.5 * wear
    sparseness = line.uniform(1.7, 2.1) - 0.3 * wear
    specks = np.clip((grains(part, size, small, 3) - sparseness) * 2.5, 0, 0.7)
    specks = np.maximum(specks, np.clip((grains(part, size, large, 6) - sparseness - 0.2) * 2, 0, 0.9))
    clouds = grains(part, size, 12, 90)
    albedo = tinted((1, 1, 1), 1 + 0.018 * clouds) * between(glaze, speck_colour, specks)
    height = 0.16 * grains(part, size, 9, 40) + 0.02 * clouds
    return Workpiece(albedo, height, filled(size, 0.25), _CLAY, filled(size))


def fabric(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """Plain weave or twill in two yarns; `wear` loosens it: wider yarns, more fuzz."""
    pitch = line.uniform(8, 11) * (1 + 0.25 * wear)
    twill = line.random() < 0.5
    base = varied(_YARNS[line.integers(len(_YARNS))], line, 0.1)
    warp_colour, weft_colour = varied(base, part, 0.015), varied(varied(base, line, 0.15), part, 0.015)
    along, across = turned(*plane(size), line.normal(0, 0.1) + part.normal(0, 0.015))
    warp_at, weft_at = _laid(part, along / pitch), _laid(part, across / pitch)
    # a yarn is round across, and bows over and under the others along
    columns, rows = np.floor(warp_at), np.floor(weft_at)
    step = columns + rows
    over = np.where(np.mod(step, 4) < 2 if twill else np.mod(step, 2) < 1, 1, -1).astype(np.float32)
    in_warp, in_weft = warp_at - columns - 0.5, weft_at - rows - 0.5
    warp = _round(in_warp) * (0.65 + 0.35 * over * np.cos(np.pi * in_weft))
    weft = _round(in_weft) * (0.65 - 0.35 * over * np.cos(np.pi * in_warp))
    fuzz = grains(part, size, 1, 3)
    twist = np.sin(2 * np.pi * (warp_at + weft_at) * 3)
    top = (warp > weft).astype(np.float32)
    lightness = np.where(top > 0, _per_yarn(part, warp_at), _per_yarn(part, weft_at))
    relief = np.maximum(warp, weft)
    shade = (0.55 + 0.45 * relief) * lightness * (1 + (0.07 + 0.07 * wear) * fuzz + 0.05 * twist)
    albedo = between(weft_colour, warp_colour, top) * shade[:, :, None]
    return Workpiece(albedo, 2.2 * relief + 0.12 * fuzz, filled(size, 0.02), (0.05, 0.05, 0.05), filled(size))


def _laid(part: Rng, at: Field) -> Field:
    """The number of the yarn at each place, with fractions, counted from anywhere and pulled a little off its place."""
    return np.asarray(at + 0.06 * grains(part, len(at), 25, 70) + part.uniform(0, 4), np.float32)


def _round(offset: Field) -> Field:
    return np.asarray(np.sqrt(np.clip(1 - (1.9 * offset) ** 2, 0, 1)), np.float32)


def _per_yarn(part: Rng, at: Field) -> Field:
    """Each yarn's own lightness."""
    table = (1 + part.normal(0, 0.045, 97)).astype(np.float32)
    return np.asarray(table[np.floor(at).astype(np.int32) % len(table)], np.float32)


def wood(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """Flat-sawn veneer of one species; `wear` is a coarser log: wider rings, more and longer pores."""
    pale, dark = (varied(varied(tone, line, 0.05), part, 0.03) for tone in _WOODS[line.integers(len(_WOODS))])
    angle = line.choice([0, np.pi / 2]) + part.normal(0, 0.04)
    ring = line.uniform(11, 18) * (1 + 0.5 * wear)
    # how dark each place of its growth ring is, in [0, 1]: slowly darker through the year, then abruptly pale
    along, across = turned(*plane(size), angle)
    tip, side = part.uniform(-200, 200), part.uniform(-160, 160)
    arch = np.hypot(across - side, 0.22 * (along - tip)) / ring
    year = np.mod(arch + 0.22 * streaks(part, size, angle, 130, 30), 1)
    late = np.asarray(np.minimum(year**2.2, (1 - year) * 7) * 0.9, np.float32)
    fibres = streaks(part, size, angle, 30, 0.9)
    pores = np.clip((streaks(part, size, angle, 9 + 5 * wear, 0.9) - 1.75 + 0.3 * wear) * 1.5, 0, 1)
    shade = (1 + 0.05 * fibres + 0.03 * grains(part, size, 15, 90)) * (1 - 0.45 * pores)
    albedo = between(pale, dark, late) * shade[:, :, None]
    return Workpiece(albedo, 0.06 * fibres - 0.5 * pores, filled(size, 0.06), varied(pale, line, 0.05), filled(size))


def leather(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """Dyed hide; `wear` is a coarser hide: larger cells."""
    dye = varied(varied(_HIDES[line.integers(len(_HIDES))], line, 0.08), part, 0.03)
    cell = line.uniform(8, 11) * (1 + 0.4 * wear)
    pulled = [np.asarray(axis + 1.2 * grains(part, size, 6, 20), np.float32) for axis in plane(size)]
    bulge = _cells(part, *(axis / np.float32(cell) for axis in pulled))
    fine = grains(part, size, 1.2, 4)
    tone = np.clip(bulge * (1 + 0.05 * fine) + 0.08 * grains(part, size, 20, 90), 0, 1.2)
    crease = tuple(0.55 * channel for channel in dye)
    albedo = between((crease[0], crease[1], crease[2]), dye, tone)
    return Workpiece(albedo, 1.1 * bulge + 0.08 * fine, filled(size, 0.1), (0.5, 0.38, 0.27), filled(size))


def _cells(part: Rng, y: Field, x: Field) -> Field:
    """Worley's noise: 0 on the borders of the cells around random points, one a unit square, towards 1 within."""
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
