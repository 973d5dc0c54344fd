"""Before and after: false alarms and misses per phase, with adaptation and with it switched off."""

from collections.abc import Callable, Sequence

from flowgauge.reports.figures import PhaseFigures, Rates
from flowgauge.reports.markup import Markup, join, scrollable, tag
from flowgauge.reports.svg import Scale, line, picture, text
from flowgauge.reports.wording import auroc, percent

WIDTH = 480.0
LEFT, RIGHT = 104.0, WIDTH - 104.0
ROW, TOP = 40.0, 30.0

Share = Callable[[Rates], float | None]


def false_alarm_chart(phases: Sequence[PhaseFigures]) -> Markup:
    return _chart(phases, "false alarms: good images above the threshold", lambda rates: rates.false_alarm)


def miss_chart(phases: Sequence[PhaseFigures]) -> Markup:
    return _chart(phases, "misses: defects at or below the threshold", lambda rates: rates.miss)


def _chart(phases: Sequence[PhaseFigures], name: str, share: Share) -> Markup:
    """One row a phase: a ring for the first gauge, a disc with adaptation, and the way between them."""
    bottom = TOP + ROW * len(phases)
    across = Scale(0.0, 1.0, LEFT, RIGHT)
    return picture(
        WIDTH,
        bottom + 22,
        f"{name}, for each phase, with adaptation and with it switched off",
        text(0, 14, name, "chart"),
        *(_tick(across, value, bottom) for value in across.ticks(4)),
        *(_row(phase, share, TOP + ROW * (index + 0.5), across) for index, phase in enumerate(phases)),
    )


def _tick(across: Scale, value: float, bottom: float) -> Markup:
    x = across(value)
    return join(line(x, TOP, x, bottom, "grid"), text(x, bottom + 15, f"{100 * value:.0f} %", "tick", "middle"))


def _row(phase: PhaseFigures, share: Share, y: float, across: Scale) -> Markup:
    label = text(0, y + 4, phase.name, "phase")
    off, on = share(phase.frozen), share(phase.adapted)
    if off is None or on is None:
        return label
    return tag(
        "g",
        tag("title", f"{phase.name}: {percent(off)} switched off, {percent(on)} with adaptation"),
        label,
        line(across(off), y, across(on), y, "way"),
        tag("circle", cx=across(off), cy=y, r=6.5, class_="off"),
        tag("circle", cx=across(on), cy=y, r=5, class_="on"),
        text(max(across(off), across(on)) + 13, y + 4, f"{percent(off)} → {percent(on)}", "value"),
    )


def phase_table(phases: Sequence[PhaseFigures]) -> Markup:
    head = tag("thead", _groups(), _columns())
    body = tag("tbody", *(_line(phase) for phase in phases))
    return scrollable("Figures of each phase", tag("table", head, body, class_="phases"))


_QUANTITIES = ("false alarms", "misses", "image AUROC", "to review")


def _groups() -> Markup:
    single = (tag("th", name, rowspan="2", scope="col") for name in ("phase", "good / defect"))
    paired = (tag("th", quantity, colspan="2", scope="colgroup") for quantity in _QUANTITIES)
    return tag("tr", *single, *paired)


def _columns() -> Markup:
    pair = (tag("th", "off", scope="col", class_="off"), tag("th", "adapted", scope="col"))
    return tag("tr", *(pair * len(_QUANTITIES)))


def _line(phase: PhaseFigures) -> Markup:
    cells = zip(_cells(phase.frozen), _cells(phase.adapted), strict=True)
    name = tag("th", phase.name, tag("small", phase.condition) if phase.condition else None, scope="row")
    pairs = (join(tag("td", off, class_="off"), tag("td", on)) for off, on in cells)
    return tag("tr", name, tag("td", f"{phase.good} / {phase.defect}"), *pairs)


def _cells(rates: Rates) -> tuple[str, ...]:
    return percent(rates.false_alarm), percent(rates.miss), auroc(rates.auroc), percent(rates.review)
