"""Each adaptation: what it learned from, how sure it was step by step, and what the gate asked of it."""

from collections.abc import Sequence
from itertools import pairwise

from flowgauge.domain.trace import FLOW, HEAD, Check, Step
from flowgauge.reports.figures import rejection
from flowgauge.reports.markup import Markup, header_row, join, scrollable, tag
from flowgauge.reports.story import Adaptation
from flowgauge.reports.svg import Scale, covering, line, path, picture, text, value_axis
from flowgauge.reports.wording import plural, short, significant

WIDTH, HEIGHT = 340.0, 176.0
_FEW = 40  # steps whose dots do not touch
LEFT, RIGHT, TOP, BOTTOM = 52.0, WIDTH - 12.0, 30.0, HEIGHT - 26.0


def adaptation_articles(adaptations: Sequence[Adaptation]) -> Markup:
    return join(*(_article(number, adaptation) for number, adaptation in enumerate(adaptations, start=1)))


def _article(number: int, adaptation: Adaptation) -> Markup:
    """Folded but for the first, so that the page stays short; everything is there for who asks."""
    report = adaptation.report
    state = "accepted" if report.accepted else "refused"
    summary = tag(
        "summary",
        tag("span", f"Adaptation {number}", class_="name"),
        tag("span", state, class_=f"state {state}"),
        tag("span", _asked(adaptation), class_="asked"),
    )
    charts = _charts(report.trace.steps)
    return tag("details", summary, tag("p", _learned(adaptation)), charts, _gate(report.gate.checks), open=number == 1)


def _asked(adaptation: Adaptation) -> str:
    report = adaptation.report
    candidate = short(report.version, 24)
    return f"after image {adaptation.index}, because of {report.request.reason.value}; candidate {candidate}"


def _learned(adaptation: Adaptation) -> str:
    trace, kept_out = adaptation.report.trace, rejection(adaptation)
    return (
        f"Of {plural(trace.buffered, 'buffered image')}, the newest {kept_out.reserved} were kept for the gate, "
        f"{kept_out.rejected} were rejected as suspects in {plural(len(trace.rounds), 'round')}, and {trace.trained} "
        "trained."
    )


_LOSSES = {HEAD: "head: loss on synthetic anomalies", FLOW: "flow: loss, nats per dimension"}


def _charts(steps: Sequence[Step]) -> Markup:
    """A row for the head and one for the flow, where there were steps of them."""
    parts = ([step for step in steps if step.what == what] for what in _LOSSES)
    return join(*(tag("div", *_charts_of(part), class_="charts") for part in parts if part))


def _charts_of(steps: Sequence[Step]) -> list[Markup]:
    losses = [step.train_loss for step in steps], [step.validation_loss for step in steps]
    what = steps[0].what
    return [
        _chart(_LOSSES[what], steps, {"train": losses[0], "held out": losses[1]}),
        _chart(f"{what}: det Σ of the two losses", steps, {"": [step.det_covariance for step in steps]}),
        _chart(f"{what}: λ, the pull to the anchor", steps, {"": [step.l2 for step in steps]}),
    ]


def _chart(name: str, steps: Sequence[Step], series: dict[str, list[float]]) -> Markup:
    up = covering([value for values in series.values() for value in values], BOTTOM, TOP)
    across = Scale(0, max(len(steps) - 1, 1), LEFT + 6, RIGHT - 6)
    drawn = (_series(index, words, values, across, up) for index, (words, values) in enumerate(series.items()))
    return picture(
        WIDTH,
        HEIGHT,
        f"{name}, over the steps of the inner loop",
        text(0, 12, name, "chart"),
        value_axis(up, LEFT, RIGHT, 3),
        *(_round_line(at, across) for at in _round_starts(steps)),
        *drawn,
        text((LEFT + RIGHT) / 2, HEIGHT - 6, _steps_words(steps), "tick", "middle"),
    )


def _steps_words(steps: Sequence[Step]) -> str:
    rounds = len({step.round for step in steps})
    return plural(len(steps), "step") + (f" in {rounds} rounds" if rounds > 1 else "")


def _series(index: int, words: str, values: Sequence[float], across: Scale, up: Scale) -> Markup:
    radius = 2.4 if len(values) <= _FEW else 1.4
    patches = [(across(step), up(value)) for step, value in enumerate(values)]
    label = text(RIGHT - 2 - 62 * (1 - index), 12, words, f"tick series-{index}", "end") if words else None
    dots = (
        tag("circle", tag("title", significant(value)), cx=x, cy=y, r=radius, class_=f"series-{index}")
        for (x, y), value in zip(patches, values, strict=True)
    )
    return join(path(patches, f"series series-{index}"), *dots, label)


def _round_starts(steps: Sequence[Step]) -> list[int]:
    return [index for index, (before, after) in enumerate(pairwise(steps), start=1) if before.round != after.round]


def _round_line(at: int, across: Scale) -> Markup:
    return line(across(at - 0.5), TOP, across(at - 0.5), BOTTOM, "round")


def _gate(checks: Sequence[Check]) -> Markup:
    head = header_row("the gate asked", "value", "limit", "", "in words")
    table = tag("table", head, tag("tbody", *(_check(check) for check in checks)), class_="gate")
    return scrollable("The gate’s checks", table)


def _check(check: Check) -> Markup:
    limit = "–" if check.limit is None else significant(check.limit)
    mark = "reported" if check.limit is None else "passed" if check.passed else "refused"
    return tag(
        "tr",
        tag("th", check.name.replace("_", " "), scope="row"),
        tag("td", significant(check.value)),
        tag("td", limit),
        tag("td", mark, class_=f"mark-{mark}"),
        tag("td", check.message, class_="words"),
    )
