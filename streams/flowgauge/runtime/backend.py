"""One place where a plant's lines live: their log, their objects and their state, behind ports."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

from pydantic import BaseModel, ValidationError

from flowgauge.domain.ports import Clock, Log, Objects, Record, State
from flowgauge.domain.problems import problems

M = TypeVar("M", bound=BaseModel)

log = logging.getLogger(__name__)

# small records of one read; more only take memory, with fewer a long topic takes many round trips to a broker
_PAGE = 1_000
# The same of one read backwards, from which most need but the last few: with more each brings megabytes that nobody
# looks at.
_LAST_PAGE = 256


@dataclass(frozen=True)
class Store:
    """A context manager: what it holds is closed at the end. `uri` is what a person typed to open it."""

    uri: str
    log: Log
    objects: Objects
    state: State
    clock: Clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for part in (self.log, self.state):
            part.close()


def kept_state(state: State, key: str, model: type[M]) -> M | None:
    """What is kept under `key`; None where nothing is, or what another version of ours wrote and this one cannot read:
    whoever keeps state bears that it is lost.
    """
    stored = state.get(key)
    try:
        return None if stored is None else model.model_validate_json(stored)
    except ValidationError as error:
        log.warning("The state %s cannot be read, and begins anew: %s.", key, problems(error))
        return None


def kept_record(objects: Objects, name: str, model: type[M]) -> M | None:
    """What the object `name` records; None where there is none, or no such record: one that is damaged must neither
    hide nor hold up any other.
    """
    try:
        return model.model_validate_json(objects.get(name))
    except KeyError:
        return None
    except ValidationError as error:
        log.warning("%s is passed over, for it cannot be read: %s.", name, problems(error))
        return None


def records_from(log: Log, topic: str, partition: int, offset: int = 0, end: int | None = None) -> Iterator[Record]:
    """The records of a partition from `offset` to before `end`, by default all that there are, page by page. Without
    an `end`, for topics whose records are small.
    """
    while end is None or offset < end:
        page = log.read(topic, partition, offset, _PAGE if end is None else min(_PAGE, end - offset))
        if not page:
            return
        # where records have expired, or compaction left gaps, a read goes beyond `end`
        yield from (record for record in page if end is None or record.offset < end)
        offset = page[-1].offset + 1


def newest_first(log: Log, topic: str, partition: int) -> Iterator[Record]:
    """The records of a partition that are there now, from its end to what it has let go of, page by page."""
    begin, end = log.begin(topic, partition), log.end(topic, partition)
    while end > begin:
        start = offset = max(begin, end - _LAST_PAGE)
        page: list[Record] = []
        # one read may give fewer than there are, and where compaction left gaps it goes beyond the page
        while offset < end and (found := log.read(topic, partition, offset, end - offset)):
            page += (record for record in found if record.offset < end)
            offset = found[-1].offset + 1
        if not page:
            return  # the topic has let go of them meanwhile
        yield from reversed(page)
        end = start
