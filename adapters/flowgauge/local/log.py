"""Topics in SQLite: every append is one transaction that survives a power cut once it has returned."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from sqlite3 import Connection
from zlib import crc32

from flowgauge.domain.errors import SettingsError
from flowgauge.domain.messages import TOPICS
from flowgauge.domain.ports import Clock, Outgoing, Record
from flowgauge.local.database import Database, Durability

_SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, partitions INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ends (
    topic TEXT, partition INTEGER, next INTEGER NOT NULL, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    key TEXT NOT NULL, headers TEXT NOT NULL, at TEXT NOT NULL, value BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS place ON records (topic, partition, "offset");
CREATE TABLE IF NOT EXISTS positions (
    "group" TEXT, topic TEXT, partition INTEGER, "offset" INTEGER NOT NULL, PRIMARY KEY ("group", topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS published (token TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class LocalLog:
    """Every topic of `flowgauge.domain.messages.TOPICS` has `partitions` partitions, fixed when the log is created.

    Records get the `clock`'s time. Offsets have no gaps, and are never used twice, also after `trim`.
    Raises `SettingsError` for a log that was made with another number of partitions: keys would change theirs.
    """

    def __init__(self, path: Path, clock: Clock, partitions: int = 1) -> None:
        self._clock = clock
        self._database = Database(path, _SCHEMA, Durability.FULL)
        with self._database.writing() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO topics VALUES (?, ?)", [(name, partitions) for name in TOPICS]
            )
            found = connection.execute("SELECT name, partitions FROM topics").fetchall()
        self._partitions: dict[str, int] = dict(found)
        made = self._partitions[TOPICS[0]]
        if made != partitions:
            raise SettingsError(
                f"{path} was made with {made} partitions, not {partitions}.",
                "Open it with as many, or use a new store.",
            )

    def partitions(self, topic: str) -> int:
        return self._partitions[topic]

    def append(self, records: Sequence[Outgoing]) -> None:
        with self._database.writing() as connection:
            self._insert(connection, records)

    def append_once(self, token: str, records: Sequence[Outgoing], also: Sequence[str] = ()) -> bool:
        """`append`, unless `token` is known: then nothing, and False. It and the tokens `also` are known afterwards."""
        with self._database.writing() as connection:
            fresh = connection.execute("INSERT OR IGNORE INTO published VALUES (?)", (token,)).rowcount == 1
            if fresh:
                self._insert(connection, records)
            connection.executemany("INSERT OR IGNORE INTO published VALUES (?)", [(each,) for each in also])
        return fresh

    def known(self, tokens: Iterable[str]) -> list[str]:
        """Those of `tokens` that `append_once` was given before."""
        query = "SELECT 1 FROM published WHERE token = ?"
        with self._database.reading() as connection:
            return [token for token in tokens if connection.execute(query, (token,)).fetchone()]

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        query = """SELECT "offset", key, value, headers, at FROM records
                   WHERE topic = ? AND partition = ? AND "offset" >= ? ORDER BY "offset" LIMIT ?"""
        with self._database.reading() as connection:
            rows = connection.execute(query, (topic, partition, offset, limit)).fetchall()
        return [
            Record(topic, partition, at_offset, key, value, json.loads(headers), datetime.fromisoformat(at))
            for at_offset, key, value, headers, at in rows
        ]

    def end(self, topic: str, partition: int) -> int:
        with self._database.reading() as connection:
            return _end(connection, topic, partition)

    def begin(self, topic: str, partition: int) -> int:
        with self._database.reading() as connection:
            return _begin(connection, topic, partition)

    def bounds(self, topic: str) -> list[tuple[int, int]]:
        with self._database.reading() as connection:
            numbers = range(self._partitions[topic])
            return [(_begin(connection, topic, number), _end(connection, topic, number)) for number in numbers]

    def topic_id(self, topic: str) -> str:
        """Empty: no topic of a file is deleted alone."""
        return ""

    def position(self, group: str, topic: str, partition: int) -> int:
        query = 'SELECT "offset" FROM positions WHERE "group" = ? AND topic = ? AND partition = ?'
        with self._database.reading() as connection:
            row = connection.execute(query, (group, topic, partition)).fetchone()
        return row[0] if row else 0

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        values = (group, topic, partition, offset)
        with self._database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)", values)

    def trim(self, topic: str, partition: int, before: int) -> None:
        """Forget the records below offset `before`; their space is used for later ones."""
        with self._database.writing() as connection:
            connection.execute(
                'DELETE FROM records WHERE topic = ? AND partition = ? AND "offset" < ?', (topic, partition, before)
            )

    def close(self) -> None:
        self._database.close()

    def _insert(self, connection: Connection, records: Sequence[Outgoing]) -> None:
        at = self._clock.now().isoformat()
        for record in records:
            partition = record.partition
            if partition is None:
                partition = crc32(record.key.encode()) % self._partitions[record.topic]
            offset = _end(connection, record.topic, partition)
            connection.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
                (record.topic, partition, offset, record.key, json.dumps(dict(record.headers)), at, record.value),
            )
            connection.execute("INSERT OR REPLACE INTO ends VALUES (?, ?, ?)", (record.topic, partition, offset + 1))


def _begin(connection: Connection, topic: str, partition: int) -> int:
    query = 'SELECT min("offset") FROM records WHERE topic = ? AND partition = ?'
    (first,) = connection.execute(query, (topic, partition)).fetchone()
    return _end(connection, topic, partition) if first is None else int(first)


def _end(connection: Connection, topic: str, partition: int) -> int:
    row = connection.execute("SELECT next FROM ends WHERE topic = ? AND partition = ?", (topic, partition)).fetchone()
    return row[0] if row else 0
