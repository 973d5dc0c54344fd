"""The critical-difference diagram (Demšar, JMLR 2006): mean ranks on an axis, and bars that join
those that do not differ."""

from math import ceil

from flowgauge.evaluation.suite import Ranking
from flowgauge.reports.markup import Markup, join
from flowgauge.reports.svg import Scale, line, path, picture, text

WIDTH = 880.0
LEFT, RIGHT = 200.0, WIDTH - 200.0
_AXIS = 62.0
_CD = 22.0  # height of the ruler that shows the critical difference
_BAR_GAP = 9.0
_LABEL_GAP = 22.0
_OVERHANG = 5.0  # by which a bar sticks out of the ranks that it joins, so that two equal ranks have one too


def critical_difference_diagram(ranking: Ranking) -> Markup:
    """The best rank is at the left. Names of the better half stand left, those of the other half right."""
    count = len(ranking.mean_ranks)
    across = Scale(1.0, float(count), LEFT, RIGHT)
    names = _AXIS + 24 + _BAR_GAP * len(ranking.groups)
    height = names + _LABEL_GAP * (ceil(count / 2) - 1) + 16
    return picture(
        WIDTH,
        height,
        "mean ranks of the detectors; bars join those whose ranks do not differ significantly",
        _ruler(ranking, across),
        line(LEFT, _AXIS, RIGHT, _AXIS, "rank-axis"),
        *(_tick(across(rank), str(rank)) for rank in range(1, count + 1)),
        *_names(ranking, across, names),
        *(
            _bar(across(ranking.mean_ranks[group[0]]), across(ranking.mean_ranks[group[-1]]), level)
            for level, group in enumerate(ranking.groups)
        ),
    )


def _ruler(ranking: Ranking, across: Scale) -> Markup:
    """As long as the critical difference, at most as long as the axis."""
    end = across(1.0 + ranking.critical_difference)
    beyond = "" if ranking.can_differ else ", longer than the axis"
    return join(
        line(LEFT, _CD, end, _CD, "rank-axis"),
        *(line(x, _CD - 4, x, _CD + 4, "rank-axis") for x in ((LEFT, end) if ranking.can_differ else (LEFT,))),
        text(LEFT, _CD - 9, f"critical difference {ranking.critical_difference:.2f}{beyond}", "tick"),
    )


def _tick(x: float, words: str) -> Markup:
    return join(line(x, _AXIS - 5, x, _AXIS, "rank-axis"), text(x, _AXIS - 9, words, "tick", "middle"))


def _names(ranking: Ranking, across: Scale, first: float) -> list[Markup]:
    """In each half the rank nearest to its rim stands highest, so that no two lines cross."""
    ordered = list(ranking.mean_ranks.items())
    better, worse = ordered[: ceil(len(ordered) / 2)], ordered[ceil(len(ordered) / 2) :]
    return [
        _name(name, rank, across(rank), first + _LABEL_GAP * level, left=half is better)
        for half in (better, worse[::-1])
        for level, (name, rank) in enumerate(half)
    ]


def _name(name: str, rank: float, x: float, y: float, *, left: bool) -> Markup:
    rim = LEFT - 14 if left else RIGHT + 14
    label = f"{name}  {rank:.2f}" if left else f"{rank:.2f}  {name}"
    beside, anchor = (rim - 6, "end") if left else (rim + 6, "start")
    return join(path([(x, _AXIS), (x, y), (rim, y)], "rank-link"), text(beside, y + 4, label, anchor=anchor))


def _bar(start: float, end: float, level: int) -> Markup:
    y = _AXIS + 11 + _BAR_GAP * level
    return line(start - _OVERHANG, y, end + _OVERHANG, y, "rank-group")
