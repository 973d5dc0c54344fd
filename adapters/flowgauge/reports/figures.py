"""The figures of a story, computed from its points: false alarms, misses, AUROC, with adaptation and without; and the
sentence that sums them up."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from flowgauge.domain.messages import Decision
from flowgauge.evaluation.metrics import auroc_between
from flowgauge.reports.story import Adaptation, Call, Point, Story, Truth
from flowgauge.reports.wording import percent, times

Gauge = Callable[[Point], Call]
adapted: Gauge = attrgetter("adapted")
frozen: Gauge = attrgetter("frozen")


@dataclass(frozen=True)
class Rates:
    """Shares in [0, 1] at the gauge's own threshold, None where there is nothing to take a share of.

    `false_alarm`: good images above the threshold; `miss`: defects at or below it; `review`: images of either kind
    that are left to a person; `auroc`: of the image scores, good against defect.
    """

    false_alarm: float | None
    miss: float | None
    review: float | None
    auroc: float | None

    @property
    def caught(self) -> float | None:
        return None if self.miss is None else 1 - self.miss


@dataclass(frozen=True)
class PhaseFigures:
    """One phase, measured with adaptation and with the first gauge, on the same `good` + `defect` images."""

    name: str
    condition: str
    good: int
    defect: int
    adapted: Rates
    frozen: Rates


@dataclass(frozen=True)
class Rejection:
    """What one adaptation kept from training: its newest images are `reserved` for the gate, and of the others some
    are `rejected`. `defects` of the others are truly defective; None when the buffer's truth is not known.
    """

    buffered: int
    reserved: int
    rejected: int
    rejected_defects: int
    defects: int | None


def phase_figures(story: Story) -> list[PhaseFigures]:
    found = []
    for index, phase in enumerate(story.phases):
        points = measured(story, index)
        found.append(
            PhaseFigures(
                name=phase.name,
                condition=phase.condition,
                good=sum(point.truth is Truth.GOOD for point in points),
                defect=sum(point.truth is Truth.DEFECT for point in points),
                adapted=rates(points, adapted),
                frozen=rates(points, frozen),
            )
        )
    return found


def with_good_images(phases: Sequence[PhaseFigures]) -> Sequence[PhaseFigures]:
    """Those in which false alarms can be counted; all, where there is none."""
    return [phase for phase in phases if phase.good] or phases


def headline(story: Story) -> str:
    """One sentence: how the false alarms went with adaptation and without, and whether defects were still caught; of
    the phases that show good images, if any does.
    """
    shown = with_good_images(phase_figures(story))
    first, last = shown[0], shown[-1]
    start, end = first.frozen.false_alarm, last.frozen.false_alarm
    verb = "rise" if start is not None and end is not None and end > start else "go"
    course = f"As the line drifts, the first gauge’s false alarms {verb} from {percent(start)} to {percent(end)}."
    accepted = sum(adaptation.report.accepted for adaptation in story.adaptations)
    if accepted:
        return (
            f"{course} Adapted {times(accepted)} along the way, the gauge ends at {percent(last.adapted.false_alarm)} "
            f"and catches {percent(last.adapted.caught)} of the defects; the first one catches "
            f"{percent(last.frozen.caught)}."
        )
    if story.adaptations:
        return f"{course} The gate refused {times(len(story.adaptations))}, so the first gauge is still active."
    return f"{course} No adaptation was asked for, so the first gauge is still active."


def measured(story: Story, phase: int) -> list[Point]:
    """The phase's points that measure: its test images, or all of it where it has none; truth known."""
    known = [point for point in story.points if point.phase == phase and point.truth is not Truth.UNKNOWN]
    return [point for point in known if not point.use_for_training] or known


def rates(points: Iterable[Point], gauge: Gauge) -> Rates:
    points = list(points)
    good = [gauge(point) for point in points if point.truth is Truth.GOOD]
    defect = [gauge(point) for point in points if point.truth is Truth.DEFECT]
    # of score minus threshold, so that gauges that changed within the phase are on one footing
    margins = (np.array([call.score - call.threshold for call in calls]) for calls in (good, defect))
    return Rates(
        false_alarm=_share([call.alarm for call in good]),
        miss=_share([not call.alarm for call in defect]),
        review=_share([call.decision is Decision.REVIEW for call in good + defect]),
        auroc=auroc_between(*margins),
    )


def rejection(adaptation: Adaptation) -> Rejection:
    trace, rejected = adaptation.report.trace, last_rejected(adaptation)
    offered = trace.trained + len(rejected)
    truths = list(adaptation.buffer.values())[:offered]
    return Rejection(
        buffered=trace.buffered,
        reserved=trace.buffered - offered,
        rejected=len(rejected),
        rejected_defects=sum(adaptation.buffer.get(image) is Truth.DEFECT for image in rejected),
        defects=sum(truth is Truth.DEFECT for truth in truths) if truths else None,
    )


def last_rejected(adaptation: Adaptation) -> tuple[str, ...]:
    """The ids that the last round of refinement kept from training."""
    rounds = adaptation.report.trace.rounds
    return rounds[-1].rejected if rounds else ()


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
