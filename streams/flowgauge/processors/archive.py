"""The archive: verdicts as Parquet files in the object store, one per date of their events and stretch of offsets."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from io import BytesIO
from typing import Any, BinaryIO, get_args, get_origin
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel

from flowgauge.domain.errors import ArchiveDamaged, Unavailable
from flowgauge.domain.messages import Verdict
from flowgauge.domain.object_keys import verdicts_folder, verdicts_object
from flowgauge.domain.ports import Objects, Outgoing, Record
from flowgauge.runtime.backend import Store
from flowgauge.runtime.fencing import Counted, VerdictReader

# how far the archive may lag behind a line that is slow; shorter, and its open file is written again all the time
_FLUSH_INTERVAL = timedelta(seconds=30)
# of how far the archive has come: shorter than topics keep verdicts, and a line that stood still is said to have lost
# some; longer only keeps what nobody asks for
_WRITTEN_SECONDS = 400 * 86_400.0
# years below 1000 had fewer digits once
_FILE = re.compile(r"verdicts/date=(\d{1,4})-(\d\d)-(\d\d)/\d+-\d+\.parquet")

log = logging.getLogger(__name__)

_COLUMNS = {
    str: pa.string(),
    UUID: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    AwareDatetime: pa.timestamp("us", tz="UTC"),
}
# written with 32 bits from the first archive on: warehouses that read old and new files as one table want one width
_OF_32_BITS = {"schema_version", "partition", "left", "top", "right", "bottom"}


def columns(model: type[BaseModel]) -> list[pa.Field]:
    """A column for every field of `model`, in order."""
    return [pa.field(name, _column(name, field.annotation)) for name, field in model.model_fields.items()]


def _column(name: str, annotation: Any) -> pa.DataType:
    """The column type of a field: a model is a struct, a tuple a list of its first item's type, and every column may be
    empty. Raises `KeyError` for a type that has none, so that a new field is never dropped in silence."""
    if get_origin(annotation) is tuple:
        return pa.list_(_column(name, get_args(annotation)[0]))
    if get_args(annotation):  # what is optional or annotated with validators is stored as what it wraps
        return _column(name, get_args(annotation)[0])
    if issubclass(annotation, BaseModel):
        return pa.struct(columns(annotation))
    if annotation is int and name in _OF_32_BITS:
        return pa.int32()
    return _COLUMNS[str if issubclass(annotation, str) else annotation]


SCHEMA = pa.schema(columns(Verdict))
"""Of every file: pyarrow leaves out what a row holds beyond it, without a word."""


Stretch = dict[int, Verdict]
"""Verdicts by their offset in the verdict partition."""


class Archive(VerdictReader):
    """Holds the verdicts of the stretch of `rows` offsets that is being filled, and commits only its start: a restart
    reads the stretch again and rewrites the same files with at least what they held. What the topic has let go of
    meanwhile, or held before it was made anew, stays as it is in the file."""

    name = "archive"

    def __init__(self, store: Store, rows: int) -> None:
        super().__init__(store.log)
        self._objects = store.objects
        self._state = store.state
        self._clock = store.clock
        self._rows = rows
        self._open: dict[int, dict[int, Stretch]] = defaultdict(dict)
        # by partition and first offset of a stretch, for each date: what its file held that is not read again
        self._kept: dict[tuple[int, int], dict[date, pa.Table]] = defaultdict(dict)
        self._unwritten: set[int] = set()
        self._there: dict[int, int] = {}
        self._read: dict[int, int] = {}
        self._written_at: datetime | None = None

    def start_offset(self, topic: str, partition: int, committed: int) -> int:
        """A stretch that was committed half-way, with another number of rows, is read again from its start, or from
        what the topic still holds of it: the rest is in the archive where it was written, and missed by nobody."""
        start, begin = self._start_of_stretch(committed), self._log.begin(topic, partition)
        self._there[partition] = self._log.end(topic, partition)
        written = None
        with suppress(Unavailable):
            written = self._state.get(_written_key(partition))
        return begin if written is not None and start < begin <= int(written) else start

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        outgoing = super().process(records)
        self._read[records[0].partition] = records[-1].offset + 1
        return outgoing

    def receive(self, counted: Sequence[Counted]) -> list[Outgoing]:
        for item in counted:
            partition, offset = item.record.partition, item.record.offset
            self._open[partition].setdefault(self._start_of_stretch(offset), {})[offset] = item.verdict
            self._unwritten.add(partition)
        for partition in {item.record.partition for item in counted}:
            stretches = self._open[partition]
            full = sorted(stretches)[:-1]
            # all are written before the first is forgotten: a store that leaves in between has this batch come again,
            # and the repetition must find the stretches whole
            for first in full:
                self._put(partition, first, stretches[first])
            for first in full:
                del stretches[first]
                self._kept.pop((partition, first), None)
        return []

    def committable_offset(self, topic: str, partition: int, read: int) -> int:
        return min(self._open[partition], default=self._start_of_stretch(read))

    def punctuate(self, now: datetime) -> list[Outgoing]:
        # a clock that was set back must not hold the archive up, so the interval is looked at from both sides
        if self._written_at is None or not timedelta() <= now - self._written_at < _FLUSH_INTERVAL:
            self.flush()
        return []

    def flush(self) -> list[Outgoing]:
        for partition in sorted(self._unwritten):
            # after a restart an open stretch is written once all that lay there has been read again: before, its file
            # would lose verdicts that the worker before this one had written
            if self._read.get(partition, 0) >= self._there[partition]:
                for first, stretch in self._open[partition].items():
                    self._put(partition, first, stretch)
                self._unwritten.discard(partition)
                self._written_at = self._clock.now()
                with suppress(Unavailable):  # then a start may tell of records that expired, and have been archived
                    offset = str(self._read[partition]).encode()
                    self._state.put(_written_key(partition), offset, _WRITTEN_SECONDS)
        return []

    def _start_of_stretch(self, offset: int) -> int:
        return offset - offset % self._rows

    def _put(self, partition: int, first: int, stretch: Stretch) -> None:
        of_day: defaultdict[date, list[dict[str, Any]]] = defaultdict(list)
        for _, verdict in sorted(stretch.items()):
            row = verdict.model_dump()
            ids = {name: str(value) for name, value in row.items() if isinstance(value, UUID)}
            of_day[verdict.event_time.date()].append(row | ids)
        for day, rows in of_day.items():
            name, kept = verdicts_object(day, partition, first), self._kept[partition, first]
            if day not in kept:
                kept[day] = self._not_read_again(name, stretch)
            table, buffer = pa.Table.from_pylist(rows, schema=SCHEMA), BytesIO()
            table = pa.concat_tables([kept[day], table]) if len(kept[day]) else table
            pq.write_table(table, buffer, compression="zstd")
            self._objects.put(name, buffer.getvalue())

    def _not_read_again(self, name: str, stretch: Stretch) -> pa.Table:
        """What the file holds of verdicts before the first one of `stretch`, and of another topic."""
        try:
            table = read_file(name, BytesIO(self._objects.get(name)), schema=SCHEMA)
        except KeyError:
            return SCHEMA.empty_table()
        except ArchiveDamaged as error:
            log.warning("%s It is written anew.", error.cause)
            return SCHEMA.empty_table()
        begin = stretch[min(stretch)].source.rank
        topics = {verdict.source.topic_id for verdict in stretch.values()}
        # files of before these fields were added have nothing there
        sources = [
            (each["generation"] or 0, each["offset"], each["topic_id"] or "") for each in table["source"].to_pylist()
        ]
        return table.filter(
            pa.array([(rank, at) < begin or topic not in topics for rank, at, topic in sources], pa.bool_())
        )


def _written_key(partition: int) -> str:
    return f"archive/{partition}"


def archived(objects: Objects, line: str | None = None, day: date | None = None) -> Iterator[Verdict]:
    """Verdicts of the archive (of `line`, of events on `day`), by date, partition and offset. Raises `ArchiveDamaged`
    at the first file that is.
    """
    prefix = "verdicts/" if day is None else verdicts_folder(day)
    of_line = None if line is None else [("line", "==", line)]
    for name in filter(_day_of, objects.names(prefix)):
        table = read_file(name, BytesIO(objects.get(name)), filters=of_line)
        yield from map(Verdict.model_validate, table.to_pylist())


def read_file(name: str, data: BinaryIO, **wanted: Any) -> pa.Table:
    """What is `wanted` of the file `name`. Raises `ArchiveDamaged`."""
    try:
        return pq.read_table(data, partitioning=None, **wanted)
    except (pa.ArrowException, OSError) as error:
        raise ArchiveDamaged(
            f"{name} is damaged: {str(error).splitlines()[0].rstrip('.')}.",
            "Restore it from a copy of the store. One under compacted/ may be deleted, for `flowgauge verdicts compact`"
            " makes it anew.",
        ) from error


def archived_days(objects: Objects) -> list[date]:
    """The dates of events that the archive has verdicts of."""
    return sorted({day for day in map(_day_of, objects.names("verdicts/")) if day is not None})


def _day_of(name: str) -> date | None:
    """The date of the events in an archive's file; None for what else lies among them, which is not ours."""
    found = _FILE.fullmatch(name)
    try:
        return None if found is None else date(*map(int, found.groups()))
    except ValueError:  # digits that are no date
        return None
