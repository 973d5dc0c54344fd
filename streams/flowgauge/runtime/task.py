"""One batch through a processor: process, append, checkpoint; whoever brings the batches."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime

from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.runtime.processor import Processor

Partition = tuple[str, int]


@dataclass(frozen=True)
class Step:
    """A batch that has been processed: shown to observers once it is durable."""

    processor: str
    records: Sequence[Record]
    outgoing: Sequence[Outgoing]


Observer = Callable[[Step], None]


Timed = Callable[[], AbstractContextManager[None]]
"""Measures what is done inside: publishing a batch's results."""


class Carrier:
    """Drives `processor` in the order that it asks for. Calls never overlap; all raise `Unavailable`.

    What was processed but is not durable yet is kept, and `finish` goes on where it failed: nothing is processed twice.
    """

    def __init__(
        self,
        processor: Processor,
        log: Log,
        observer: Observer = lambda step: None,
        timed: Timed = nullcontext,
    ) -> None:
        self.processor = processor
        self._timed = timed
        self._log = log
        self._observer = observer
        self._positions: dict[Partition, int] = {}
        self._unfinished: tuple[Partition | None, Step] | None = None
        self._appended = False

    def position(self, place: Partition, committed: Callable[[], int]) -> int:
        """The offset that `place` goes on at; asks the processor when it is named for the first time."""
        if place not in self._positions:
            self._positions[place] = self.processor.position(*place, committed())
        return self._positions[place]

    def take(self, place: Partition, records: Sequence[Record]) -> int:
        """Process records that start at the position of `place`, or finish them, if these are the ones in hand."""
        if self._unfinished is None or self._unfinished[0] is None:
            self.finish()
            self._unfinished = place, Step(self.processor.name, records, self.processor.process(records))
        return self.finish()

    def finish(self) -> int:
        """Append and checkpoint what is in hand, each at most once; how many records there were."""
        if self._unfinished is None:
            return 0
        place, step = self._unfinished
        if not self._appended:
            with self._timed():
                self._append(step.outgoing)
            self._appended = True
        self.processor.checkpoint()
        if place is not None:
            self._positions[place] = step.records[-1].offset + 1
        self._unfinished, self._appended = None, False
        self._observer(step)
        return len(step.records)

    def idle(self, now: datetime) -> None:
        """Deliver what is due by `now`, as durably as what follows from a batch."""
        self.finish()
        self._deliver(self.processor.idle(now))

    def flush(self) -> None:
        """Let the processor deliver what it owes; what is not delivered comes at a restart."""
        self.finish()
        self._deliver(self.processor.flush())

    def at(self, place: Partition) -> int:
        """The position of `place`, which is known."""
        return self._positions[place]

    def safe(self, place: Partition) -> int:
        """Up to where a commit of `place`, whose position is known, loses nothing."""
        return self.processor.safe(*place, self._positions[place])

    def _deliver(self, due: Sequence[Outgoing]) -> None:
        if due:
            self._unfinished = None, Step(self.processor.name, (), due)
            self.finish()

    def _append(self, outgoing: Sequence[Outgoing]) -> None:
        if outgoing:
            self._log.append(outgoing)
