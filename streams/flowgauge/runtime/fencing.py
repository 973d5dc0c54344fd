"""The one rule by which every reader of verdicts counts them, and the processors that read them.

A verdict whose `source.rank` (generation, then offset) does not rise within its partition is void: a worker that had
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

_LOOK_BACK = 1_000  # void records come in bursts of a batch; a longer burst than this would hide what it repeats


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
        if verdict.source.rank > highest:
            counted.append(Counted(record, verdict))
            highest = verdict.source.rank
    return Count(counted, unreadable, highest)


def highest_before(log: Log, partition: int, offset: int) -> Rank:
    """The highest rank of the verdicts below `offset`."""
    start = max(0, offset - _LOOK_BACK)
    return count(log.read(VERDICTS, partition, start, offset - start)).highest


class VerdictReader(Processor):
    """A processor that is given the verdicts that count, and none twice unless they are replayed."""

    inputs: tuple[str, ...] = (VERDICTS,)

    def __init__(self, log: Log) -> None:
        self._log = log
        self._highest: dict[int, Rank] = {}

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        partition = records[0].partition
        if partition not in self._highest:
            self._highest[partition] = highest_before(self._log, partition, records[0].offset)
        result = count(records, self._highest[partition])
        outgoing = self.receive(result.counted)
        self._highest[partition] = result.highest
        return [*result.unreadable, *outgoing]

    @abstractmethod
    def receive(self, counted: Sequence[Counted]) -> list[Outgoing]:
        """Called with the verdicts of one batch that count, in order; there may be none."""
