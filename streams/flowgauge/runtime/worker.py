"""One processor on a log: read, process, append, checkpoint, commit; whatever fails is tried again in its place."""

from collections.abc import Callable

from flowgauge.domain.backoff import Backoff
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.ports import Clock, Log
from flowgauge.runtime.processor import Processor
from flowgauge.runtime.task import Observer, Partition, StreamTask

OnUnavailable = Callable[[str, Unavailable], None]


class Worker:
    """Moves `processor` along its partitions, at most `batch` records of one partition at a time.

    `Unavailable` never escapes: it is told to `unavailable`, and the step that failed is repeated after a pause that
    doubles from a tenth of a second to ten. What was processed but not appended is kept, and appended first.
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
        self._task = StreamTask(processor, log, observer)
        self._log = log
        self._clock = clock
        self._batch = batch
        self._unavailable = unavailable
        self._backoff = Backoff(clock)
        self._error: Unavailable | None = None

    @property
    def error(self) -> Unavailable | None:
        """What holds the worker up at the moment; None while all is well."""
        return self._error

    def step(self) -> int:
        """Work off one batch of each partition; how many records there were. 0 also while pausing."""
        if self._backoff.waiting():
            return 0
        try:
            done = self._round()
        except Unavailable as error:
            self._unavailable(self.processor.name, error)
            self._error = error
            self._backoff.failed()
            return 0
        self._error = None
        self._backoff.succeeded()
        return done

    def flush(self) -> None:
        """Let the processor deliver what it owes. Raises `Unavailable`; what was not delivered comes at a restart."""
        self._task.flush()

    def lag(self) -> int:
        """How many records wait."""
        return sum(
            self._log.end(*topic_partition) - self._position(topic_partition) for topic_partition in self._partitions()
        )

    def _round(self) -> int:
        done = self._task.finish()
        for topic_partition in self._partitions():
            done += self._advance(topic_partition)
        if not done:
            self._task.idle(self._clock.now())
            self._commit_all()
        return done

    def _advance(self, topic_partition: Partition) -> int:
        records = self._log.read(*topic_partition, self._position(topic_partition), self._batch)
        if not records:
            return 0
        done = self._task.take(topic_partition, records)
        self._commit(topic_partition)
        return done

    def _commit_all(self) -> None:
        for topic_partition in self._partitions():
            self._commit(topic_partition)

    def _commit(self, topic_partition: Partition) -> None:
        self._position(topic_partition)
        safe = self._task.safe(topic_partition)
        if safe != self._log.position(self.processor.name, *topic_partition):
            self._log.commit(self.processor.name, *topic_partition, safe)

    def _position(self, topic_partition: Partition) -> int:
        return self._task.position(topic_partition, lambda: self._log.position(self.processor.name, *topic_partition))

    def _partitions(self) -> list[Partition]:
        return [(topic, number) for topic in self.processor.inputs for number in range(self._log.partitions(topic))]
