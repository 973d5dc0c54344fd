"""One processor on a log: read, process, append, checkpoint, commit; whatever fails is tried again in its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.errors import Unavailable
from core.ports import Clock, Log, Outgoing, Record
from streams.processor import Processor

_FIRST_PAUSE = timedelta(seconds=0.1)
_LONGEST_PAUSE = timedelta(seconds=10)  # longer, and a repaired store waits for us

Partition = tuple[str, int]


@dataclass(frozen=True)
class Step:
    """A batch that has been processed: shown to observers once it is durable."""

    processor: str
    records: Sequence[Record]
    outgoing: Sequence[Outgoing]


Observer = Callable[[Step], None]
Trouble = Callable[[str, Unavailable], None]


class Worker:
    """Moves `processor` along its partitions, at most `batch` records of one partition at a time.

    `Unavailable` never escapes: it is told to `trouble`, and the step that failed is repeated after a pause that
    doubles from a tenth of a second to ten. What was processed but not appended is kept, and appended first.
    """

    def __init__(
        self,
        processor: Processor,
        log: Log,
        clock: Clock,
        batch: int,
        observer: Observer = lambda step: None,
        trouble: Trouble = lambda name, error: None,
    ) -> None:
        self.processor = processor
        self._log = log
        self._clock = clock
        self._batch = batch
        self._observer = observer
        self._trouble = trouble
        self._positions: dict[Partition, int] = {}
        self._unfinished: tuple[Partition, Step] | None = None
        self._appended = False
        self._pause = _FIRST_PAUSE
        self._resume_at: datetime | None = None
        self._error: Unavailable | None = None

    @property
    def error(self) -> Unavailable | None:
        """What holds the worker up at the moment; None while all is well."""
        return self._error

    def step(self) -> int:
        """Work off one batch of each partition; how many records there were. 0 also while pausing."""
        if self._resume_at is not None and self._clock.now() < self._resume_at:
            return 0
        try:
            done = self._round()
        except Unavailable as error:
            self._back_off(error)
            return 0
        self._error, self._resume_at, self._pause = None, None, _FIRST_PAUSE
        return done

    def flush(self) -> None:
        """Let the processor deliver what it owes. Raises `Unavailable`; what was not delivered comes at a restart."""
        self._finish()
        self._append(self.processor.flush())

    def lag(self) -> int:
        """How many records wait."""
        return sum(self._log.end(*place) - self._position(place) for place in self._partitions())

    def _round(self) -> int:
        done = self._finish()
        for place in self._partitions():
            done += self._advance(place)
        if not done:
            self._append(self.processor.idle(self._clock.now()))
            self._commit_all()
        return done

    def _advance(self, place: Partition) -> int:
        records = self._log.read(*place, self._position(place), self._batch)
        if not records:
            return 0
        self._unfinished = place, Step(self.processor.name, records, self.processor.process(records))
        return self._finish()

    def _finish(self) -> int:
        """Append, checkpoint and commit what was processed last, each at most once."""
        if self._unfinished is None:
            return 0
        place, step = self._unfinished
        if not self._appended:
            self._append(step.outgoing)
            self._appended = True
        self.processor.checkpoint()
        self._positions[place] = step.records[-1].offset + 1
        self._commit(place)
        self._unfinished, self._appended = None, False
        self._observer(step)
        return len(step.records)

    def _append(self, outgoing: Sequence[Outgoing]) -> None:
        if outgoing:
            self._log.append(outgoing)

    def _commit_all(self) -> None:
        for place in self._partitions():
            self._commit(place)

    def _commit(self, place: Partition) -> None:
        safe = self.processor.safe(*place, self._position(place))
        if safe != self._log.position(self.processor.name, *place):
            self._log.commit(self.processor.name, *place, safe)

    def _position(self, place: Partition) -> int:
        if place not in self._positions:
            committed = self._log.position(self.processor.name, *place)
            self._positions[place] = self.processor.position(*place, committed)
        return self._positions[place]

    def _partitions(self) -> list[Partition]:
        return [(topic, number) for topic in self.processor.inputs for number in range(self._log.partitions(topic))]

    def _back_off(self, error: Unavailable) -> None:
        self._trouble(self.processor.name, error)
        self._error = error
        self._resume_at = self._clock.now() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
