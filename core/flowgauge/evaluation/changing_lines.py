"""Procedural lines for the benchmarks of adaptation: what they show, phase by phase, and how they are poisoned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from flowgauge.evaluation.drift import DriftPhase, ObservedImage
from flowgauge.evaluation.poisoning import PoisonedRun
from flowgauge.synthetic.procedural import DEFECTS, Change, Condition, ProceduralLine, Sample
from flowgauge.vision.decoding import Picture, decode

FITTED, BUFFERED, JUDGED = 96, 80, 40
CONTAMINATION = 0.2
AMOUNTS = (0.0, 0.35, 0.7, 1.0)
MARK, OTHER = "scratch", "stain"
"""The mark of the worn tool, and a defect of another kind."""


@dataclass(frozen=True)
class ChangingLine:
    """`recurring`: the buffers' defects are all the same tool's mark, and so are those that judge; else all differ."""

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
            judged = range(first + BUFFERED, first + BUFFERED + JUDGED)
            yield DriftPhase(
                name=f"{self.change} {amount:g}",
                buffer=self._buffer(first, condition, CONTAMINATION),
                test_good=[_picture(self.line.good(index, condition)) for index in judged],
                test_defect=[_picture(self._defect(index, condition)) for index in judged],
            )

    def doses(self, rounds: int, highest: float) -> Iterator[PoisonedRun]:
        """Buffers in which the tool's mark rises from none to a share of `highest`, while the line changes by half."""
        for number, rate in enumerate(np.linspace(0, 1, rounds)):
            condition, first = Condition.changed(self.change, 0.5 * float(rate)), 1000 * (number + 1)
            judged = range(first + BUFFERED, first + BUFFERED + JUDGED)
            yield PoisonedRun(
                share=highest * float(rate),
                buffer=self._buffer(first, condition, highest * float(rate)),
                poisoned=[_picture(self.line.marked(index, MARK, condition)) for index in judged],
                others=[_picture(self.line.defect(index, OTHER, condition)) for index in judged],
                good=[_picture(self.line.good(index, condition)) for index in judged],
            )

    def _buffer(self, first: int, condition: Condition, share: float) -> Sequence[ObservedImage]:
        rng = np.random.default_rng([self.line.seed, first])
        spoilt = set(rng.choice(BUFFERED, round(share * BUFFERED), replace=False).tolist())
        return [
            _observed(self._defect(index, condition) if index - first in spoilt else self.line.good(index, condition))
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
    stream = BytesIO()
    Image.fromarray(sample.pixels).save(stream, "PNG", compress_level=1)
    return decode(stream.getvalue())
