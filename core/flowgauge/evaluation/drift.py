"""A line that changes, followed in three ways: not at all, by adapting to each buffer, by fitting anew to it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from flowgauge.adaptation.contract import Adapt, AdaptationInput, AdaptationOutcome
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.ports import Buffered
from flowgauge.evaluation.ablations import Ablation
from flowgauge.evaluation.metrics import image_auroc
from flowgauge.training.gauge import Gauge, score_by_each
from flowgauge.training.snapshot import load
from flowgauge.vision.decoding import Picture

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
class ObservedImage:
    """One image of a line, and the part that it shows."""

    image_id: str
    part: str
    picture: Picture


@dataclass(frozen=True)
class DriftPhase:
    """`buffer` is in the order of capture and holds defects that nobody points out; the others judge."""

    name: str
    buffer: Sequence[ObservedImage]
    test_good: Sequence[Picture]
    test_defect: Sequence[Picture]


class Reading(FrozenModel):
    """Shares in [0, 1] of the judging images: good ones above the threshold, defects not above it. `seconds` that the
    gauge took to make, None where none was made; `refusals` of the gate, None where it was not asked. `variant` says
    how it was adapted, None where it was not.
    """

    seed: int
    phase: str
    way: Way
    variant: Ablation | None = None
    false_alarms: float
    misses: float
    image_auroc: float | None
    seconds: float | None = None
    refusals: tuple[str, ...] | None = None


class Summary(FrozenModel):
    """Means over seeds, and their sample deviations (None for one seed). `refused` counts the gate's refusals."""

    phase: str
    way: Way
    variant: Ablation | None
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
class DriftReplay:
    """How gauges are made and timed; `variant` is the name of `adapt`. Without `refit`, none is fitted anew; without
    `frozen`, the first gauge is not read. `began` is when the line was first seen. `replayed` images are in every
    buffer, as the oldest.
    """

    adapt: Adapt
    refit: Fit | None
    clock: Callable[[], float]
    began: datetime
    seed: int
    replayed: Sequence[ObservedImage] = ()
    variant: Ablation = Ablation.FULL
    frozen: bool = True

    def follow(self, anchor: Gauge, phases: Iterable[DriftPhase]) -> Iterable[Reading]:
        """A reading for each phase and way, as they come."""
        in_use = anchor
        for number, phase in enumerate(phases, start=1):
            started = self.clock()
            outcome = self.adapted(anchor, in_use, phase.buffer, number)
            seconds = self.clock() - started
            candidate = load(outcome.manifest, outcome.weights)
            in_use = candidate if outcome.accepted else in_use
            made = {Way.FROZEN: anchor} if self.frozen else {}
            extras = {Way.ADAPTED: {"seconds": seconds, "refusals": outcome.gate.refusals}}
            made |= {Way.ADAPTED: candidate, Way.IN_USE: in_use}
            if self.refit is not None:
                started = self.clock()
                made[Way.REFITTED] = self.refit(
                    [s.picture for s in phase.buffer], [s.part for s in phase.buffer], self.seed
                )
                extras[Way.REFITTED] = {"seconds": self.clock() - started}
            yield from (reading.model_copy(update=extras.get(reading.way, {})) for reading in self._read(phase, made))

    def adapted(self, anchor: Gauge, parent: Gauge, buffer: Sequence[ObservedImage], number: int) -> AdaptationOutcome:
        """What becomes of `anchor` on `buffer`, in the `number`th adaptation in a row."""
        at = self.began + timedelta(days=number)
        buffered = [
            (
                Buffered(s.image_id, "", s.picture.sha256, at + timedelta(seconds=second), None, "", "", s.part),
                anchor.crop(s.picture),
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

    def _read(self, phase: DriftPhase, made: Mapping[Way, Gauge]) -> Iterable[Reading]:
        gauges = list(made.values())
        judged = zip(made, gauges, scores(gauges, phase.test_good), scores(gauges, phase.test_defect), strict=True)
        for way, gauge, good, bad in judged:
            limit = gauge.manifest.threshold.value
            yield Reading(
                seed=self.seed,
                phase=phase.name,
                way=way,
                variant=self.variant if way in {Way.ADAPTED, Way.IN_USE} else None,
                false_alarms=float((good > limit).mean()),
                misses=float((bad <= limit).mean()),
                image_auroc=image_auroc(np.concatenate([good, bad]), np.arange(len(good) + len(bad)) >= len(good)),
            )


def scores(gauges: Sequence[Gauge], pictures: Sequence[Picture]) -> list[NDArray[np.float64]]:
    """(n,) by each of some gauges whose preprocessing is the same; higher is more anomalous."""
    return score_by_each(gauges, gauges[0].manifest.preprocessing.crops(pictures))


def _silent(what: str, share: float) -> None:
    """An adaptation is one step of a benchmark."""


def summaries(readings: Sequence[Reading]) -> list[Summary]:
    """One for each phase, way and variant; phases and variants in the order of the readings."""
    phases, variants = (dict.fromkeys(names) for names in zip(*((r.phase, r.variant) for r in readings), strict=True))
    groups = (
        [r for r in readings if (r.phase, r.way, r.variant) == (phase, way, variant)]
        for phase in phases
        for way in Way
        for variant in variants
    )
    return [_summary(group) for group in groups if group]


def _summary(group: Sequence[Reading]) -> Summary:
    aurocs = [r.image_auroc for r in group if r.image_auroc is not None]
    seconds = [r.seconds for r in group if r.seconds is not None]
    asked = [r.refusals for r in group if r.refusals is not None]
    return Summary(
        phase=group[0].phase,
        way=group[0].way,
        variant=group[0].variant,
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
