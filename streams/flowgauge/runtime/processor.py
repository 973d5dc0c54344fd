"""What turns records into records, whoever drives it: the in-process runner or a member of a consumer group."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import ClassVar, TypeVar

from pydantic import ValidationError

from flowgauge.domain.dead_letters import dead_lettered
from flowgauge.domain.messages import Message
from flowgauge.domain.ports import Outgoing, Record

M = TypeVar("M", bound=Message)


class Processor(ABC):
    """Driven in this order, for each batch: `parts`, for each of them `process`, append of what it returned and
    `checkpoint`, and at last commit of `committable_offset`. Calls never overlap.

    Delivery is at least once. A part whose `process` raised `Unavailable` comes again, so until it returns nothing may
    have changed that is not repeatable. After a crash the records from the last commit on come again: ids and names
    that a processor makes depend on its records alone, and its effects may be repeated.
    """

    name: str
    """The consumer group."""

    inputs: tuple[str, ...]
    """The topics."""

    mixes_partitions: ClassVar[bool] = False
    """Whether a batch may hold records of several partitions."""

    def start_offset(self, topic: str, partition: int, committed: int) -> int:
        """Called before the first record of a partition: the offset to start at."""
        return committed

    def prefetch(self, records: Sequence[Record]) -> None:  # noqa: B027  most processors have nothing to prepare
        """Records that `process` will probably be given soon. From any thread, and also beside `process`."""

    def parts(self, records: Sequence[Record]) -> Sequence[Sequence[Record]]:
        """A batch as it is given to `process`, each part once the results of those before it are durable: for a
        processor whose records take long. Together the parts hold each record once.
        """
        return [records]

    @abstractmethod
    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        """Called with one or more records, those of each partition in order; of one partition unless it mixes them."""

    def checkpoint(self) -> None:  # noqa: B027  most processors keep no state
        """Called once what `process` or `punctuate` returned has been appended: the place to store state."""

    def committable_offset(self, topic: str, partition: int, read: int) -> int:
        """Up to which offset (exclusive) a commit loses nothing; `read` is the offset after the last record given."""
        return read

    def punctuate(self, now: datetime) -> list[Outgoing]:
        """Called while there are no records: what is due by now."""
        return []

    def flush(self) -> list[Outgoing]:
        """Called after the last record for now, at a stop for example: what is pending, due or not. More may follow."""
        return []


def decoded(
    records: Iterable[Record], message: type[M], what: str, unreadable: list[Outgoing]
) -> Iterator[tuple[Record, M]]:
    """The records that hold a `message`; of each that is no such thing (`what` says of what) `unreadable` gets a dead
    letter.
    """
    for record in records:
        try:
            found = message.decode(record.value)
        except ValidationError as error:
            unreadable.append(dead_lettered(record, f"This is no {what}: {error.errors()[0]['msg']}."))
            continue
        yield record, found
