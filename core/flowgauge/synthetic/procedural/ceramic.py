"""A glazed ceramic tile: pale, speckled, slightly uneven under its glaze."""

import numpy as np

from flowgauge.synthetic.procedural.workpiece import Rng, Workpiece, between, filled, grains, tinted, varied

_CLAY = (0.62, 0.38, 0.26)


def ceramic(line: Rng, part: Rng, size: int, wear: float) -> Workpiece:
    """Brown and gray specks of two sizes in a pale glaze, whose `wear` is a coarser, denser batch of specks."""
    glaze = varied(varied((0.56, 0.53, 0.475), line, 0.06), part, 0.015)
    speck_colour = varied((0.3, 0.22, 0.16), line, 0.3)
    small, large = 1.6 + 0.6 * wear, line.uniform(3.2, 4.5) + 1.5 * wear
    token_scores = line.uniform(1.7, 2.1) - 0.3 * wear
    specks = np.clip((grains(part, size, small, 3) - token_scores) * 2.5, 0, 0.7)
    specks = np.maximum(specks, np.clip((grains(part, size, large, 6) - token_scores - 0.2) * 2, 0, 0.9))
    clouds = grains(part, size, 12, 90)
    albedo = tinted((1, 1, 1), 1 + 0.018 * clouds) * between(glaze, speck_colour, specks)
    height = 0.16 * grains(part, size, 9, 40) + 0.02 * clouds
    return Workpiece(albedo, height, filled(size, 0.25), _CLAY, filled(size))
