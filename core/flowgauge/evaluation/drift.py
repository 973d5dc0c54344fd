"""Benchmarks of adaptation: a line that changes, and one that is slowly poisoned.

A changing line is followed in three ways: not at all, by adapting to each buffer, by fitting anew to it. Poisoning: a
defect that recurs is fed into the buffers at rising rates, adaptation after adaptation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import product
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flowgauge.adaptation.contract import Adapt, AdaptationInput, AdaptationOutcome
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.ports import Buffered
from flowgauge.evaluation.ablations import Ablation
from flowgauge.evaluation.comparison import Spread
from flowgauge.evaluation.metrics import auroc_between
from flowgauge.synthetic.procedural import DEFECTS, Change, Condition, ProceduralLine, Sample
from flowgauge.training.gauge import Gauge, score_by_each
from flowgauge.training.snapshot import load
from flowgauge.training.training_set import Crops
from flowgauge.vision.decoding import Picture, decode
from flowgauge.vision.encoding import png

FITTED, BUFFERED, TESTED = 96, 80, 40
"""Images of a procedural line: of its first gauge, of each buffer, and test images of each kind and phase. 40 tell a
share to 2.5 %; more cost time in proportion."""
CONTAMINATION = 0.2
"""Of each buffer, unlabelled defects: far more than a line has, so that what they do is seen above chance."""
AMOUNTS = (0.0, 0.35, 0.7, 1.0)
MARK, OTHER = "scratch", "stain"
"""The mark of the worn tool, and a defect of another kind."""

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
    """`buffer` is in the order of capture and holds defects that nobody points out; the others are test images."""

    name: str
    buffer: Sequence[ObservedImage]
    test_good: Sequence[Picture]
    test_defect: Sequence[Picture]


class Reading(FrozenModel):
    """Shares in [0, 1] of the test images: good ones above the threshold, defects not above it. `seconds` that the
    gauge took to make, None where none was made; `refusals` of the gate, None where it was not asked. `variant` says
    how it was adapted, None where it was not. `first_*` are of the first phase's test images: what the gauge of this
    phase has forgotten of where the line began.
    """

    seed: int
    phase: str
    way: Way
    variant: Ablation | None = None
    false_alarms: float
    misses: float
    image_auroc: float | None
    first_false_alarms: float
    first_image_auroc: float | None
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
    first_false_alarms: float
    first_image_auroc: float | None
    seconds: float | None
    refused: int | None


_AVERAGED = ("false_alarms", "misses", "image_auroc", "first_false_alarms", "first_image_auroc", "seconds")


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
        in_use, first = anchor, None
        for number, phase in enumerate(phases, start=1):
            tested = HeldOutCrops.of(phase, anchor)
            first = first or tested
            started = self.clock()
            outcome = self.adapted(anchor, in_use, phase.buffer, number)
            seconds = self.clock() - started
            extras: dict[Way, dict[str, object]] = {
                Way.ADAPTED: {"seconds": seconds, "refusals": outcome.gate.refusals}
            }
            candidate = load(outcome.manifest, outcome.weights)
            in_use = candidate if outcome.accepted else in_use
            made = {Way.FROZEN: anchor} if self.frozen else {}
            made |= {Way.ADAPTED: candidate, Way.IN_USE: in_use}
            if self.refit is not None:
                started = self.clock()
                pictures, parts = [s.picture for s in phase.buffer], [s.part for s in phase.buffer]
                made[Way.REFITTED] = self.refit(pictures, parts, self.seed)
                extras[Way.REFITTED] = {"seconds": self.clock() - started}
            readings = self._read(phase.name, tested, first, made)
            yield from (reading.model_copy(update=extras.get(reading.way, {})) for reading in readings)

    def adapted(self, anchor: Gauge, parent: Gauge, buffer: Sequence[ObservedImage], number: int) -> AdaptationOutcome:
        """What becomes of `anchor` on `buffer`, in the `number`th adaptation in a row."""
        at = self.began + timedelta(days=number)
        buffered = [
            (
                Buffered(
                    s.image_id, s.image_id, s.picture.sha256, at + timedelta(seconds=second), None, "", "", s.part
                ),
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
                by_person=False,
                progress=lambda what, share: None,
            )
        )

    def _read(
        self, phase: str, tested: "HeldOutCrops", first: "HeldOutCrops", made: Mapping[Way, Gauge]
    ) -> Iterable[Reading]:
        gauges = list(made.values())
        now = tested.scores(gauges)
        before = now if first is tested else first.scores(gauges)
        for way, gauge, (good, bad), (first_good, first_bad) in zip(made, gauges, now, before, strict=True):
            limit = gauge.manifest.threshold.value
            yield Reading(
                seed=self.seed,
                phase=phase,
                way=way,
                variant=self.variant if way in {Way.ADAPTED, Way.IN_USE} else None,
                false_alarms=float((good > limit).mean()),
                misses=float((bad <= limit).mean()),
                image_auroc=auroc_between(good, bad),
                first_false_alarms=float((first_good > limit).mean()),
                first_image_auroc=auroc_between(first_good, first_bad),
            )


@dataclass(frozen=True)
class HeldOutCrops:
    """What tests gauges of one preprocessing: crops (N, size, size, 3)."""

    good: Crops
    defect: Crops

    @classmethod
    def of(cls, phase: DriftPhase, gauge: Gauge) -> Self:
        crops = gauge.manifest.preprocessing.crops
        return cls(crops(phase.test_good), crops(phase.test_defect))

    def scores(self, gauges: Sequence[Gauge]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Of the good images and of the defects, by each gauge."""
        return list(zip(score_by_each(gauges, self.good), score_by_each(gauges, self.defect), strict=True))


