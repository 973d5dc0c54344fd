"""The report of a demonstration: every image's score, before and after by phase, each adaptation and what it kept
out, and the gauges."""

from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, PercentFormatter
from matplotlib.transforms import blended_transform_factory

from flowgauge.domain.messages import Decision
from flowgauge.domain.trace import FLOW, HEAD, Step
from flowgauge.reports import figures, pages
from flowgauge.reports.charts import COLOURS, Chart, chart, cover, plain
from flowgauge.reports.figures import Gauge, PhaseFigures, adapted, frozen, phase_figures
from flowgauge.reports.story import Adaptation, Story, Truth
from flowgauge.reports.wording import percent, plural, short, significant

_SHAPES = {Decision.PASS: ("o", 5.4), Decision.REVIEW: ("D", 5.8), Decision.REJECT: ("^", 8.0)}
_EVENTS = {"drift": ("v", (0, (2, 3)), 27), "adaptation": ("s", (0, (6, 3)), 14), "swap": ("o", "-", 1)}
"""Shape of the head, dashes of the line, height of the head above the chart in pixels."""

_LOSSES = {HEAD: "head: loss on synthetic anomalies", FLOW: "flow: loss, nats per dimension"}
_FEW_STEPS = 40  # more have smaller dots, which would touch otherwise


def render(story: Story) -> str:
    """The whole page. The same story gives the same bytes."""
    phases = phase_figures(story)
    return pages.rendered(
        "demo.html",
        story=story,
        headline=figures.headline(story),
        phases=phases,
        last=figures.with_good_images(phases)[-1],
        timeline=timeline(story),
        charts=(
            phase_chart("false alarms: good images above the threshold", phases, "false_alarm"),
            phase_chart("misses: defects at or below the threshold", phases, "miss"),
        ),
        adaptations=[_adaptation(story, number, each) for number, each in enumerate(story.adaptations, start=1)],
        since={swap.version: swap.index for swap in reversed(story.swaps)},
        decisions=list(Decision),
    )


def timeline(story: Story) -> Markup:
    """Every image's score against the threshold, with adaptation above and switched off below.

    Both charts share the images and the scale of scores; what lies beyond the scale is held at its rim.
    """
    label = "Scores of all images in order of capture against the threshold, with adaptation and with it switched off"
    with chart(1120, 574, label, constrained=False) as drawn:
        upper, lower = drawn.figure.subplots(2, 1, sharex=True, sharey=True)
        drawn.figure.subplots_adjust(left=52 / 1120, right=1110 / 1120, bottom=36 / 574, top=492 / 574, hspace=0.21)
        upper.set_xlim(-0.5, len(story.points) - 0.5)
        _bend(upper, story)
        _phase_bands(drawn, upper, story)
        for axes, gauge, name in (
            (upper, adapted, "with adaptation"),
            (lower, frozen, "switched off: the first gauge on the same images"),
        ):
            axes.set_title(name, pad=7)
            _scores(drawn, axes, story, gauge)
        upper.tick_params(labelbottom=False)
        lower.set_xlabel("images in order of capture")
        lower.locator_params(axis="x", nbins=15)
        lower.spines["bottom"].set(visible=True, color=COLOURS["hair"])
        # events stand between the image that they followed and the next; swaps before the first image they scored
        events = [("drift", each.index + 0.5, each.message) for each in story.drifts]
        for each in story.adaptations:
            outcome = "accepted" if each.report.accepted else "refused"
            events.append(("adaptation", each.index + 0.5, f"adaptation, {outcome} by the gate"))
        events += [("swap", each.index - 0.5, f"swap to gauge {each.version}") for each in story.swaps]
        for kind, x, words in events:
            shape, dashes, height = _EVENTS[kind]
            top = 1 + height / upper.bbox.height
            (line,) = upper.plot(
                [x, x],
                [0, top],
                transform=upper.get_xaxis_transform(),
                color=COLOURS[kind],
                linestyle=dashes,
                linewidth=1,
                marker=shape,
                markersize=9,
                markevery=[1],
            )
            drawn.mark(line, f"mark {kind}", words)
    return drawn.markup


