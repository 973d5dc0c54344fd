"""The archive's files as they are read, and compaction: of a finished day's many small files, few copies.

A copy holds the verdicts of one date and of `_OFFSETS` offsets of one partition, sorted by line and time. The archive's
own files stay as they are, so that a replay rewrites them as ever. A copy is named by a hash of the names that it
stands for, the first of them by offset, and counts only while exactly those are there: whatever is interrupted, deleted
or comes late, a reader that takes its files from `archive_files` sees every verdict once.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from io import SEEK_END, SEEK_SET, BytesIO, RawIOBase
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowgauge.domain.errors import ArchiveDamaged
from flowgauge.domain.messages import VERDICTS, Verdict
from flowgauge.domain.object_keys import COMPACTED, compacted_folder, verdicts_folder
from flowgauge.domain.ports import Objects
from flowgauge.processors.archive import SCHEMA, Archive, read_file
from flowgauge.runtime.backend import Store

# offsets of a copy, some 20 MB: fewer leave more files to open, more take more memory to sort (a gigabyte a million)
_OFFSETS = 131_072
# rows of a copy's pieces, each with its own range of lines: fewer, and a query over all lines decodes more headers;
# more, and what is read for one line has more of other lines in it
_ROW_GROUP = 16_384
# by these one verdict is looked up: 2 % more bytes, and a piece without it is skipped
_SOUGHT = {name: {"ndv": _ROW_GROUP, "fpp": 0.01} for name in ("verdict_id", "image_id")}
_FILE = re.compile(r"verdicts/date=(\d{4}-\d\d-\d\d)/(\d+)-(\d+)\.parquet")

DEFAULTS = {name: field.default for name, field in Verdict.model_fields.items() if isinstance(field.default, bool)}
"""What a verdict says of fields that its file was written before, where that is not null."""

Report = Callable[[str, int, int], None]


class Block(NamedTuple):
    """What one copy may stand for."""

    day: date
    partition: int
    number: int

    def copies(self, names: Sequence[str]) -> list[str]:
        """Of the first of `names`, of the first two, and so on."""
        digest, first, made = sha256(), self.number * _OFFSETS, []
        for name in names:
            digest.update(f"{name}\n".encode())
            made.append(f"{compacted_folder(self.day)}{self.partition}-{first:012d}-{digest.hexdigest()[:12]}.parquet")
        return made


@dataclass(frozen=True)
class Compacted:
    """`copies` were made of `files`, and `removed` ones that no longer counted are gone."""

    copies: int
    files: int
    verdicts: int
    removed: int


def archive_files(objects: Objects, days: Collection[date] | None = None) -> list[str]:
    """The fewest objects that hold each verdict of the archive (of events on `days`) once."""
    copies = set(_names(objects, compacted_folder, COMPACTED, days))
    chosen: list[str] = []
    for block, names in _blocks(objects, days).items():
        candidates = block.copies(names)
        copied = _copied(candidates, copies)
        chosen += candidates[:copied][-1:] + names[copied:]
    return chosen


def _copied(candidates: Sequence[str], copies: Collection[str]) -> int:
    """How many names the longest copy that is there stands for."""
    return next((length for length in range(len(candidates), 0, -1) if candidates[length - 1] in copies), 0)


def opened(objects: Objects, name: str) -> BinaryIO:
    """One of them: the archive's own in one request, a copy by the ranges that are read of it."""
    if not name.startswith(COMPACTED):
        return BytesIO(objects.get(name))
    return cast(BinaryIO, Ranges(objects.size(name), lambda start, length: objects.get_range(name, start, length)))


def columns_of(objects: Objects, name: str, line: str, columns: Sequence[str]) -> pa.Table:
    """`columns` of the verdicts of `line` in one of them, with what a verdict says of those that it is older than."""
    of_line = [("line", "=", line)]
    table = read_file(name, opened(objects, name), schema=SCHEMA, columns=list(columns), filters=of_line)
    return _with_defaults(table)


def compact(store: Store, report: Report) -> Compacted:
    """Make the copies of all days before today (UTC) that have none yet, and remove those that did not count any more
    before: whoever is reading may have listed the others. May be interrupted and repeated; needs memory for one copy.
    Raises `ArchiveDamaged` once all copies are made that can be.
    """
    objects = store.objects
    there = set(objects.names(COMPACTED))
    blocks = _blocks(objects, None)
    # what lies before it nothing but a replay will write again: stretches that are complete, and committed as such
    committed = [store.log.position(Archive.name, VERDICTS, each) for each in range(store.log.partitions(VERDICTS))]
    today, due, current = store.clock.now().date(), [], set()
    for block, names in blocks.items():
        candidates = block.copies(names)
        copied = _copied(candidates, there)
        current.update(candidates[:copied][-1:])
        if block.day >= today or block.partition >= len(committed):
            continue
        closed = sum(_offset(name) < committed[block.partition] for name in names)
        if closed > max(1, copied):
            due.append((candidates[closed - 1], names[:closed]))
    copies = files = verdicts = 0
    damaged: list[ArchiveDamaged] = []
    for done, (copy, names) in enumerate(due):
        report("compacting", done, len(due))
        try:
            table = _sorted(objects, names)
        except ArchiveDamaged as error:
            damaged.append(error)
            continue
        buffer = BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=_ROW_GROUP, bloom_filter_options=_SOUGHT)
        objects.put(copy, buffer.getvalue())
        copies, files, verdicts = copies + 1, files + len(names), verdicts + len(table)
    report("compacting", len(due), len(due))
    for copy in there - current:
        objects.delete(copy)
    if damaged:
        raise damaged[0]
    return Compacted(copies, files, verdicts, len(there - current))


def _sorted(objects: Objects, names: Sequence[str]) -> pa.Table:
    tables = [read_file(name, BytesIO(objects.get(name)), schema=SCHEMA) for name in names]
    return _with_defaults(pa.concat_tables(tables).sort_by([("line", "ascending"), ("captured_at", "ascending")]))


def _with_defaults(table: pa.Table) -> pa.Table:
    for name in DEFAULTS.keys() & set(table.column_names):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, SCHEMA.field(name), pc.fill_null(table[name], DEFAULTS[name]))
    return table


def _blocks(objects: Objects, days: Collection[date] | None) -> dict[Block, list[str]]:
    """The archive's own files, in the order of their names. What else lies among them is not ours."""
    blocks: defaultdict[Block, list[str]] = defaultdict(list)
    for name in _names(objects, verdicts_folder, "verdicts/", days):
        if found := _FILE.fullmatch(name):
            blocks[Block(date.fromisoformat(found[1]), int(found[2]), int(found[3]) // _OFFSETS)].append(name)
    return blocks


def _offset(name: str) -> int:
    return int(name.rpartition("-")[2].removesuffix(".parquet"))


def _names(objects: Objects, folder: Callable[[date], str], root: str, days: Collection[date] | None) -> Iterable[str]:
    for prefix in [root] if days is None else map(folder, sorted(days)):
        yield from objects.names(prefix)


class Ranges(RawIOBase):
    """A file of which `read(start, length)` gives the bytes. Threads may share one: each seeks before it reads, so each
    has a position of its own."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size = size
        self._read_at = read
        self._own = threading.local()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return getattr(self._own, "position", 0)

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        self._own.position = offset + {SEEK_SET: 0, SEEK_END: self._size}.get(whence, self.tell())
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self.tell())
        length = left if size < 0 else min(size, left)
        data = self._read_at(self.tell(), length)
        self._own.position = self.tell() + len(data)
        return data
