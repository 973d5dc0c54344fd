"""Few-shot curves: image AUROC against the number of good images that a detector was fitted to."""

from collections.abc import Sequence
from statistics import fmean

from flowgauge.evaluation.suite import SuiteResults, image_auroc
from flowgauge.reports.markup import Markup, join, tag
from flowgauge.reports.roc import look
from flowgauge.reports.svg import covering, line, path, picture, text, value_axis

WIDTH, HEIGHT = 480.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 464.0, 34.0, 218.0
_KEY_WIDTH, _KEY_COLUMN, _KEY_ROW = 1000.0, 200.0, 22.0
_SAMPLE = 26.0

Curve = Sequence[tuple[int | None, float]]
"""(images, AUROC) of one detector; None stands for all training images."""


def training_size_charts(found: SuiteResults) -> Markup:
    """A chart of the means over the data sets that have all sizes, and one of each data set."""
    charts = [training_size_chart(name, found.shots, _curves(found, [name])) for name in found.datasets]
    complete = found.with_all_sizes()
    if len(complete) > 1:
        charts.insert(
            0, training_size_chart(f"mean of {len(complete)} data sets", found.shots, _curves(found, complete))
        )
    return join(training_size_key(found.detectors), tag("div", *charts, class_="pair-of-charts few-shots"))


def training_size_chart(title: str, shots: Sequence[int], curves: Sequence[Curve]) -> Markup:
    """Sizes stand equally far apart, all training images last."""
    sizes = (*shots, None)
    x_of = {size: LEFT + (RIGHT - LEFT) * (0.06 + 0.88 * i / max(len(sizes) - 1, 1)) for i, size in enumerate(sizes)}
    up = covering([value for curve in curves for _, value in curve], BOTTOM, TOP)
    return picture(
        WIDTH,
        HEIGHT,
        f"image AUROC against the number of training images: {title}",
        text(LEFT, 18, title, "phase"),
        value_axis(up, LEFT, RIGHT),
        *(text(x, BOTTOM + 18, "all" if size is None else str(size), "tick", "middle") for size, x in x_of.items()),
        text((LEFT + RIGHT) / 2, HEIGHT - 8, "good images fitted to", "tick", "middle"),
        *(_drawn([(x_of[size], up(value)) for size, value in curve], rank) for rank, curve in enumerate(curves)),
    )


def training_size_key(detectors: Sequence[str]) -> Markup:
    """Which line is which detector."""
    columns = int(_KEY_WIDTH // _KEY_COLUMN)
    height = _KEY_ROW * (1 + (len(detectors) - 1) // columns)
    return picture(
        _KEY_WIDTH,
        height,
        "the line of each detector",
        *(
            _sample(name, rank, _KEY_COLUMN * (rank % columns), _KEY_ROW * (rank // columns) + 14)
            for rank, name in enumerate(detectors)
        ),
    )


def _curves(found: SuiteResults, datasets: Sequence[str]) -> list[Curve]:
    """One for each detector, of the sizes that it has on all of `datasets`."""
    return [_curve(found, datasets, detector) for detector in found.detectors]


def _curve(found: SuiteResults, datasets: Sequence[str], detector: str) -> Curve:
    curve: list[tuple[int | None, float]] = []
    for size in (*found.shots, None):
        spreads = [found.spread(dataset, detector, image_auroc, size) for dataset in datasets]
        if all(spreads):
            curve.append((size, fmean(spread.mean for spread in spreads if spread is not None)))
    return curve


def _drawn(points: Sequence[tuple[float, float]], rank: int) -> Markup:
    colour, dashes = look(rank)
    dots = (tag("circle", cx=x, cy=y, r=3, fill=colour, stroke="none") for x, y in points)
    return tag("g", path(points, "curve"), *dots, stroke=colour, stroke_dasharray=dashes, stroke_width=1.8)


def _sample(name: str, rank: int, x: float, y: float) -> Markup:
    colour, dashes = look(rank)
    sample = tag("g", line(x, y - 4, x + _SAMPLE, y - 4, "sample"), stroke=colour, stroke_dasharray=dashes)
    return join(sample, text(x + _SAMPLE + 8, y, name))
