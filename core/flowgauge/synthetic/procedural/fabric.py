"""Woven cloth: yarns that pass over and under each other, none quite like its neighbour."""

import numpy as np

from flowgauge.synthetic.noise import Field
from flowgauge.synthetic.procedural.workpiece import Rng, Workpiece, between, filled, grains, plane, turned, varied

_PALETTE = ((0.2, 0.27, 0.42), (0.46, 0.4, 0.33), (0.3, 0.34, 0.28), (0.5, 0.5, 0.48))


def fabric(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """Plain weave or twill in two yarns; `wear` loosens it: wider yarns, more fuzz."""
    pitch = line.uniform(8, 11) * (1 + 0.25 * wear)
    twill = line.random() < 0.5
    base = varied(_PALETTE[line.integers(len(_PALETTE))], line, 0.1)
    warp_colour, weft_colour = varied(base, part, 0.015), varied(varied(base, line, 0.15), part, 0.015)
    along, across = turned(*plane(size), line.normal(0, 0.1) + part.normal(0, 0.015))
    warp_at, weft_at = _laid(part, along / pitch), _laid(part, across / pitch)
    warp, weft = _yarns(warp_at, weft_at, twill)
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


def _yarns(warp_at: Field, weft_at: Field, twill: bool) -> tuple[Field, Field]:
    """Heights of the warp and of the weft: a yarn is round across, and bows over and under the others along."""
    columns, rows = np.floor(warp_at), np.floor(weft_at)
    step = columns + rows
    over = np.where(np.mod(step, 4) < 2 if twill else np.mod(step, 2) < 1, 1, -1).astype(np.float32)
    in_warp, in_weft = warp_at - columns - 0.5, weft_at - rows - 0.5
    warp = _round(in_warp) * (0.65 + 0.35 * over * np.cos(np.pi * in_weft))
    weft = _round(in_weft) * (0.65 - 0.35 * over * np.cos(np.pi * in_warp))
    return warp, weft


def _round(offset: Field) -> Field:
    return np.asarray(np.sqrt(np.clip(1 - (1.9 * offset) ** 2, 0, 1)), np.float32)


def _per_yarn(part: Rng, at: Field) -> Field:
    """Each yarn's own lightness."""
    table = (1 + part.normal(0, 0.045, 97)).astype(np.float32)
    return np.asarray(table[np.floor(at).astype(np.int32) % len(table)], np.float32)
