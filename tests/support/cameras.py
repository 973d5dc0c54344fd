"""What observing makes of a line whose verdicts a test sets."""

from random import Random
from typing import Any

from flowgauge.domain.messages import ADAPTATIONS, AdaptationRequest, AlertKind, Statistics, Verdict
from flowgauge.processors.observing import Observing
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from tests.support.streaming import hash_bits, records, verdict


class Camera:
    """Verdicts of a line whose scores and light are set; offsets rise by one."""

    def __init__(self) -> None:
        self._dice = Random(0)
        self._offset = 0

    def verdicts(
        self, images: int, shift: float = 0.0, light: float = 0.4, defects: float = 0.0, **changes: Any
    ) -> list[Verdict]:
        return [self._verdict(shift, light, defects, changes) for _ in range(images)]

    def _verdict(self, shift: float, light: float, defects: float, changes: dict[str, Any]) -> Verdict:
        offset, self._offset = self._offset, self._offset + 1
        dice = self._dice
        standard = dice.gauss(shift, 1) + (8 if dice.random() < defects else 0)
        seen = Statistics(
            brightness=dice.gauss(light, 0.01),
            contrast=dice.gauss(0.1, 0.01),
            focus=dice.gauss(1, 0.1),
            fingerprint=f"{hash_bits(offset):016x}",
        )
        facts: dict[str, Any] = {"standard_score": standard, "peak": (dice.random(), dice.random()), "statistics": seen}
        return verdict(offset, **(facts | changes))


def observe(store: Store, batch: int = 64) -> None:
    """A new observing worker, as after a restart, works off what is there."""
    worker = Worker(Observing(store), store.log, store.clock, batch)
    while worker.step():
        pass
    assert worker.error is None


def requests(store: Store) -> list[AdaptationRequest]:
    return [AdaptationRequest.decode(record.value) for record in records(store.log, ADAPTATIONS)]


def alert_kinds(store: Store) -> list[AlertKind]:
    return [each.kind for each in alerts(store.log)]
