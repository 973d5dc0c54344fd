"""Archives of many made verdicts: the archive's own schema, names and writer, with columns made at once by numpy."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flowgauge.domain.messages import SCHEMA_VERSION
from flowgauge.domain.object_keys import verdicts_object
from flowgauge.domain.ports import Objects
from flowgauge.processors.archive import SCHEMA

ROWS = 1_024  # of a stretch, as workers have it
FIRST_DAY = date(2026, 11, 1)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class MadeArchive:
    """`verdicts` in all, of `lines` lines that share `partitions`, over `days`. Each line swaps its gauge every
    `swap_days`, after which its scores lie elsewhere; one verdict in a thousand has the fingerprint of the one before.
    """

    verdicts: int
    lines: int = 20
    days: int = 30
    partitions: int = 4
    swap_days: int = 7
    seed: int = 0

    def write(self, objects: Objects) -> None:
        a_day = self.verdicts // self.days // self.partitions
        for partition in range(self.partitions):
            rng = np.random.default_rng([self.seed, partition])
            for number in range(self.days):
                first = number * a_day
                table = self._day(partition, number, first, a_day, rng)
                for start, end in _stretches(first, first + a_day):
                    buffer = BytesIO()
                    pq.write_table(table.slice(start - first, end - start), buffer, compression="zstd")
                    day = FIRST_DAY + timedelta(days=number)
                    objects.put(verdicts_object(day, partition, start - start % ROWS), buffer.getvalue())

    def _day(self, partition: int, number: int, first: int, rows: int, rng: np.random.Generator) -> pa.Table:
        own = np.arange(partition, self.lines, self.partitions)
        line = own[rng.integers(0, len(own), rows)]
        # the shift of each line is another hour of the day, so that its gauge changes then
        version = (number * 24 + line) // (24 * self.swap_days)
        drift = 0.3 * np.sin(line + version) + number / self.days * 0.5
        standard = rng.normal(drift, 1.0).round(6)
        score, threshold = 2.0 + 0.5 * standard, np.full(rows, 3.4)
        decision = np.select([score > 3.5, score > 3.3], [1, 2], 0)
        captured = np.datetime64(FIRST_DAY + timedelta(days=number), "us") + np.sort(
            rng.integers(0, 86_400_000_000, rows)
        ).astype("timedelta64[us]")
        delay = rng.exponential(0.2, rows)
        offset = np.arange(first, first + rows)
        print_of = rng.integers(0, 256, (rows, 8), dtype=np.uint8)
        repeats = 1 + np.flatnonzero(rng.random(rows - 1) < 0.001)
        print_of[repeats], line[repeats] = print_of[repeats - 1], line[repeats - 1]
        lines = pa.array([f"line-{n:02d}" for n in range(self.lines)]).take(pa.array(line))
        image = _joined("p", _text(np.full(rows, partition)), "-", pc.utf8_lpad(_text(offset), 9, "0"))
        folder = _joined("store:///images/", lines, f"/{FIRST_DAY + timedelta(days=number)}/", image)
        arrived = captured + (delay * 4e5).astype("timedelta64[us]")
        flagged = pa.array(decision > 0)
        columns: dict[str, Any] = {
            "schema_version": np.full(rows, SCHEMA_VERSION),
            "verdict_id": _uuids(rng, rows),
            "image_id": image,
            "image_sha256": _hex(rng.integers(0, 256, (rows, 32), dtype=np.uint8)),
            "image_uri": folder,
            "line": lines,
            "captured_at": _times(captured),
            "scored_at": _times(captured + (delay * 1e6).astype("timedelta64[us]")),
            "late": delay > 1.0,
            "score": score,
            "threshold": threshold,
            "decision": pa.array(["pass", "reject", "review"]).take(pa.array(decision)),
            "reasons": _reasons(decision),
            "gauge_version": _joined("fit-", lines, "-", _text(version)),
            "detector": pa.array(["featureflow"] * rows),
            "regions": _regions(decision, rng),
            "heatmap_uri": pc.if_else(flagged, _joined(folder, ".png"), None),
            "statistics": pa.StructArray.from_arrays(
                [
                    pa.array(rng.normal(0.45, 0.02, rows)),
                    pa.array(rng.normal(0.11, 0.01, rows)),
                    pa.array(rng.normal(-1.0, 0.2, rows)),
                    _hex(print_of),
                ],
                fields=list(SCHEMA.field("statistics").type),
            ),
            "source": pa.StructArray.from_arrays(
                [
                    pa.array(["images"] * rows),
                    pa.array(np.full(rows, partition, np.int32)),
                    pa.array(offset),
                    pa.array(np.zeros(rows, np.int64)),
                    pa.array(["bX9kQ2mDTrSe1sA0vYw4Zg"] * rows),
                ],
                fields=list(SCHEMA.field("source").type),
            ),
            "standard_score": standard,
            "peak": _lists(np.full(rows, 2), pa.array(rng.random(2 * rows))),
            "use_for_training": np.ones(rows, bool),
            # four images a part, as from a ring of cameras
            "subject": _joined("s", lines, "-", _text(offset // (4 * len(own)))),
            "arrived_at": _times(arrived),
            "clock_off": rng.random(rows) < 0.002,
            "trial_id": pa.nulls(rows, pa.string()),
        }
        return pa.table([pa.array(column) if isinstance(column, np.ndarray) else column for column in columns.values()],
                        names=list(columns)).cast(SCHEMA)  # fmt: skip


def _stretches(first: int, end: int) -> Iterator[tuple[int, int]]:
    while first < end:
        after = min(end, first - first % ROWS + ROWS)
        yield first, after
        first = after


def _text(numbers: NDArray[Any]) -> Any:
    return pc.cast(pa.array(numbers), pa.string())


def _joined(*parts: Any) -> Any:
    return pc.binary_join_element_wise(*parts, "")


def _times(of: NDArray[Any]) -> Any:
    return pa.array(of).cast(pa.timestamp("us", tz="UTC"))


def _hex(values: NDArray[np.uint8]) -> Any:
    """(rows, bytes) to strings of twice as many digits."""
    return _strings(_digits(values))


def _digits(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([_HEX[values >> 4], _HEX[values & 15]], axis=-1).reshape(len(values), -1)


def _uuids(rng: np.random.Generator, rows: int) -> Any:
    digits = _digits(rng.integers(0, 256, (rows, 16), dtype=np.uint8))
    dash = np.full((rows, 1), ord("-"), np.uint8)
    parts = np.split(digits, [8, 12, 16, 20], axis=1)
    return _strings(np.concatenate([parts[0], *(each for part in parts[1:] for each in (dash, part))], axis=1))


def _strings(characters: NDArray[np.uint8]) -> Any:
    rows, length = characters.shape
    ends = np.arange(rows + 1, dtype=np.int32) * length
    return pa.StringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(characters)))


def _lists(lengths: NDArray[Any], values: Any) -> Any:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), values)


def _reasons(decision: NDArray[Any]) -> Any:
    said = pa.array(["score 3.71 above the threshold 3.4", "score 3.38 inside the threshold's interval 3.3 to 3.5"])
    return _lists((decision > 0).astype(int), said.take(pa.array(decision[decision > 0] - 1)))


def _regions(decision: NDArray[Any], rng: np.random.Generator) -> Any:
    """Two of a reject, one of a review; they gather in one corner of the part."""
    lengths = np.select([decision == 1, decision == 2], [2, 1], 0)
    count = int(lengths.sum())
    corner = np.abs(rng.normal(0, 300, (2, count))).astype(np.int32)
    size = rng.integers(8, 80, (2, count), dtype=np.int32)
    arrays = [corner[0], corner[1], corner[0] + size[0], corner[1] + size[1], rng.exponential(2, count) + 3]
    fields = list(SCHEMA.field("regions").type.value_type)
    return _lists(lengths, pa.StructArray.from_arrays([pa.array(each) for each in arrays], fields=fields))


def started_at(day: int) -> datetime:
    return datetime.combine(FIRST_DAY + timedelta(days=day), datetime.min.time(), UTC)
