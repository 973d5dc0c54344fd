"""One processor on a log: read, process, append, checkpoint, commit; whatever fails is tried again in its place."""

from collections.abc import Callable
from functools import partial

from flowgauge.domain.backoff import Backoff
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.ports import Clock, Log
from flowgauge.runtime.processor import Processor
from flowgauge.runtime.task import Observer, Partition, StreamTask

OnUnavailable = Callable[[str, Unavailable], None]
"""Told the name of a group, and what is away."""


class Worker:
    """Moves `processor` along its partitions, at most `batch` records of one partition at a time.

    `Unavailable` never escapes from `step`: `unavailable` is told of it, and the step that failed is repeated after a
    pause (see `Backoff`). `error` is what holds the worker up at the moment; None while all is well.
    """

    def __init__(
        self,
        processor: Processor,
        log: Log,
        clock: Clock,
        batch: int,
        observer: Observer = lambda step: None,
        unavailable: OnUnavailable = lambda name, error: None,
    ) -> None:
        self.processor = processor
        self.error: Unavailable | None = None
        self._task = StreamTask(processor, log, observer)
        self._log = log
        self._clock = clock
        self._batch = batch
        self._unavailable = unavailable
        self._backoff = Backoff(clock)

    def step(self) -> int:
        """Work off one batch of each partition; how many records there were. 0 also while pausing."""
        if self._backoff.waiting():
            return 0
        try:
            # what was processed but not appended goes first, so that results keep the order of their records
            done = self._task.finish()
            for topic_partition in self._partitions():
                records = self._log.read(*topic_partition, self._position(topic_partition), self._batch)
                if records:
                    done += self._task.take(records)
                    self._commit(topic_partition)
            if not done:
                self._task.deliver(partial(self.processor.punctuate, self._clock.now()))
                for topic_partition in self._partitions():
                    self._commit(topic_partition)
        except Unavailable as error:
            self._unavailable(self.processor.name, error)
            self.error = error
            self._backoff.failed()
            return 0
        self.error = None
        self._backoff.succeeded()
        return done

    def flush(self) -> None:
        """Let the processor deliver what is pending. Raises `Unavailable`; what is not delivered comes at a restart."""
        self._task.deliver(self.processor.flush)

    def lag(self) -> int:
        """How many records wait."""
        return sum(
            self._log.end(*topic_partition) - self._position(topic_partition) for topic_partition in self._partitions()
        )

    def _commit(self, topic_partition: Partition) -> None:
        self._position(topic_partition)
        offset = self._task.committable_offset(topic_partition)
        if offset != self._log.position(self.processor.name, *topic_partition):
            self._log.commit(self.processor.name, *topic_partition, offset)

    def _position(self, topic_partition: Partition) -> int:
        return self._task.position(topic_partition, lambda: self._log.position(self.processor.name, *topic_partition))

    def _partitions(self) -> list[Partition]:
        return [(topic, number) for topic in self.processor.inputs for number in range(self._log.partitions(topic))]
