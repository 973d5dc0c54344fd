"""Slow poisoning: a defect that recurs, fed into the buffers at rising rates, adaptation after adaptation."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.drift import DriftReplay, ObservedImage, scores
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import load
from flowgauge.vision.decoding import Picture


@dataclass(frozen=True)
class PoisonedRun:
    """`share` of the `buffer` shows the poisoned defect. What judges is seen as the buffer is: under its light."""

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


def poisoned(replay: DriftReplay, anchor: Gauge, doses: Iterable[PoisonedRun]) -> Iterator[PoisoningOutcome]:
    """Adapt from `anchor` to one dose after the other; each candidate that is accepted is the next one's parent."""
    in_use = anchor
    for number, poisoned_run in enumerate(doses, start=1):
        outcome = replay.adapted(anchor, in_use, poisoned_run.buffer, number)
        in_use = load(outcome.manifest, outcome.weights) if outcome.accepted else in_use
        both = (in_use, anchor)
        caught, first_caught = _caught(both, poisoned_run.poisoned)
        others_caught, first_others_caught = _caught(both, poisoned_run.others)
        false_alarms, first_false_alarms = _caught(both, poisoned_run.good)
        yield PoisoningOutcome(
            seed=replay.seed,
            round=number,
            share=poisoned_run.share,
            refusals=outcome.gate.refusals,
            caught=caught,
            first_caught=first_caught,
            others_caught=others_caught,
            first_others_caught=first_others_caught,
            false_alarms=false_alarms,
            first_false_alarms=first_false_alarms,
        )


def _caught(gauges: Sequence[Gauge], pictures: Sequence[Picture]) -> list[float]:
    """The share of the pictures that lies above the threshold of each."""
    found = zip(gauges, scores(gauges, pictures), strict=True)
    return [float((own > gauge.manifest.threshold.value).mean()) for gauge, own in found]