def _bend(axes: Axes, story: Story) -> None:
    """Sets a scale that shows all scores, with most of the room around the thresholds.

    It is asinh((score - pivot) / width): linear close to the pivot, where an image is passed or rejected, and
    logarithmic far from it, however far away the farthest score lies.
    """
    calls = [call for point in story.points for call in (point.adapted, point.frozen)]
    thresholds = np.array([call.threshold for call in calls])
    # a thousandth at either end may lie at the rim: one wild score must not flatten the others
    low, high = np.quantile([call.score for call in calls], (0.001, 0.999))
    low, high = min(low, thresholds.min()), max(high, thresholds.max())
    pad = 0.04 * ((high - low) or 1.0)
    pivot = float(np.median(thresholds))
    # half of the good scores' distance: wider, and far defects press the rest together; a fiftieth of the range at
    # least, or scores that lie on the threshold would fill the chart
    width = max(pivot - low, (high - low) / 50) / 2 or 1.0
    axes.set_yscale(
        "function",
        functions=(lambda score: np.arcsinh((score - pivot) / width), lambda bent: pivot + width * np.sinh(bent)),
    )
    axes.set_ylim(low - 0.2 * pad, high + pad)
    powers = 10.0 ** np.arange(-3, 7)
    roundest = [0.0, *(sign * factor * power for factor in (1, 5, 2) for power in powers for sign in (1, -1))]
    start, end = (np.arcsinh((limit - pivot) / width) for limit in axes.get_ylim())
    ticks: dict[float, float] = {}
    for value in roundest:
        at = (np.arcsinh((value - pivot) / width) - start) / (end - start)
        # at least a ninth of the chart's height apart: closer, and the numbers touch
        if 0 <= at <= 1 and all(abs(at - other) >= 1 / 9 for other in ticks.values()):
            ticks[value] = at
    axes.yaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _phase_bands(drawn: Chart, axes: Axes, story: Story) -> None:
    """Names each stretch of the stream above both charts; every other one is shaded."""
    across = axes.transData
    for number, phase in enumerate(story.phases):
        indices = [point.index for point in story.points if point.phase == number]
        if not indices:
            continue
        start, width = indices[0] - 0.5, indices[-1] - indices[0] + 1
        band = Rectangle(
            (start, drawn.figure.subplotpars.bottom),
            width,
            1,
            transform=blended_transform_factory(across, drawn.figure.transFigure),
            facecolor=COLOURS["band"] if number % 2 else "none",
            zorder=-1,
        )
        drawn.figure.add_artist(band)
        drawn.mark(band, "band", f"{phase.name}: {phase.condition}" if phase.condition else phase.name)
        room = int((width * axes.bbox.width / len(story.points) - 14) / 5.6)  # some 5.6 pixels a letter
        condition = plain(phase.condition)
        if len(condition) > room:
            condition = condition[: max(room - 1, 0)].rstrip(" ,") + "…"
        for words, y, size, weight, colour in (
            (plain(phase.name), 67, 13, "bold", COLOURS["ink"]),
            (condition, 52, 11, "normal", COLOURS["soft"]),
        ):
            text = axes.annotate(words, (start, 1), (8, y), ("data", "axes fraction"), "offset points")
            text.set(fontsize=size, fontweight=weight, color=colour)


def _scores(drawn: Chart, axes: Axes, story: Story, gauge: Gauge) -> None:
    """Each image is shaped by decision, coloured by truth and faint where it may train."""
    low, high = axes.get_ylim()

    def looks(index: int) -> tuple[bool, str, Decision, bool]:
        point = story.points[index]
        # defects come last: they are few, and the good ones would cover them
        return point.truth is Truth.DEFECT, point.truth.value, gauge(point).decision, point.use_for_training

    for (_, truth, decision, trains), group in groupby(sorted(range(len(story.points)), key=looks), key=looks):
        points = [story.points[index] for index in group]
        shape, size = _SHAPES[decision]
        (dots,) = axes.plot(
            [point.index for point in points],
            np.clip([gauge(point).score for point in points], low, high),
            shape,
            markersize=size,
            color=COLOURS[truth],
            markeredgewidth=0,
            alpha=0.42 if trains else None,
        )
        titles = []
        for point in points:
            call = gauge(point)
            titles.append(
                f"image {point.index} · {point.image_id} · {truth} · {decision.value} · score "
                f"{significant(call.score)}, threshold {significant(call.threshold)} · gauge {short(call.version)}"
            )
        drawn.mark(dots, truth, *titles)
    # a step wherever another gauge took over
    corners: list[tuple[float, float]] = []
    for threshold, run in groupby(story.points, key=lambda point: gauge(point).threshold):
        indices = [point.index for point in run]
        corners += [(indices[0] - 0.5, threshold), (indices[-1] + 0.5, threshold)]
    (line,) = axes.plot(*zip(*corners, strict=True), color=COLOURS["ink"], linewidth=1.6)
    drawn.mark(line, "threshold")


