"""State in SQLite. It may be deleted between two runs: buffers fill again, monitors start afresh."""

from collections.abc import Sequence
from datetime import UTC
from pathlib import Path

from flowgauge.domain.ports import Buffered, Clock
from flowgauge.local.database import Database, Durability

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (key TEXT PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS buffer (
    line TEXT, image_uri TEXT, captured_at TEXT NOT NULL, entry TEXT NOT NULL, PRIMARY KEY (line, image_uri)
) WITHOUT ROWID;
"""


class LocalState:
    """What expires does so by `clock`."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._database = Database(path, _SCHEMA, Durability.NORMAL)

    def get(self, key: str) -> bytes | None:
        query = "SELECT value FROM entries WHERE key = ? AND expires > ?"
        with self._database.reading() as connection:
            row = connection.execute(query, (key, self._clock.now().timestamp())).fetchone()
        return row[0] if row else None

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        now = self._clock.now().timestamp()
        with self._database.writing() as connection:
            connection.execute("DELETE FROM entries WHERE expires <= ?", (now,))
            connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (key, value, now + ttl_seconds))

    def lease(self, key: str, owner: str, ttl_seconds: float) -> bool:
        with self._database.writing() as connection:
            now = self._clock.now().timestamp()
            row = connection.execute("SELECT owner, expires FROM leases WHERE key = ?", (key,)).fetchone()
            held_by_another = row is not None and row[0] != owner and row[1] > now
            if not held_by_another:
                values = (key, owner, now + ttl_seconds)
                connection.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", values)
        return not held_by_another

    def release(self, key: str, owner: str) -> None:
        with self._database.writing() as connection:
            connection.execute("DELETE FROM leases WHERE key = ? AND owner = ?", (key, owner))

    def buffer_add(self, line: str, entries: Sequence[Buffered], limit: int) -> None:
        rows = []
        for entry in entries:
            # Of one length and in UTC, so that text sorts as time does.
            instant = entry.captured_at.astimezone(UTC).isoformat(timespec="microseconds")
            rows.append((line, entry.image_uri, instant, entry.encode()))
        to_evict = """DELETE FROM buffer WHERE line = ?1 AND image_uri IN (
            SELECT image_uri FROM buffer WHERE line = ?1
            ORDER BY captured_at DESC, image_uri DESC LIMIT -1 OFFSET ?2)"""
        with self._database.writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO buffer VALUES (?, ?, ?, ?)", rows)
            connection.execute(to_evict, (line, limit))

    def buffer(self, line: str) -> list[Buffered]:
        query = "SELECT entry FROM buffer WHERE line = ? ORDER BY captured_at, image_uri"
        with self._database.reading() as connection:
            rows = connection.execute(query, (line,)).fetchall()
        return [Buffered.decode(entry) for (entry,) in rows]

    def buffer_remove(self, line: str, image_uris: Sequence[str]) -> None:
        with self._database.writing() as connection:
            connection.executemany(
                "DELETE FROM buffer WHERE line = ? AND image_uri = ?", [(line, image_uri) for image_uri in image_uris]
            )

    def close(self) -> None:
        self._database.close()
