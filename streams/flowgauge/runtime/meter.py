"""What workers tell of themselves while they run; who listens is an adapter."""

from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, Protocol

from flowgauge.domain.messages import ALERTS, DEAD_LETTERS, VERDICTS, Alert, Verdict
from flowgauge.runtime.task import Partition, Step


class Meter(Protocol):
    """Called from the threads of all processors; quick, and never raises."""

    def batch(self, group: str, records: int) -> None:
        """A batch is durable."""

    def verdict(self, verdict: Verdict, seconds: float) -> None:
        """A verdict is durable, so long after the image was captured."""

    def dead_letter(self, line: str) -> None: ...

    def alert(self, alert: Alert) -> None: ...

    def unavailable(self, group: str) -> None:
        """A server is away, and work waits for it."""

    def timed(self, group: str, phase: str) -> AbstractContextManager[None]:
        """Measures what is done inside: `decode`, `score` or `publish` of one batch."""

    def lag(self, group: str, topic_partition: Partition, records: int | None) -> None:
        """So many records of a partition wait; None when it is not this worker's any more."""

    def queued(self, group: str, records: int) -> None:
        """So many have been fetched and wait in memory."""

    def pending(self, images: int) -> None:
        """So many images, or their heatmaps, wait for the object store."""

    def gauge_loaded(self) -> None:
        """A line's gauge came into memory: again and again where a worker has more lines than it keeps gauges."""

    def buffered(self, line: str, images: int, limit: int) -> None: ...

    def notified(self, delivered: bool) -> None:
        """A message to people was sent, or could not be."""


class Unmetered:
    """A `Meter` to which nobody listens: every method does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: nullcontext()


UNMETERED = Unmetered()


def measured(meter: Meter, step: Step, now: datetime) -> None:
    """Tell `meter` what has become durable `now`."""
    if step.records:
        meter.batch(step.processor, len(step.records))
    for outgoing in step.outgoing:
        if outgoing.topic == VERDICTS:
            verdict = Verdict.decode(outgoing.value)
            meter.verdict(verdict, (now - verdict.event_time).total_seconds())
        elif outgoing.topic == ALERTS:
            meter.alert(Alert.decode(outgoing.value))
        elif outgoing.topic == DEAD_LETTERS:
            meter.dead_letter(outgoing.key)
