"""The archive: verdicts as Parquet files in the object store, one per date of their events and stretch of offsets."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from flowgauge.domain.messages import Verdict
from flowgauge.domain.object_keys import verdicts_folder, verdicts_object
from flowgauge.domain.ports import Objects, Outgoing, Record
from flowgauge.runtime.backend import Store
from flowgauge.runtime.fencing import Counted, VerdictReader

_FLUSH_INTERVAL = timedelta(seconds=30)  # how far the archive may lag behind a line that is slow

_SCHEMA = pa.schema(
    [
        ("schema_version", pa.int32()),
        ("verdict_id", pa.string()),
        ("image_id", pa.string()),
        ("image_sha256", pa.string()),
        ("image_uri", pa.string()),
        ("line", pa.string()),
        ("captured_at", pa.timestamp("us", tz="UTC")),
        ("scored_at", pa.timestamp("us", tz="UTC")),
        ("late", pa.bool_()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("decision", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("gauge_version", pa.string()),
        ("detector", pa.string()),
        (
            "regions",
            pa.list_(
                pa.struct(
                    [
                        ("left", pa.int32()),
                        ("top", pa.int32()),
                        ("right", pa.int32()),
                        ("bottom", pa.int32()),
                        ("score", pa.float64()),
                    ]
                )
            ),
        ),
        ("heatmap_uri", pa.string()),
        (
            "statistics",
            pa.struct(
                [
                    ("brightness", pa.float64()),
                    ("contrast", pa.float64()),
                    ("focus", pa.float64()),
                    ("fingerprint", pa.string()),
                ]
            ),
        ),
        (
            "source",
            pa.struct(
                [
                    ("topic", pa.string()),
                    ("partition", pa.int32()),
                    ("offset", pa.int64()),
                    ("generation", pa.int64()),
                    ("topic_id", pa.string()),
                ]
            ),
        ),
        ("standard_score", pa.float64()),
        ("peak", pa.list_(pa.float64())),
        ("use_for_training", pa.bool_()),
        ("subject", pa.string()),
        ("arrived_at", pa.timestamp("us", tz="UTC")),
        ("clock_off", pa.bool_()),
    ]
)


Stretch = dict[int, Verdict]
"""Verdicts by their offset in the verdict partition."""


class Archive(VerdictReader):
    """Holds the verdicts of the stretch of `rows` offsets that is being filled, and commits only its start: a restart
    reads the stretch again and rewrites the same files with at least what they held. For that it writes nothing before
    it has read what was there when it started."""

    name = "archive"

    def __init__(self, store: Store, rows: int) -> None:
        super().__init__(store.log)
        self._objects = store.objects
        self._clock = store.clock
        self._rows = rows
        self._open: dict[int, dict[int, Stretch]] = defaultdict(dict)
        self._unwritten: set[int] = set()
        self._there: dict[int, int] = {}
        self._read: dict[int, int] = {}
        self._written_at: datetime | None = None

    def position(self, topic: str, partition: int, committed: int) -> int:
        """A stretch that was committed half-way, with another number of rows, is read again from its start."""
        self._there[partition] = self._log.end(topic, partition)
        return self._start(committed)

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        outgoing = super().process(records)
        self._read[records[0].partition] = records[-1].offset + 1
        return outgoing

    def receive(self, counted: Sequence[Counted]) -> list[Outgoing]:
        """Stretches that are full are written first and forgotten last, so that a repetition finds them whole."""
        for item in counted:
            partition, offset = item.record.partition, item.record.offset
            self._open[partition].setdefault(self._start(offset), {})[offset] = item.verdict
            self._unwritten.add(partition)
        for partition in {item.record.partition for item in counted}:
            self._close(partition)
        return []

    def safe(self, topic: str, partition: int, read: int) -> int:
        return min(self._open[partition], default=self._start(read))

    def idle(self, now: datetime) -> list[Outgoing]:
        if self._written_at is None or not timedelta() <= now - self._written_at < _FLUSH_INTERVAL:
            self.flush()
        return []

    def flush(self) -> list[Outgoing]:
        for partition in sorted(self._unwritten):
            if self._read.get(partition, 0) >= self._there[partition]:
                self._write(partition)
        return []

    def _start(self, offset: int) -> int:
        return offset - offset % self._rows

    def _close(self, partition: int) -> None:
        stretches = self._open[partition]
        full = sorted(stretches)[:-1]
        for first in full:
            self._put(partition, first, stretches[first])
        for first in full:
            del stretches[first]

    def _write(self, partition: int) -> None:
        for first, stretch in self._open[partition].items():
            self._put(partition, first, stretch)
        self._unwritten.discard(partition)
        self._written_at = self._clock.now()

    def _put(self, partition: int, first: int, stretch: Stretch) -> None:
        of_day: defaultdict[date, list[Verdict]] = defaultdict(list)
        for _, verdict in sorted(stretch.items()):
            of_day[verdict.event_time.date()].append(verdict)
        for day, verdicts in of_day.items():
            self._objects.put(verdicts_object(day, partition, first), _parquet(verdicts))


def archived(objects: Objects, line: str | None = None, day: date | None = None) -> Iterator[Verdict]:
    """Verdicts of the archive (of `line`, of events on `day`), by date, partition and offset."""
    prefix = "verdicts/" if day is None else verdicts_folder(day)
    for name in objects.names(prefix):
        for row in pq.read_table(BytesIO(objects.get(name)), partitioning=None).to_pylist():
            verdict = Verdict.model_validate(row)
            if line in (None, verdict.line):
                yield verdict


def archived_days(objects: Objects) -> list[date]:
    """The dates of events that the archive has verdicts of."""
    folders = {name.split("/")[1] for name in objects.names("verdicts/")}
    return sorted(date(*map(int, folder.removeprefix("date=").split("-"))) for folder in folders)


def _parquet(verdicts: Sequence[Verdict]) -> bytes:
    rows = [verdict.model_dump() | {"verdict_id": str(verdict.verdict_id)} for verdict in verdicts]
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()
