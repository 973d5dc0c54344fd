"""Parts: the verdicts on the images of one part become one verdict on the part."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from uuid import UUID

from flowgauge.domain.messages import IMAGES, PART_VERDICTS, VERDICTS, AlertKind, PartVerdict
from flowgauge.domain.parts import REMEMBERED, PartTable
from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.processors.scoring import Scoring
from flowgauge.processors.start_offset import ensure_partition
from flowgauge.processors.tallies import LATE, Tallies
from flowgauge.registry.lines import SettingsCache
from flowgauge.runtime.backend import Store, records_from
from flowgauge.runtime.fencing import NOTHING_COUNTED, Counted, VerdictReader, fenced

_LATE_VIEWS = (
    "{line}: {count} views came after their part was decided, the first is {example} of part {subject}. The verdicts "
    "on the parts stand. Raise part_seconds if views come so late, or part_views if parts have more of them."
)


@dataclass
class _Partition:
    """`arrived_at`: when the image of the last verdict arrived, by the brokers' clock, and `received_at` when we were
    given that verdict, by ours; `scored`: the offset after that image; `read`: the offset after the last record."""

    table: PartTable
    read: int
    arrived_at: datetime | None = None
    received_at: float = 0.0
    scored: int = 0


class Parts(VerdictReader):
    """Writes part verdicts to the partition of the same number as the verdicts that they rest on.

    **Exactly once.** The topic of part verdicts is the checkpoint, as that of verdicts is for scoring. What decides a
    part, and in which order parts are decided, follows from the verdicts alone (`PartTable`), and each part verdict
    carries the place where it was decided as its rank. A reader drops those whose rank does not rise (`fenced`): a
    worker that starts anew, or one that had lost its partition, repeats ranks. There is no other state. A start reads
    the part verdicts that are written, and the verdicts from the commit on, which is held back to the first verdict on
    a part that is open; where the commit is lost, from where the last part verdict says.

    **A line that stops** brings no verdict that would close its last part. So a part is decided without one, at the
    rank that the next verdict would give it, once no image can arrive in time any more: since we were given the last
    verdict more time has passed than was left of the part's; since then nothing has come that is not scored and read.
    No two clocks are compared. Only a broker that shows a record more than `LATE` after its time could belie this, and
    then the part verdict that was written stands, for whoever starts anew follows what is written.
    """

    name = "parts"

    def __init__(
        self,
        store: Store,
        monotonic: Callable[[], float] = time.monotonic,
        reported: Mapping[UUID, int] = MappingProxyType({}),
    ) -> None:
        super().__init__(store.log)
        self._clock = store.clock
        self._monotonic = monotonic
        # a view that was passed over, because settings could not be read, would be missing for good
        self._settings = SettingsCache(store, insist=True)
        self._tallies = Tallies(self._settings, store.log, reported)
        self._partitions: dict[int, _Partition] = {}

    def start_offset(self, topic: str, partition: int, committed: int) -> int:
        ensure_partition(self._log, partition, (PART_VERDICTS,))
        topic_id = self._log.topic_id(VERDICTS)
        begin, end = self._log.begin(topic, partition), self._log.end(topic, partition)
        known = _written(self._log, partition, committed)
        last = known[-1].source if known else None
        other_topic = last is not None and bool(last.topic_id and topic_id and last.topic_id != topic_id)
        # a new generation is a time, as in scoring: part verdicts that have expired may have told of later ones
        now = int(self._clock.now().timestamp())
        if max(committed, last.offset if last else 0) > end or other_topic:
            generation, start = now if last is None else max(last.generation + 1, now), begin
        elif last is None:
            generation, start = now if self._log.end(PART_VERDICTS, partition) else 0, committed
        else:
            generation, start = last.generation, committed or last.resume
        self._partitions[partition] = _Partition(PartTable(start, generation, topic_id, known), start)
        return start

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        outgoing = super().process(records)
        self._partitions[records[0].partition].read = records[-1].offset + 1
        return [*outgoing, *self._tallies.passed(records[-1])]

    def receive(self, counted: Sequence[Counted]) -> list[Outgoing]:
        # what may raise `Unavailable` comes first: the table sees each verdict once
        settings = {line: self._settings.of(line) for line in {item.verdict.line for item in counted}}
        outgoing: list[Outgoing] = []
        for record, verdict in ((item.record, item.verdict) for item in counted):
            partition = self._partitions[record.partition]
            arrived_at = verdict.arrived_at or record.at
            decided, late = partition.table.take(verdict, record.offset, arrived_at, settings[verdict.line])
            outgoing += self._records(record.partition, decided)
            if late:
                outgoing += self._tallies.add(
                    AlertKind.LATE_VIEW,
                    verdict.line,
                    record,
                    _LATE_VIEWS,
                    # a late reject of a part that has passed is a defect on its way: alerting names parts alone
                    f"{verdict.image_id} ({verdict.decision})",
                    subject=verdict.subject,
                )
            partition.arrived_at, partition.received_at = arrived_at, self._monotonic()
            partition.scored = verdict.source.offset + 1
        return outgoing

    def committable_offset(self, topic: str, partition: int, read: int) -> int:
        first = self._partitions[partition].table.first_open
        return self._tallies.committable_offset(topic, partition, read if first is None else min(first, read))

    def punctuate(self, now: datetime) -> list[Outgoing]:
        # asking may raise `Unavailable`, so all is asked before anything is decided
        self._tallies.find_complete(now)
        over = {number: before for number in self._partitions if (before := self._idle_until(number)) is not None}
        decided = [
            out
            for number, before in over.items()
            for out in self._records(number, self._partitions[number].table.expire(before))
        ]
        return [*decided, *self._tallies.due(now)]

    def flush(self) -> list[Outgoing]:
        """Parts stay open: their views may come after a restart."""
        return self._tallies.so_far()

    def _records(self, number: int, decided: Sequence[PartVerdict]) -> Iterator[Outgoing]:
        for each in decided:
            # where the commit is lost, late views are counted again from the first of the window on
            resume = self._tallies.committable_offset(VERDICTS, number, each.source.resume)
            record = each.model_copy(update={"source": each.source.model_copy(update={"resume": resume})})
            yield Outgoing(PART_VERDICTS, each.line, record.encode(), partition=number)

    def _idle_until(self, number: int) -> datetime | None:
        """The moment, by the brokers' clock, before which no image can arrive any more that has no verdict yet; None
        where that would decide nothing."""
        partition = self._partitions[number]
        deadline = partition.table.next_deadline
        if deadline is None or partition.arrived_at is None:
            return None
        passed = timedelta(seconds=self._monotonic() - partition.received_at)
        moment = partition.arrived_at + passed - LATE
        if deadline >= moment or not self._all_is_read(number, partition):
            return None
        return moment

    def _all_is_read(self, number: int, partition: _Partition) -> bool:
        images = self._log.end(IMAGES, number)
        # images that are dead letters have no verdict: then scoring's own commit says that it is done with them
        scored = partition.scored >= images or self._log.position(Scoring.name, IMAGES, number) >= images
        return scored and partition.read >= self._log.end(VERDICTS, number)


def _written(log: Log, number: int, committed: int) -> list[PartVerdict]:
    """The last part verdicts of a partition that count, in order: all that rest on verdicts from where reading starts
    on, and as many before as are remembered, if there are."""
    begin, end, wanted = log.begin(PART_VERDICTS, number), log.end(PART_VERDICTS, number), REMEMBERED
    while True:
        first = max(begin, end - wanted)
        records = list(records_from(log, PART_VERDICTS, number, first))
        known = [part for _, part in fenced(records, NOTHING_COUNTED, PartVerdict)[0]]
        last = known[-1].source if known else None
        start = (0, 0) if last is None else (last.generation, committed or last.resume)
        if first == begin or sum(each.source.rank[:2] <= start for each in known) >= REMEMBERED:
            return known
        wanted *= 2
