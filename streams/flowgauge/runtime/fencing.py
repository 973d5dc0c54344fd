"""The one rule by which every reader of verdicts counts them, and the processors that read them.

A verdict whose `source.rank` (generation, then offset) does not rise within its partition is fenced: a worker that had
lost its partition wrote it. So no image ever has two verdicts that count. The verdicts of parts are fenced alike.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from flowgauge.domain.messages import VERDICTS, PartVerdict, Verdict
from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.runtime.backend import records_from
from flowgauge.runtime.processor import Processor, decoded

Rank = tuple[int, ...]
Ranked = TypeVar("Ranked", Verdict, PartVerdict)

NOTHING_COUNTED: Rank = (0, -1)
"""Below the rank of every verdict."""

# fenced records come in bursts of a batch; a burst longer than this would hide the rank that it repeats, a longer look
# back only costs time at a start
_LOOK_BACK = 1_000


@dataclass(frozen=True)
class Counted:
    """A verdict that counts, and the record that carries it."""

    record: Record
    verdict: Verdict


@dataclass(frozen=True)
class Count:
    """What of a batch counts, what could not be read, and the highest rank after it."""

    counted: Sequence[Counted]
    unreadable: Sequence[Outgoing]
    highest: Rank


def fenced(
    records: Sequence[Record], highest: Rank, message: type[Ranked]
) -> tuple[list[tuple[Record, Ranked]], list[Outgoing], Rank]:
    """What counts of `records` of one partition, whose earlier records went up to the rank `highest`; what could not be
    read, as dead letters; and the highest rank after them."""
    counted: list[tuple[Record, Ranked]] = []
    unreadable: list[Outgoing] = []
    for record, verdict in decoded(records, message, "verdict", unreadable):
        # Two workers may believe for a while that a partition is theirs. Both score the images in order, so the rank of
        # whoever comes second does not rise. The generation comes first: offsets of a topic that was made anew are low.
        if verdict.source.rank > highest:
            counted.append((record, verdict))
            highest = verdict.source.rank
    return counted, unreadable, highest


def count(records: Sequence[Record], highest: Rank = NOTHING_COUNTED) -> Count:
    """`fenced` of verdicts on images."""
    counted, unreadable, highest = fenced(records, highest, Verdict)
    return Count([Counted(record, verdict) for record, verdict in counted], unreadable, highest)


def highest_before(log: Log, topic: str, partition: int, offset: int, message: type[Ranked]) -> Rank:
    """The rank that records from `offset` on must exceed to count."""
    # a read gives what is there: records before `offset` that have expired must not make room for those from it on
    before = list(records_from(log, topic, partition, max(0, offset - _LOOK_BACK), offset))
    return fenced(before, NOTHING_COUNTED, message)[2]


class VerdictReader(Processor):
    """A processor that is given the verdicts that count, and none twice unless they are replayed."""

    inputs: tuple[str, ...] = (VERDICTS,)

    def __init__(self, log: Log) -> None:
        self._log = log
        self._highest: dict[int, Rank] = {}

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        partition, offset = records[0].partition, records[0].offset
        if partition not in self._highest:
            self._highest[partition] = highest_before(self._log, VERDICTS, partition, offset, Verdict)
        result = count(records, self._highest[partition])
        outgoing = self.receive(result.counted)
        # after `receive`, which may raise: the batch comes again then, and must count again
        self._highest[partition] = result.highest
        return [*result.unreadable, *outgoing]

    @abstractmethod
    def receive(self, counted: Sequence[Counted]) -> list[Outgoing]:
        """Called with the verdicts of one batch that count, in order; there may be none."""
