"""SQL over the verdict archive, by DuckDB: people's own, and ten that are shipped.

DuckDB's Parquet reader asks for what it reads through the port of objects, so a store in a directory and one at s3://
are read alike, with one client's settings, retries and faults: its own extension for S3 cannot be had in a factory
without internet. Read through pyarrow's datasets instead, ten million verdicts take twice as long, as those hand over
every field of a struct.

What a person writes is confined to that: DuckDB may open nothing but the archive's files, which nobody can write.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple, Self, TypeVar

import duckdb
import pyarrow as pa
from fsspec import AbstractFileSystem

from flowgauge.domain.errors import FlowgaugeError, SettingsError, UserError
from flowgauge.domain.messages import Decision
from flowgauge.domain.object_keys import COMPACTED, line_name
from flowgauge.domain.ports import Objects
from flowgauge.processors.archive import SCHEMA, archived_days
from flowgauge.services.archive_files import DEFAULTS, Ranges, archive_files

_SCHEME = "archive"
# of what DuckDB keeps of a query: less, and counts of millions of groups fail; more takes what workers beside it need
MEMORY = "2GiB"
# files of 1,024 verdicts that are kept: DuckDB opens each twice in a row. Fewer are fetched twice, more take memory
_KEPT = 64
_READ_ONLY = "the archive is only read"
_MODIFIED = datetime(1970, 1, 1, tzinfo=UTC)
# rows that pass from DuckDB at a time: fewer cost calls, more memory
_BATCH = 50_000

T = TypeVar("T")


@dataclass(frozen=True)
class Chosen:
    """Which verdicts count: of `line`, of events in [`since`, `until`), of `decisions`; None: all. Raises `UserError`
    for a span that no event can lie in.
    """

    line: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    decisions: Collection[Decision] = ()

    def __post_init__(self) -> None:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise UserError(
                f"No event lies from {self.since.isoformat()} to before {self.until.isoformat()}.",
                "Give --until a later time than --since.",
            )

    def days(self, objects: Objects) -> Collection[date] | None:
        """The dates whose files hold them; None: all."""
        if self.since is None and self.until is None:
            return None
        first = date.min if self.since is None else self.since.astimezone(UTC).date()
        last = date.max if self.until is None else self.until.astimezone(UTC).date()
        return [day for day in archived_days(objects) if first <= day <= last]

    def condition(self) -> str:
        """In SQL. Raises `InvalidName` for what names no line."""
        parts = []
        if self.line is not None:
            parts.append(f"line = '{line_name(self.line)}'")
        if self.since is not None:
            parts.append(f"event_time >= TIMESTAMPTZ '{self.since.isoformat()}'")
        if self.until is not None:
            parts.append(f"event_time < TIMESTAMPTZ '{self.until.isoformat()}'")
        if self.decisions:
            parts.append(f"decision IN ({', '.join(repr(each.value) for each in self.decisions)})")
        return " AND ".join(parts) or "true"


ALL = Chosen()


class Named(NamedTuple):
    """A query that is shipped: `text` says what it answers."""

    name: str
    text: str
    sql: str


def named_queries() -> dict[str, Named]:
    """By name."""
    found = {}
    for file in sorted(files("flowgauge.services").joinpath("queries").iterdir(), key=lambda each: each.name):
        sql = file.read_text(encoding="utf-8")
        name = file.name.removesuffix(".sql")
        found[name] = Named(name, sql.splitlines()[0].removeprefix("-- "), sql)
    return found


class Result:
    """Rows as they are taken; the values are those of `to_pylist`."""

    def __init__(self, session: "VerdictQueries", reader: pa.RecordBatchReader) -> None:
        self.schema: pa.Schema = reader.schema
        self._session = session
        self._reader = reader

    def batches(self) -> Iterator[pa.RecordBatch]:
        with self._session.faults():
            yield from self._reader

    def rows(self, most: int) -> tuple[list[list[Any]], bool]:
        """The first `most`, and whether there are more."""
        taken: list[list[Any]] = []
        for batch in self.batches():
            taken += map(list, zip(*(column.to_pylist() for column in batch.columns), strict=True))
            if len(taken) > most:
                break
        return taken[:most], len(taken) > most


class VerdictQueries:
    """A context manager: one view, `verdicts`, of the chosen verdicts of the archive, as it is when this is made.

    Its columns are those of a verdict, in UTC; besides `event_time`, by which a verdict counts, and `date`, the day of
    that, whose folder is all that is read where a condition names it. `threads` None: all.
    """

    def __init__(
        self, objects: Objects, chosen: Chosen = ALL, threads: int | None = None, memory: str = MEMORY
    ) -> None:
        # without a folder to spill to, which would be the one place where SQL could write
        settings: dict[str, str | bool | int | float | list[str]] = {"memory_limit": memory, "temp_directory": ""}
        if threads is not None:
            settings["threads"] = threads
        try:
            self._connection = duckdb.connect(config=settings)
        except duckdb.Error as error:
            raise SettingsError(f"{memory!r} is no size.", "Give --memory as 4GiB, say.") from error
        names = archive_files(objects, chosen.days(objects))
        self._files = _ArchiveFiles(objects, names)
        self._connection.register_filesystem(self._files)
        self._connection.execute(f"SET TimeZone = 'UTC'; {_view(self._connection, names, chosen)}")
        self._connection.execute(
            f"SET allowed_directories = ['{_SCHEME}://']; SET enable_external_access = false;"
            "SET python_enable_replacements = false; SET lock_configuration = true"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, sql: str, parameters: Mapping[str, str] | None = None) -> Result:
        """The answer to one SELECT, whose `$name` stand for `parameters`.

        Raises `UserError`, with DuckDB's words, for SQL that is wrong, or wants more than to read the archive.
        """
        with self.faults():
            statements = duckdb.extract_statements(sql)
            if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
                raise UserError(
                    "This is not one SELECT.", "The archive is only read: write SELECT ... FROM verdicts, and one only."
                )
            missing = sorted(statements[0].named_parameters - set(parameters or ()))
            if missing:
                raise UserError(
                    f"The query has no value for ${', $'.join(missing)}.", f"Add --param {missing[0]}=VALUE."
                )
            found = self._connection.sql(sql, params=dict(parameters) if parameters else None)
            return Result(self, found.to_arrow_reader(_BATCH))

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Around what DuckDB does: a fault of the store is raised as such, and DuckDB's own as `UserError`."""
        self._files.fault = None
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if self._files.fault is not None:
                raise self._files.fault from error
            # of what a callback raises DuckDB tells the whole traceback
            said = _READ_ONLY if _READ_ONLY in str(error) else str(error).strip()
            raise UserError(f"DuckDB does not answer this: {said}") from error


