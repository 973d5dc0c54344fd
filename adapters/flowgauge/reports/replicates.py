"""The charts of an estimate: how scores lie, and what each repeat found."""

from collections.abc import Sequence

import numpy as np

from flowgauge.evaluation.estimate import EstimateReport, Figure, Repeat, standardised_scores
from flowgauge.reports.markup import Markup, join, tag
from flowgauge.reports.svg import Scale, line, picture, text, tick_words, value_axis
from flowgauge.reports.wording import percent, significant

WIDTH, HEIGHT = 1080.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, WIDTH - 16.0, 22.0, HEIGHT - 44.0
_BINS = 60

_NARROW, _TALL = 480.0, 250.0
_PLOT_LEFT, _PLOT_RIGHT, _PLOT_TOP, _PLOT_BOTTOM = 52.0, 440.0, 30.0, 214.0


def scores_chart(repeats: Sequence[Repeat]) -> Markup:
    """Histograms of both kinds, each of area one; the few scores beyond the picture stand at its rim."""
    good, defect = standardised_scores(repeats)
    thresholds = [repeat.standardised(repeat.threshold) for repeat in repeats]
    low = min(float(np.quantile(good, 0.005)), *thresholds)
    high = max(float(np.quantile(defect, 0.95)), float(np.quantile(good, 0.995)), *thresholds)
    across = Scale(low, high, LEFT, RIGHT)
    edges = np.linspace(low, high, _BINS + 1)
    shares = [np.histogram(np.clip(scores, low, high), edges)[0] / len(scores) for scores in (good, defect)]
    up = Scale(0.0, float(max(share.max() for share in shares)), BOTTOM, TOP)
    ticks = across.ticks(8)
    return picture(
        WIDTH,
        HEIGHT,
        "distribution of the scores of good images and of defects, with the thresholds",
        _band(across(min(thresholds)), across(max(thresholds))),
        *(line(across(value), TOP, across(value), BOTTOM, "grid") for value in ticks),
        *(
            text(across(value), BOTTOM + 16, words, "tick", "middle")
            for value, words in zip(ticks, tick_words(ticks), strict=True)
        ),
        *(
            _hill(share.tolist(), [across(edge) for edge in edges], up, kind)
            for share, kind in zip(shares, ("good", "defect"), strict=True)
        ),
        *(_threshold(across(value)) for value in thresholds),
        text((LEFT + RIGHT) / 2, HEIGHT - 8, "deviations from the median good score", "tick", "middle"),
    )


def _band(left: float, right: float) -> Markup:
    return tag("rect", x=left, y=TOP, width=max(right - left, 1.0), height=BOTTOM - TOP, class_="band odd")


def _threshold(x: float) -> Markup:
    return line(x, BOTTOM, x, BOTTOM - 14, "threshold")


def _hill(shares: Sequence[float], edges: Sequence[float], up: Scale, kind: str) -> Markup:
    """The outline of a histogram, filled."""
    points = [(edges[0], up(0.0))]
    for number, share in enumerate(shares):
        points += [(edges[number], up(share)), (edges[number + 1], up(share))]
    points.append((edges[-1], up(0.0)))
    patches = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("polygon", points=patches, class_=f"hill {kind}")


def threshold_chart(repeats: Sequence[Repeat]) -> Markup:
    """Each repeat's threshold, on the scale of its detector's good scores."""
    values = [repeat.standardised(repeat.threshold) for repeat in repeats]
    up = Scale(min(0.0, *values), max(values) * 1.1 or 1.0, _PLOT_BOTTOM, _PLOT_TOP)
    marks = (
        _mark(number, len(values), up(value), "on", f"repeat {number + 1}: {significant(value)}")
        for number, value in enumerate(values)
    )
    return _plot("threshold, in deviations from the median good score", value_axis(up, _PLOT_LEFT, _PLOT_RIGHT), *marks)


def repeats_chart(estimate_report: EstimateReport) -> Markup:
    """Each repeat's false alarms and misses, and the intervals of their means."""
    shares = [(repeat.false_alarm_share, repeat.miss_share) for repeat in estimate_report.repeats]
    found = estimate_report.estimate
    ends = (found.false_alarm_share.interval[1], found.miss_share.interval[1])
    up = Scale(0.0, max(*ends, *(max(pair) for pair in shares)) * 1.08 or 1.0, _PLOT_BOTTOM, _PLOT_TOP)
    marks = [
        join(
            _mark(number, len(shares), up(alarms), "series-0", f"repeat {number + 1}: {percent(alarms)} false alarms"),
            _mark(number, len(shares), up(misses), "series-1", f"repeat {number + 1}: {percent(misses)} misses"),
        )
        for number, (alarms, misses) in enumerate(shares)
    ]
    return _plot(
        "false alarms (blue) and misses (orange); at the right, the intervals of their means",
        _percents(up),
        *marks,
        _interval(found.false_alarm_share, up, _PLOT_RIGHT + 14, 0),
        _interval(found.miss_share, up, _PLOT_RIGHT + 28, 1),
    )


def _percents(up: Scale) -> Markup:
    return join(
        *(
            join(
                line(_PLOT_LEFT, up(value), _PLOT_RIGHT, up(value), "grid"),
                text(_PLOT_LEFT - 8, up(value) + 3.5, percent(value), "tick", "end"),
            )
            for value in up.ticks(4)
        )
    )


def _interval(figure: Figure, up: Scale, x: float, series: int) -> Markup:
    low, high = figure.interval
    words = f"{percent(figure.mean)} on average, {percent(low)} to {percent(high)}"
    return tag(
        "g",
        tag("title", words),
        line(x, up(low), x, up(high), f"interval series-{series}"),
        tag("rect", x=x - 5, y=up(figure.mean) - 1.2, width=10, height=2.4, class_=f"series-{series}"),
    )


def _mark(number: int, of: int, y: float, class_: str, title: str) -> Markup:
    x = Scale(-0.5, of - 0.5, _PLOT_LEFT, _PLOT_RIGHT)(number)
    return tag("circle", tag("title", title), cx=x, cy=y, r=4.5, class_=class_)


def _plot(name: str, *children: Markup) -> Markup:
    middle = (_PLOT_LEFT + _PLOT_RIGHT) / 2
    return picture(
        _NARROW, _TALL, name, text(0, 14, name, "chart"), *children, text(middle, 240, "repeats", "tick", "middle")
    )
