"""A line that changes, followed in three ways: not at all, by adapting to each buffer, by fitting anew to it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from core.adaptation.contract import Adapt, AdaptationInput, AdaptationOutcome
from core.evaluation.metrics import image_auroc
from core.gauge import Gauge, score_all
from core.images import Picture
from core.messages import Part
from core.ports import Buffered
from core.snapshot import load

Fit = Callable[[Sequence[Picture], Sequence[str], int], Gauge]
"""(pictures, the part that each shows, seed) -> a gauge, from images that nobody has called good."""


class Way(StrEnum):
    """`frozen`: the first gauge. `adapted`: the candidate that was made from the phase's buffer, whatever the gate says
    of it. `in-use`: the last candidate that the gate accepted. `refitted`: fitted to the phase's buffer alone, as
    `flowgauge fit --from-buffer` does.
    """

    FROZEN = "frozen"
    ADAPTED = "adapted"
    IN_USE = "in-use"
    REFITTED = "refitted"


@dataclass(frozen=True)
class Sighting:
    """One image of a line, and the part that it shows."""

    image_id: str
    part: str
    picture: Picture


@dataclass(frozen=True)
class DriftPhase:
    """`buffer` is in the order of capture and holds defects that nobody points out; the others judge."""

    name: str
    buffer: Sequence[Sighting]
    judge_good: Sequence[Picture]
    judge_defect: Sequence[Picture]


class Reading(Part):
    """Shares in [0, 1] of the judging images: good ones above the threshold, defects not above it. `seconds` that the
    gauge took to make, None where none was made; `refusals` of the gate, None where it was not asked.
    """

    seed: int
    phase: str
    way: Way
    false_alarms: float
    misses: float
    image_auroc: float | None
    seconds: float | None = None
    refusals: tuple[str, ...] | None = None


class Summary(Part):
    """Means over seeds, and their sample deviations (None for one seed). `refused` counts the gate's refusals."""

    phase: str
    way: Way
    seeds: tuple[int, ...]
    false_alarms: float
    false_alarms_std: float | None
    misses: float
    misses_std: float | None
    image_auroc: float | None
    image_auroc_std: float | None
    seconds: float | None
    refused: int | None


@dataclass(frozen=True)
class Follower:
    """How gauges are made and timed; without `refit`, none is fitted anew. `began` is when the line was first seen.
    `replayed` images are in every buffer, as the oldest.
    """

    adapt: Adapt
    refit: Fit | None
    clock: Callable[[], float]
    began: datetime
    seed: int
    replayed: Sequence[Sighting] = ()

    def follow(self, anchor: Gauge, phases: Iterable[DriftPhase]) -> Iterable[Reading]:
        """A reading for each phase and way, as they come."""
        in_use = anchor
        for number, phase in enumerate(phases, start=1):
            yield self._read(anchor, phase, Way.FROZEN)
            started = self.clock()
            outcome = self.adapted(anchor, in_use, phase.buffer, number)
            seconds = self.clock() - started
            candidate = load(outcome.manifest, outcome.weights)
            in_use = candidate if outcome.accepted else in_use
            adapted = {"seconds": seconds, "refusals": outcome.gate.refusals}
            yield self._read(candidate, phase, Way.ADAPTED).model_copy(update=adapted)
            yield self._read(in_use, phase, Way.IN_USE)
            if self.refit is not None:
                yield self._refitted(self.refit, phase)

    def _refitted(self, refit: Fit, phase: DriftPhase) -> Reading:
        started = self.clock()
        gauge = refit([s.picture for s in phase.buffer], [s.part for s in phase.buffer], self.seed)
        seconds = self.clock() - started
        return self._read(gauge, phase, Way.REFITTED).model_copy(update={"seconds": seconds})

    def adapted(self, anchor: Gauge, parent: Gauge, buffer: Sequence[Sighting], number: int) -> AdaptationOutcome:
        """What becomes of `anchor` on `buffer`, in the `number`th adaptation in a row."""
        at = self.began + timedelta(days=number)
        buffered = [
            (
                Buffered(s.image_id, "", s.picture.sha256, at + timedelta(seconds=second), None, "", "", s.part),
                s.picture,
            )
            for second, s in enumerate([*self.replayed, *buffer])
        ]
        return self.adapt(
            AdaptationInput(
                line=anchor.manifest.line,
                version=f"adapted-{number:04}",
                at=at,
                anchor=anchor,
                parent=parent,
                buffered=buffered,
                golden_good=(),
                golden_defect=(),
                seed=self.seed,
                progress=_silent,
            )
        )

    def _read(self, gauge: Gauge, phase: DriftPhase, way: Way) -> Reading:
        good, bad = scores(gauge, phase.judge_good), scores(gauge, phase.judge_defect)
        limit = gauge.manifest.threshold.value
        return Reading(
            seed=self.seed,
            phase=phase.name,
            way=way,
            false_alarms=float((good > limit).mean()),
            misses=float((bad <= limit).mean()),
            image_auroc=image_auroc(np.concatenate([good, bad]), np.arange(len(good) + len(bad)) >= len(good)),
        )


def scores(gauge: Gauge, pictures: Sequence[Picture]) -> NDArray[np.float64]:
    """(n,): higher is more anomalous."""
    return score_all(gauge, gauge.manifest.preprocessing.squares(pictures))


def _silent(what: str, share: float) -> None:
    """An adaptation is one step of a benchmark."""


def summaries(readings: Sequence[Reading]) -> list[Summary]:
    """One for each phase and way, phases in the order of the readings."""
    phases = dict.fromkeys(reading.phase for reading in readings)
    groups = ([r for r in readings if (r.phase, r.way) == (phase, way)] for phase in phases for way in Way)
    return [_summary(group) for group in groups if group]


def _summary(group: Sequence[Reading]) -> Summary:
    aurocs = [r.image_auroc for r in group if r.image_auroc is not None]
    seconds = [r.seconds for r in group if r.seconds is not None]
    asked = [r.refusals for r in group if r.refusals is not None]
    return Summary(
        phase=group[0].phase,
        way=group[0].way,
        seeds=tuple(r.seed for r in group),
        false_alarms=fmean(r.false_alarms for r in group),
        false_alarms_std=_deviation([r.false_alarms for r in group]),
        misses=fmean(r.misses for r in group),
        misses_std=_deviation([r.misses for r in group]),
        image_auroc=fmean(aurocs) if aurocs else None,
        image_auroc_std=_deviation(aurocs),
        seconds=fmean(seconds) if seconds else None,
        refused=sum(bool(refusals) for refusals in asked) if asked else None,
    )


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
