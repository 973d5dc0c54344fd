"""The seams: what the processors need from the world, small enough to hold in one's head.

A port's methods raise `flowgauge.domain.errors.Unavailable` (or its `StoreFull`) when the infrastructure behind them is
away, and nothing else for that reason. Implementations are safe to call from several threads.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Protocol

from flowgauge.domain.alert_kinds import Severity


@dataclass(frozen=True)
class Outgoing:
    """A record to append. `partition` None: by `key`."""

    topic: str
    key: str
    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    partition: int | None = None


@dataclass(frozen=True)
class Record:
    """A record as read: `offset` rises by at least one within its partition; `at` is when it was appended."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: Mapping[str, str]
    at: datetime


class Log(Protocol):
    """Topics of partitions of ordered records, durable once `append` has returned."""

    def partitions(self, topic: str) -> int: ...

    def append(self, records: Sequence[Outgoing]) -> None:
        """In order. When it raises, the first ones of each partition may be there: repeating them must be harmless."""

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """At most `limit` records from `offset` on, in order; empty when there are none (yet)."""

    def end(self, topic: str, partition: int) -> int:
        """The offset that the next record will have; 0 for an empty partition."""

    def begin(self, topic: str, partition: int) -> int:
        """The lowest offset of a record that is left; `end` where there is none."""

    def bounds(self, topic: str) -> list[tuple[int, int]]:
        """`begin` and `end` of each partition: a few questions in place of two for each."""

    def topic_id(self, topic: str) -> str:
        """Another one once the topic was deleted and made anew; empty where it is unknown."""

    def position(self, group: str, topic: str, partition: int) -> int:
        """Where `group` goes on reading: what it last committed, else 0."""

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None: ...

    def close(self) -> None:
        """Let go of connections and files; nothing may be called afterwards."""


class Objects(Protocol):
    """Named immutable bytes. `name` is a path of encoded segments, as built by `flowgauge.domain.object_keys`."""

    def put(self, name: str, data: bytes, tags: Mapping[str, str] | None = None) -> str:
        """Store atomically (a reader sees the old bytes or the new, never half) and return the object's URI.

        `tags` are for the store's own rules of retention; one that has none leaves them out.
        """

    def get(self, name: str, at_most: int | None = None) -> bytes:
        """The bytes. Raises `KeyError` for a name that is not there, and `ObjectTooLarge`, before they are read, where
        there are more than `at_most`.
        """

    def size(self, name: str) -> int:
        """In bytes. Raises `KeyError` for a name that is not there."""

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on, which must lie within the object. Raises `KeyError` as `size` does."""

    def exists(self, name: str) -> bool: ...

    def names(self, prefix: str) -> Iterator[str]:
        """All names that start with `prefix`, in lexical order."""

    def delete(self, name: str) -> None:
        """Remove it; a name that is not there is no error."""

    def uri(self, name: str) -> str: ...

    def name(self, uri: str) -> str:
        """The inverse of `uri`. Raises `KeyError` for an address that is not in this store."""


@dataclass(frozen=True)
class Buffered:
    """A buffered image: a reference, never pixels. `captured_at` is its verdict's `event_time`. Cameras of a line may
    count alike: `image_uri` alone says which image it is.
    """

    image_id: str
    image_uri: str
    image_sha256: str
    captured_at: datetime
    score: float | None
    decision: str
    fingerprint: str
    subject: str | None = None

    def encode(self) -> str:
        return json.dumps(asdict(self) | {"captured_at": self.captured_at.isoformat()})

    # A line's whole buffer is read with every batch of its verdicts, and nearly all of it is as it was: decoding it
    # anew takes half of that time. With more entries, a plant of many lines has more than 20 MB of them; with fewer,
    # 40 buffers of the default size are decoded each time.
    @staticmethod
    @lru_cache(maxsize=2**14)
    def decode(encoded: str | bytes) -> "Buffered":
        entry = json.loads(encoded)
        entry["captured_at"] = datetime.fromisoformat(entry["captured_at"])
        # a newer version, from which somebody went back to this one, may have written more
        return Buffered(**{name: entry[name] for name in entry.keys() & Buffered.__dataclass_fields__.keys()})


class State(Protocol):
    """What may be lost without losing a verdict, an alert or an active version. Everything has a bound or an expiry."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None: ...

    def lease(self, key: str, owner: str, ttl_seconds: float) -> bool:
        """True if `owner` holds `key` now: it was free, expired, or already `owner`'s (then it is renewed)."""

    def release(self, key: str, owner: str) -> None: ...

    def buffer_add(self, line: str, entries: Sequence[Buffered], limit: int) -> None:
        """Add or replace by `image_uri`; when more than `limit` remain, the oldest captures leave."""

    def buffer(self, line: str) -> list[Buffered]:
        """Oldest capture first."""

    def buffer_remove(self, line: str, image_uris: Sequence[str]) -> None: ...

    def close(self) -> None:
        """Let go of connections and files; nothing may be called afterwards."""


class Messenger(Protocol):
    """Carries messages to people. An address is a URL that may hold a password: it is shown to nobody."""

    def check(self, address: str) -> None:
        """Raises `SettingsError` for what is no address; sends nothing and asks nobody."""

    def shown(self, address: str) -> str:
        """The address without its secrets, for people."""

    def send(self, address: str, title: str, body: str, severity: Severity | None) -> None:
        """Returns once whoever is at `address` has taken the message; `severity` None: good news. Raises `Unavailable`
        where it is not known to have: it may have arrived all the same.
        """


class Clock(Protocol):
    def now(self) -> datetime:
        """The time, aware, in UTC."""