def _view(connection: "duckdb.DuckDBPyConnection", names: Sequence[str], chosen: Chosen) -> str:
    empty = connection.from_arrow(SCHEMA.empty_table())
    if names:
        # by name, with what a verdict says where its file is older than the field; extra ones of newer files are left
        schema = ", ".join(
            f"'{name}': {{name: '{name}', type: '{kind}', default_value: {DEFAULTS.get(name, 'NULL')}}}"
            for name, kind in zip(empty.columns, map(str, empty.types), strict=True)
        )
        paths = ", ".join(f"'{_SCHEME}://{name}'" for name in names)
        source = (
            f"read_parquet([{paths}], schema = MAP {{{schema}}}, hive_partitioning = true,"
            " hive_types = {'date': DATE})"
        )
    else:
        empty.create("no_verdicts")
        source = "(SELECT *, NULL::DATE AS date FROM no_verdicts)"
    return f"""CREATE VIEW verdicts AS SELECT * FROM (
        SELECT *, CASE WHEN clock_off AND arrived_at IS NOT NULL THEN arrived_at ELSE captured_at END AS event_time
        FROM {source}
    ) WHERE {chosen.condition()}"""


class _ArchiveFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """Those objects and no others, as the file system that DuckDB asks; nothing can be written. `fault` is why one of
    them could not be read, of which DuckDB keeps the text alone.
    """

    protocol = _SCHEME
    cachable = False

    def __init__(self, objects: Objects, names: Collection[str]) -> None:
        super().__init__()
        self.fault: FlowgaugeError | None = None
        self._names = set(names)
        self._objects = objects
        self._get = lru_cache(_KEPT)(objects.get)
        self._sizes: dict[str, int] = {}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Ranges:
        if mode != "rb":
            raise PermissionError(_READ_ONLY)
        name, size = self._strip_protocol(path), self.info(path)["size"]
        if name.startswith(COMPACTED):
            return Ranges(size, lambda start, length: self._asked(lambda: self._objects.get_range(name, start, length)))
        data = self._asked(lambda: self._get(name))
        return Ranges(size, lambda start, length: data[start : start + length])

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        if name not in self._names:
            raise FileNotFoundError(name)
        return {"name": name, "size": self._asked(lambda: self._size(name)), "type": "file"}

    def _size(self, name: str) -> int:
        if name.startswith(COMPACTED):
            if name not in self._sizes:
                self._sizes[name] = self._objects.size(name)
        # the archive's own are read whole, in one request. That of the open stretch is written again and again: its end
        # would be read of another file than its beginning
        elif self._sizes.setdefault(name, size := len(self._get(name))) != size:
            raise KeyError(name)
        return self._sizes[name]

    def glob(self, path: str, **_: Any) -> list[str]:
        name = self._strip_protocol(path)
        return [name] if name in self._names else []

    def modified(self, path: str) -> datetime:
        """DuckDB asks whether what it has cached holds: as long as this session, which is one look at the archive."""
        return _MODIFIED

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except KeyError as error:
            self.fault = UserError("The archive was written to while it was read.", "Ask again.")
            raise FileNotFoundError from error
        except FlowgaugeError as error:
            self.fault = error
            raise OSError from error