def phase_chart(name: str, phases: Sequence[PhaseFigures], share: str) -> Markup:
    """One row a phase: a ring for the first gauge, a disc with adaptation, and the way between them."""
    label = f"{name}, for each phase, with adaptation and with it switched off"
    with chart(480, 52 + 40 * len(phases), label) as drawn:
        axes = drawn.figure.subplots()
        drawn.figure.suptitle(name, x=0, ha="left")
        for row, phase in enumerate(phases):
            off, on = getattr(phase.frozen, share), getattr(phase.adapted, share)
            if off is None or on is None:
                continue
            axes.plot([off, on], [row, row], color=COLOURS["off"], linewidth=2, alpha=0.5)
            (ring,) = axes.plot(off, row, "o", markersize=13, color=COLOURS["sheet"])
            ring.set(markeredgecolor=COLOURS["off"], markeredgewidth=2.4)
            (disc,) = axes.plot(on, row, "o", markersize=10, color=COLOURS["ink"], markeredgewidth=0)
            drawn.mark(disc, "on", f"{phase.name}: {percent(off)} switched off, {percent(on)} with adaptation")
            words = f"{percent(off)} → {percent(on)}"
            text = axes.annotate(words, (max(off, on), row), (13, 0), textcoords="offset points")
            text.set(va="center", color=COLOURS["soft"])
        axes.set(xlim=(-0.04, 1.3), ylim=(len(phases) - 0.5, -0.5), xticks=[0, 0.25, 0.5, 0.75, 1])
        axes.set_yticks(range(len(phases)), [plain(phase.name) for phase in phases], fontweight="bold")
        axes.tick_params(axis="y", labelsize=13, labelcolor=COLOURS["ink"])
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0, " %"))
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
    return drawn.markup


def _adaptation(story: Story, number: int, adaptation: Adaptation) -> dict[str, object]:
    """What the page says of one adaptation: its audit record, what it kept from training, and its charts."""
    suspects = [suspect for suspect in story.suspects if suspect.adaptation == adaptation.report.version]
    steps = adaptation.report.trace.steps
    parts = ([step for step in steps if step.what == what] for what in _LOSSES)
    return {
        "index": adaptation.index,
        "report": adaptation.report,
        "kept_out": figures.rejection(adaptation),
        "suspects": suspects,
        "left_out": len(figures.last_rejected(adaptation)) - len(suspects),
        "charts": [step_charts(number, part) for part in parts if part],
    }


def step_charts(number: int, steps: Sequence[Step]) -> list[Markup]:
    """How the loss, its uncertainty and the pull to the anchor went over the steps of the head or of the flow."""
    what = steps[0].what
    losses = {"train": [step.train_loss for step in steps], "held out": [step.validation_loss for step in steps]}
    series_of = {
        _LOSSES[what]: losses,
        f"{what}: det Σ of the two losses": {"": [step.det_covariance for step in steps]},
        f"{what}: λ, the pull to the anchor": {"": [step.l2 for step in steps]},
    }
    rounds = len({step.round for step in steps})
    words = plural(len(steps), "step") + (f" in {rounds} rounds" if rounds > 1 else "")
    made = []
    for name, series in series_of.items():
        with chart(340, 176, f"{name}, over the steps of the inner loop of adaptation {number}") as drawn:
            axes = drawn.figure.subplots()
            drawn.figure.suptitle(name, x=0, ha="left")
            cover(axes, [value for values in series.values() for value in values])
            for step, (before, after) in enumerate(pairwise(steps)):
                if before.round != after.round:
                    axes.axvline(step + 0.5, color=COLOURS["soft"], linestyle=(0, (1, 3)), linewidth=1)
            for index, (kind, values) in enumerate(series.items()):
                colour = COLOURS["defect" if index else "good"]
                size = 4.8 if len(values) <= _FEW_STEPS else 2.8
                (line,) = axes.plot(values, "o-", color=colour, linewidth=1.6, markersize=size, markeredgewidth=0)
                line.set_linestyle((0, (5, 2)) if index else "-")
                drawn.mark(line, "series", *map(significant, values))
                drawn.figure.text((264 + 62 * index) / 340, 0.98, kind, color=colour, fontsize=11, ha="right", va="top")
            axes.set(xticks=[], xlabel=words)
            axes.locator_params(axis="y", nbins=5)
        made.append(drawn.markup)
    return made
