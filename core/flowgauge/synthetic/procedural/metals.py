"""Metal surfaces: brushed sheet, a face-turned washer, and sand-cast iron."""

import numpy as np

from flowgauge.synthetic.noise import Field
from flowgauge.synthetic.procedural.workpiece import (
    FRAME,
    Rng,
    Workpiece,
    filled,
    grains,
    plane,
    streaks,
    tinted,
    varied,
)

_FRESH_METAL = (0.78, 0.78, 0.8)
_BELT = (0.055, 0.055, 0.06)


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
    groove = _grooves(part, radius + np.float32(0.25) * np.sin(bearing * 3 + part.uniform(0, 6)), feed)
    mottle = grains(part, size, 1.5, 40)
    face = _between_edges(radius, bore, outer, FRAME / size)
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


def _grooves(part: Rng, radius: Field, feed: float) -> Field:
    """The lathe's profile along the radius: its feed, and the noise of chips and chatter."""
    steps = np.arange(0, FRAME, 0.5)
    rough = np.convolve(part.standard_normal(len(steps)), (0.25, 0.5, 0.25), mode="same")
    return np.asarray(0.8 * np.sin(2 * np.pi * radius / feed) + 0.9 * np.interp(radius, steps, rough), np.float32)


def _between_edges(radius: Field, bore: float, outer: float, pixel: float) -> Field:
    return np.asarray(
        np.clip((outer - radius) / pixel + 0.5, 0, 1) * np.clip((radius - bore) / pixel + 0.5, 0, 1), np.float32
    )
