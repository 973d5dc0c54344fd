"""Wood veneer: growth rings, fibres and pores along the grain."""

import numpy as np

from flowgauge.synthetic.noise import Field
from flowgauge.synthetic.procedural.workpiece import (
    Rng,
    Workpiece,
    between,
    filled,
    grains,
    plane,
    streaks,
    turned,
    varied,
)

_SPECIES = (
    ((0.66, 0.47, 0.29), (0.45, 0.28, 0.15)),
    ((0.5, 0.32, 0.2), (0.3, 0.18, 0.11)),
    ((0.74, 0.6, 0.43), (0.58, 0.42, 0.26)),
)


def wood(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """Flat-sawn veneer of one species; `wear` is a coarser log: wider rings, more and longer pores."""
    pale, dark = (varied(varied(tone, line, 0.05), part, 0.03) for tone in _SPECIES[line.integers(len(_SPECIES))])
    angle = line.choice([0, np.pi / 2]) + part.normal(0, 0.04)
    ring = line.uniform(11, 18) * (1 + 0.5 * wear)
    late = _late_wood(part, size, angle, ring)
    fibres = streaks(part, size, angle, 30, 0.9)
    pores = np.clip((streaks(part, size, angle, 9 + 5 * wear, 0.9) - 1.75 + 0.3 * wear) * 1.5, 0, 1)
    shade = (1 + 0.05 * fibres + 0.03 * grains(part, size, 15, 90)) * (1 - 0.45 * pores)
    albedo = between(pale, dark, late) * shade[:, :, None]
    return Workpiece(albedo, 0.06 * fibres - 0.5 * pores, filled(size, 0.06), varied(pale, line, 0.05), filled(size))


def _late_wood(part: Rng, size: int, angle: float, ring: float) -> Field:
    """How dark each place of its growth ring is, in [0, 1]: slowly darker through the year, then abruptly pale."""
    along, across = turned(*plane(size), angle)
    tip, side = part.uniform(-200, 200), part.uniform(-160, 160)
    arch = np.hypot(across - side, 0.22 * (along - tip)) / ring
    year = np.mod(arch + 0.22 * streaks(part, size, angle, 130, 30), 1)
    return np.asarray(np.minimum(year**2.2, (1 - year) * 7) * 0.9, np.float32)
