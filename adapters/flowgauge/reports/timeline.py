"""The timeline: every image's score against the threshold, with adaptation above and switched off below."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from flowgauge.domain.messages import Decision
from flowgauge.reports.figures import Gauge, adapted, frozen
from flowgauge.reports.markup import Markup, join, tag
from flowgauge.reports.story import Point, Story, Truth
from flowgauge.reports.svg import BentScale, Scale, line, path, picture, symbol, text, value_axis
from flowgauge.reports.wording import short, significant

WIDTH = 1120.0
LEFT, RIGHT = 52.0, WIDTH - 10.0
BANDS, MARKS, CHART, GAP, FOOT = 36.0, 46.0, 206.0, 44.0, 36.0
TOP = BANDS + MARKS
LOWER = TOP + CHART + GAP
BOTTOM = LOWER + CHART
HEIGHT = BOTTOM + FOOT


def timeline(story: Story) -> Markup:
    """Both ensembles share the images and the scale of scores; what lies beyond the scale is held at its rim."""
    across = Scale(-0.5, len(story.points) - 0.5, LEFT, RIGHT)
    upper, lower = _scale(story.points, TOP + CHART, TOP), _scale(story.points, BOTTOM, LOWER)
    return picture(
        WIDTH,
        HEIGHT,
        "Scores of all images in order of capture against the threshold, with adaptation and with it switched off",
        _bands(story, across),
        _chart(story.points, across, upper, adapted, "with adaptation"),
        _chart(story.points, across, lower, frozen, "switched off: the first gauge on the same images"),
        _marks(story, across),
        _count_axis(across),
    )


def legend() -> Markup:
    """What colours, shapes, strengths and lines mean."""
    truths = [(_key(Decision.PASS, truth), truth.value) for truth in (Truth.GOOD, Truth.DEFECT)]
    shapes = [(_key(decision, Truth.UNKNOWN), decision.value) for decision in Decision]
    lines = [(_stroke(kind), words) for kind, words in _LINES.items()]
    uses = {"may train": "trains", "only judged": ""}
    faint = [(_key(Decision.PASS, Truth.UNKNOWN, class_), words) for words, class_ in uses.items()]
    groups = (("truth", truths), ("decision", shapes), ("use", faint), ("events", lines))
    return tag("dl", *(_group(name, entries) for name, entries in groups), class_="legend")


_LINES = {"threshold": "threshold", "drift": "drift alert", "adaptation": "adaptation", "swap": "swap"}


def _scale(points: Sequence[Point], start: float, end: float) -> BentScale:
    """All scores, with most of the room around the thresholds: there an image is passed or rejected."""
    calls = [call for point in points for call in (point.adapted, point.frozen)]
    scores = np.array([call.score for call in calls])
    thresholds = np.array([call.threshold for call in calls])
    low, high = (float(end) for end in np.quantile(scores, (0.001, 0.999)))
    low, high = min(low, float(thresholds.min())), max(high, float(thresholds.max()))
    pad = 0.04 * ((high - low) or 1.0)
    pivot = float(np.median(thresholds))
    width = max(pivot - low, (high - low) / 50) / 2
    return BentScale(low - pad * 0.2, high + pad, start, end, pivot, width)


def _bands(story: Story, across: Scale) -> Markup:
    return join(*(_band(story, index, across) for index in range(len(story.phases))))


def _band(story: Story, index: int, across: Scale) -> Markup | None:
    indices = [point.index for point in story.points if point.phase == index]
    if not indices:
        return None
    start, end = across(indices[0] - 0.5), across(indices[-1] + 0.5)
    phase = story.phases[index]
    words = f"{phase.name}: {phase.condition}" if phase.condition else phase.name
    return tag(
        "g",
        tag("title", words),
        tag("rect", x=start, y=0.0, width=end - start, height=BOTTOM, class_="band odd" if index % 2 else "band"),
        text(start + 8, 15, phase.name, "phase"),
        text(start + 8, 30, _clipped(phase.condition, end - start), "condition"),
    )


def _clipped(words: str, width: float) -> str:
    """As much of `words` as fits into `width` pixels at the size of the small type, some 5.6 a letter."""
    room = int((width - 14) / 5.6)
    return words if len(words) <= room else words[: max(room - 1, 0)].rstrip(" ,") + "…"


def _chart(points: Sequence[Point], across: Scale, up: Scale, gauge: Gauge, name: str) -> Markup:
    return tag(
        "g",
        value_axis(up, LEFT, RIGHT, 9),
        text(LEFT + 8, up.end - 12, name, "chart"),
        *(_dot(point, across, up, gauge) for point in _defects_last(points)),
        _threshold(points, across, up, gauge),
    )


def _defects_last(points: Sequence[Point]) -> list[Point]:
    """Drawn over the good ones, which are many."""
    return sorted(points, key=lambda point: point.truth is Truth.DEFECT)


def _dot(point: Point, across: Scale, up: Scale, gauge: Gauge) -> Markup:
    call = gauge(point)
    title = (
        f"image {point.index} · {point.image_id} · {point.truth.value} · {call.decision.value} · "
        f"score {significant(call.score)}, threshold {significant(call.threshold)} · gauge {short(call.version)}"
    )
    strength = "trains" if point.use_for_training else ""
    return symbol(across(point.index), up(call.score), call.decision, point.truth, title, strength)


def _threshold(points: Sequence[Point], across: Scale, up: Scale, gauge: Gauge) -> Markup:
    """A step wherever another gauge took over."""
    corners: list[tuple[float, float]] = []
    for threshold, run in groupby(points, key=lambda point: gauge(point).threshold):
        indices = [point.index for point in run]
        height = up(threshold)
        corners += [(across(indices[0] - 0.5), height), (across(indices[-1] + 0.5), height)]
    return path(corners, "threshold")


def _marks(story: Story, across: Scale) -> Markup:
    """Events stand between the image that they followed and the next; swaps before the first image they scored."""
    drifts = [_mark(across(d.index + 0.5), "drift", d.message) for d in story.drifts]
    asked = [_mark(across(a.index + 0.5), "adaptation", _gated(a.report.accepted)) for a in story.adaptations]
    swaps = [_mark(across(s.index - 0.5), "swap", f"swap to gauge {s.version}") for s in story.swaps]
    return join(*drifts, *asked, *swaps)


def _gated(accepted: bool) -> str:
    return "adaptation, accepted by the gate" if accepted else "adaptation, refused by the gate"


_HEADS = {
    "drift": "M0,0L5.4,-9L-5.4,-9z",
    "adaptation": "M-4.4,-9h8.8v8.8h-8.8z",
    "swap": "M0,-9.4a4.7,4.7 0 1,0 .01,0z",
}
_HEIGHTS = {"drift": TOP - 27, "adaptation": TOP - 14, "swap": TOP - 1}


def _mark(x: float, kind: str, words: str) -> Markup:
    height = _HEIGHTS[kind]
    return tag(
        "g",
        tag("title", words),
        line(x, height, x, TOP + CHART, kind),
        tag("path", d=_HEADS[kind], transform=f"translate({x:.1f} {height:.1f})", class_=f"head {kind}"),
        class_="mark",
    )


def _count_axis(across: Scale) -> Markup:
    ticks = [value for value in across.ticks(10) if value >= 0]
    return join(
        line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"),
        *(text(across(value), BOTTOM + 15, f"{value:.0f}", "tick", "middle") for value in ticks),
        text((LEFT + RIGHT) / 2, BOTTOM + 30, "images in order of capture", "tick", "middle"),
    )


def _key(decision: Decision, truth: Truth, class_: str = "") -> Markup:
    drawn = symbol(8, 8, decision, truth, class_=class_)
    return tag("svg", drawn, width=16, height=16, viewBox="0 0 16 16", aria_hidden="true")


def _stroke(kind: str) -> Markup:
    drawn = (
        line(1, 8, 19, 8, kind)
        if kind == "threshold"
        else join(
            line(10, 4, 10, 16, kind), tag("path", d=_HEADS[kind], transform="translate(10 9)", class_=f"head {kind}")
        )
    )
    return tag("svg", drawn, width=20, height=16, viewBox="0 0 20 16", aria_hidden="true")


def _group(name: str, entries: Sequence[tuple[Markup, str]]) -> Markup:
    return tag("div", tag("dt", name), *(tag("dd", key, words) for key, words in entries))
