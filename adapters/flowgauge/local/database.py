"""One SQLite file in WAL mode, safe to share among threads and processes."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from threading import RLock

from flowgauge.domain.errors import UserError
from flowgauge.local.file_system import disk_fault, read_only

# Another process may hold the write lock for one batch: shorter gives that up, longer waits for one that hangs.
_BUSY_SECONDS = 30
_BEYOND_REPAIR = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_NO_SPACE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})


class Durability(StrEnum):
    """What a transaction that has returned survives: kill -9 always; a power cut with `FULL` only."""

    FULL = "FULL"
    NORMAL = "NORMAL"


class Database:
    """Opens (and creates) `path` with `schema`, whose statements must be repeatable.

    Raises `StoreFull` when the disk is, `UserError` for a file that is no database, `Unavailable` otherwise.
    """

    def __init__(self, path: Path, schema: str, durability: Durability) -> None:
        self._path = path
        self._lock = RLock()
        with self._translated():
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(f"PRAGMA synchronous={durability}")
            self._connection.executescript(schema)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated():
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its start: all of it happens, or nothing."""
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code in _BEYOND_REPAIR:
                raise UserError(
                    f"{self._path} is damaged or no database.", "Restore it, or use a new store."
                ) from error
            is_full = code in _NO_SPACE
            if is_full or isinstance(error, sqlite3.OperationalError):
                is_read_only = read_only(self._path)
                raise disk_fault(self._path, error, is_full=is_full, is_read_only=is_read_only) from error
            raise
