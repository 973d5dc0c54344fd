"""The one rule by which every reader of verdicts counts them, and the processors that read them.

A verdict whose `source.rank` (generation, then offset) does not rise within its partition is fenced: a worker that had
lost its partition wrote it. So no image ever has two verdicts that count.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from flowgauge.domain.dead_letters import dead_lettered
from flowgauge.domain.messages import VERDICTS, Verdict
from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.runtime.processor import Processor

Rank = tuple[int, int]

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


def count(records: Sequence[Record], highest: Rank = NOTHING_COUNTED) -> Count:
    """Split `records` of one verdict partition, whose earlier records went up to the rank `highest`."""
    counted: list[Counted] = []
    unreadable: list[Outgoing] = []
    for record in records:
        try:
            verdict = Verdict.decode(record.value)
        except ValidationError as error:
            unreadable.append(dead_lettered(record, f"This is no verdict: {error.errors()[0]['msg']}."))
            continue
        # Two workers may believe for a while that a partition is theirs. Both score the images in order, so the rank of
        # whoever comes second does not rise. The generation comes first: offsets of a topic that was made anew are low.
        if verdict.source.rank > highest:
            counted.append(Counted(record, verdict))
            highest = verdict.source.rank
    return Count(counted, unreadable, highest)


class VerdictReader(Processor):
    """A processor that is given the verdicts that count, and none twice unless they are replayed."""

    inputs: tuple[str, ...] = (VERDICTS,)

    def __init__(self, log: Log) -> None:
        self._log = log
        self._highest: dict[int, Rank] = {}

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        partition, offset = records[0].partition, records[0].offset
        if partition not in self._highest:
            start = max(0, offset - _LOOK_BACK)
            self._highest[partition] = count(self._log.read(VERDICTS, partition, start, offset - start)).highest
        result = count(records, self._highest[partition])
        outgoing = self.receive(result.counted)
        # after `receive`, which may raise: the batch comes again then, and must count again
        self._highest[partition] = result.highest
        return [*result.unreadable, *outgoing]

    @abstractmethod
    def receive(self, counted: Sequence[Counted]) -> list[Outgoing]:
        """Called with the verdicts of one batch that count, in order; there may be none."""
