"""ROC curves of several detectors on the same test images."""

from collections.abc import Sequence

import numpy as np

from flowgauge.evaluation.comparison import Contender
from flowgauge.evaluation.datasets import GOOD
from flowgauge.evaluation.results import Run
from flowgauge.reports.markup import Markup, join, tag
from flowgauge.reports.svg import Scale, line, path, picture, text, tick_words, value_axis

WIDTH, HEIGHT = 760.0, 470.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 470.0, 18.0, 432.0
_LABEL_GAP = 22.0
_SAMPLE = 26.0

COLOURS = ("#0b6e4f", "#c2410c", "#1d4ed8", "#7c3aed", "#0891b2", "#be185d", "#64748b", "#4d7c0f")
DASHES = (None, "7 4", "2 3")
"""The two numbers have no common divisor: a curve shares its colour or its dashes with others, but never both."""


def roc_chart(entrants: Sequence[Contender]) -> Markup:
    """One curve each, labelled in the order given. Test images of both kinds are needed."""
    across, up = Scale(0.0, 1.0, LEFT, RIGHT), Scale(0.0, 1.0, BOTTOM, TOP)
    ticks = across.ticks(5)
    return picture(
        WIDTH,
        HEIGHT,
        "share of defects caught against the share of good images that alarm, for each detector",
        value_axis(up, LEFT, RIGHT, 5),
        *(line(across(value), TOP, across(value), BOTTOM, "grid") for value in ticks),
        *(
            text(across(value), BOTTOM + 16, words, "tick", "middle")
            for value, words in zip(ticks, tick_words(ticks), strict=True)
        ),
        line(LEFT, BOTTOM, RIGHT, TOP, "axis"),
        *(_curve(contender.run, rank, across, up) for rank, contender in enumerate(entrants)),
        *(_label(contender, rank) for rank, contender in enumerate(entrants)),
        text((LEFT + RIGHT) / 2, HEIGHT - 6, "good images that alarm", "tick", "middle"),
        text(LEFT, TOP - 6, "defects caught", "tick"),
    )


def roc(run: Run) -> list[tuple[float, float]]:
    """(false alarms, catches), shares in [0, 1], from none to all; images of equal scores are one step."""
    scores = np.array([image.score for image in run.images])
    defective = np.array([image.kind != GOOD for image in run.images])
    values = np.unique(scores)[::-1]
    alarms = [float((scores[~defective] >= value).mean()) for value in values]
    catches = [float((scores[defective] >= value).mean()) for value in values]
    return [(0.0, 0.0), *zip(alarms, catches, strict=True)]


def _curve(run: Run, rank: int, across: Scale, up: Scale) -> Markup:
    points = [(across(alarm), up(caught)) for alarm, caught in roc(run)]
    colour, dashes = look(rank)
    return tag("g", path(points, "curve"), stroke=colour, stroke_dasharray=dashes, stroke_width=1.8)


def _label(contender: Contender, rank: int) -> Markup:
    colour, dashes = look(rank)
    start, y = RIGHT + 28, TOP + 14 + rank * _LABEL_GAP
    sample = tag("g", line(start, y - 4, start + _SAMPLE, y - 4, "sample"), stroke=colour, stroke_dasharray=dashes)
    value = "–" if contender.run.image_auroc is None else f"{contender.run.image_auroc:.3f}"
    return join(sample, text(start + _SAMPLE + 8, y, f"{contender.detector} {value}"))


def look(rank: int) -> tuple[str, str | None]:
    """Colour and dashes of the curve of that place in a list."""
    return COLOURS[rank % len(COLOURS)], DASHES[rank % len(DASHES)]