def summaries(readings: Sequence[Reading]) -> list[Summary]:
    """One for each phase, way and variant; phases and variants in the order of the readings."""
    phases, variants = (dict.fromkeys(names) for names in zip(*((r.phase, r.variant) for r in readings), strict=True))
    found = []
    for phase, way, variant in product(phases, Way, variants):
        group = [r for r in readings if (r.phase, r.way, r.variant) == (phase, way, variant)]
        if not group:
            continue
        asked = [r.refusals for r in group if r.refusals is not None]
        figures: dict[str, Any] = {"refused": sum(map(bool, asked)) if asked else None}
        for name in _AVERAGED:
            spread = Spread.of([getattr(r, name) for r in group])
            figures |= {name: spread and spread.mean, f"{name}_std": spread and spread.deviation}
        own = {name: value for name, value in figures.items() if name in Summary.model_fields}
        found.append(Summary(phase=phase, way=way, variant=variant, seeds=tuple(r.seed for r in group), **own))
    return found


@dataclass(frozen=True)
class PoisonedRun:
    """`share` of the `buffer` shows the poisoned defect; the others are test images, under the buffer's light."""

    share: float
    buffer: Sequence[ObservedImage]
    poisoned: Sequence[Picture]
    others: Sequence[Picture]
    good: Sequence[Picture]


class PoisoningOutcome(FrozenModel):
    """After one adaptation, of the gauge in use: shares in [0, 1] of the poisoned defects and of others that it
    catches, and of good parts that it rejects. `first_*` are the first gauge's, on the same images. `refusals` are the
    gate's reasons; empty for a candidate that took over.
    """

    seed: int
    round: int
    share: float
    refusals: tuple[str, ...]
    caught: float
    first_caught: float
    others_caught: float
    first_others_caught: float
    false_alarms: float
    first_false_alarms: float


def poisoned(replay: DriftReplay, anchor: Gauge, runs: Iterable[PoisonedRun]) -> Iterator[PoisoningOutcome]:
    """Adapt from `anchor` to one run after the other; each candidate that is accepted is the next one's parent."""
    in_use = anchor
    for number, run in enumerate(runs, start=1):
        outcome = replay.adapted(anchor, in_use, run.buffer, number)
        in_use = load(outcome.manifest, outcome.weights) if outcome.accepted else in_use
        shares: dict[str, Any] = {}
        for name, tested in (("caught", run.poisoned), ("others_caught", run.others), ("false_alarms", run.good)):
            found = score_by_each((in_use, anchor), anchor.manifest.preprocessing.crops(tested))
            for prefix, gauge, scores in zip(("", "first_"), (in_use, anchor), found, strict=True):
                shares[prefix + name] = float((scores > gauge.manifest.threshold.value).mean())
        refusals = outcome.gate.refusals
        yield PoisoningOutcome(seed=replay.seed, round=number, share=run.share, refusals=refusals, **shares)


@dataclass(frozen=True)
class ChangingLine:
    """A procedural line: its phases, and its poisoned buffers. `recurring`: defects of buffers and tests are all the
    same tool's mark; else all differ.
    """

    line: ProceduralLine
    change: Change
    recurring: bool = False

    def fitted(self) -> list[ObservedImage]:
        """Good parts under the nominal light."""
        return [_observed(self.line.good(index)) for index in range(FITTED)]

    def phases(self) -> Iterator[DriftPhase]:
        """From nominal to the worst, each with parts of its own."""
        for number, amount in enumerate(AMOUNTS):
            condition, first = Condition.changed(self.change, amount), 1000 * (number + 1)
            tested = range(first + BUFFERED, first + BUFFERED + TESTED)
            yield DriftPhase(
                name=f"{self.change} {amount:g}",
                buffer=self._buffer(first, condition, CONTAMINATION),
                test_good=[_picture(self.line.good(index, condition)) for index in tested],
                test_defect=[_picture(self._defect(index, condition)) for index in tested],
            )

    def poisoned_runs(self, rounds: int, highest: float) -> Iterator[PoisonedRun]:
        """Buffers in which the tool's mark rises from none to a share of `highest`, while the line changes by half."""
        for number, rate in enumerate(np.linspace(0, 1, rounds)):
            condition, first = Condition.changed(self.change, 0.5 * float(rate)), 1000 * (number + 1)
            tested = range(first + BUFFERED, first + BUFFERED + TESTED)
            yield PoisonedRun(
                share=highest * float(rate),
                buffer=self._buffer(first, condition, highest * float(rate)),
                poisoned=[_picture(self.line.marked(index, MARK, condition)) for index in tested],
                others=[_picture(self.line.defect(index, OTHER, condition)) for index in tested],
                good=[_picture(self.line.good(index, condition)) for index in tested],
            )

    def _buffer(self, first: int, condition: Condition, share: float) -> Sequence[ObservedImage]:
        rng = np.random.default_rng([self.line.seed, first])
        defective = set(rng.choice(BUFFERED, round(share * BUFFERED), replace=False).tolist())
        return [
            _observed(
                self._defect(index, condition) if index - first in defective else self.line.good(index, condition)
            )
            for index in range(first, first + BUFFERED)
        ]

    def _defect(self, index: int, condition: Condition) -> Sample:
        if self.recurring:
            return self.line.marked(index, MARK, condition)
        return self.line.defect(index, DEFECTS[index % len(DEFECTS)], condition)


def _observed(sample: Sample) -> ObservedImage:
    name = f"{sample.index:06}"
    return ObservedImage(name, name, _picture(sample))


def _picture(sample: Sample) -> Picture:
    return decode(png(sample.pixels))
