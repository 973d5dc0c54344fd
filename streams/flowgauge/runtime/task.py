"""One batch through a processor: process, append, checkpoint; whoever brings the batches."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.runtime.processor import Processor

Partition = tuple[str, int]
"""Topic and number."""


@dataclass(frozen=True)
class Step:
    """A batch that has been processed: shown to observers once it is durable."""

    processor: str
    records: Sequence[Record]
    outgoing: Sequence[Outgoing]


Observer = Callable[[Step], None]

Timed = Callable[[], AbstractContextManager[None]]
"""Measures what is done inside: publishing a batch's results."""


class StreamTask:
    """Drives `processor` in the order that it asks for. Calls never overlap; all raise `Unavailable`.

    `positions` are the offsets after the last record that is durable, by partition. What was processed but is not
    durable yet is kept, and `finish` goes on where it failed: nothing is processed twice.
    """

    def __init__(
        self, processor: Processor, log: Log, observer: Observer = lambda step: None, timed: Timed = nullcontext
    ) -> None:
        self.processor = processor
        self.positions: dict[Partition, int] = {}
        self._timed = timed
        self._log = log
        self._observer = observer
        self._unfinished: Step | None = None
        self._batch: Sequence[Record] = ()
        self._waiting: list[Sequence[Record]] = []
        self._unappended: list[Sequence[Outgoing]] = []

    def position(self, topic_partition: Partition, committed: Callable[[], int]) -> int:
        """The offset that `topic_partition` goes on at; asks the processor when it is named for the first time."""
        if topic_partition not in self.positions:
            self.positions[topic_partition] = self.processor.start_offset(*topic_partition, committed())
        return self.positions[topic_partition]

    def take(self, records: Sequence[Record]) -> int:
        """Process records, of each partition from its position on, or finish them, if these are the ones in hand."""
        if not self._waiting and (self._unfinished is None or not self._unfinished.records):
            self.finish()
            first, *waiting = self.processor.parts(records)
            self._begin(first, self.processor.process(first))
            self._batch, self._waiting = records, waiting
        return self.finish()

    def finish(self) -> int:
        """Append and checkpoint what is in hand, each at most once, and go on with the parts of the batch that wait;
        how many records there were.
        """
        done = self._finish_part()
        while self._waiting:
            self._begin(self._waiting[0], self.processor.process(self._waiting[0]))
            del self._waiting[0]
            done += self._finish_part()
        return done

    def _finish_part(self) -> int:
        if self._unfinished is None:
            return 0
        step = self._unfinished
        # Results before state before position: a crash after any of the three repeats the batch and loses nothing.
        # State that was stored before its results could swallow the alerts that a repetition would make.
        if self._unappended:
            with self._timed():
                self._append()
        self.processor.checkpoint()
        if not self._waiting:  # records of different parts may alternate: before the last part, none is left behind
            for record in self._batch:
                self.positions[record.topic, record.partition] = record.offset + 1
            self._batch = ()
        self._unfinished = None
        self._observer(step)
        return len(step.records)

    def deliver(self, due: Callable[[], list[Outgoing]]) -> None:
        """Append what `due`, the processor's `punctuate` or `flush`, returns: as durably as the results of a batch."""
        self.finish()
        outgoing = due()
        if outgoing:
            self._begin((), outgoing)
            self.finish()

    def _begin(self, records: Sequence[Record], outgoing: Sequence[Outgoing]) -> None:
        self._unfinished = Step(self.processor.name, records, outgoing)
        self._unappended = [outgoing] if outgoing else []

    def _append(self) -> None:
        """All at once; after a failure by the number of the partition, so that one without a leader does not have those
        of the others written again each time. Raises the first `Unavailable`, with what failed left to append.
        """
        failed: list[Sequence[Outgoing]] = []
        error: Unavailable | None = None
        for part in self._unappended:
            try:
                self._log.append(part)
            except Unavailable as raised:
                failed.append(part)
                error = error or raised
        self._unappended = [part for each in failed for part in _by_number(each)]
        if error is not None:
            raise error

    def committable_offset(self, topic_partition: Partition) -> int:
        """Up to where a commit of `topic_partition`, whose position is known, loses nothing."""
        return self.processor.committable_offset(*topic_partition, self.positions[topic_partition])


def _by_number(outgoing: Sequence[Outgoing]) -> list[list[Outgoing]]:
    """In order within each partition's number, of whatever topic, and among those that go by their key."""
    parts: dict[int | None, list[Outgoing]] = {}
    for each in outgoing:
        parts.setdefault(each.partition, []).append(each)
    return list(parts.values())
