"""State in Redis. It may be flushed at any time: buffers fill again, monitors start afresh."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from math import ceil
from struct import Struct
from threading import Lock
from typing import Any, TypeVar, cast

from flowgauge.domain.errors import SettingsError
from flowgauge.domain.ports import Buffered, Clock
from flowgauge.redis.faults import only_replica, redis_faults
from flowgauge.redis.scripts import BUFFER_ADD, LEASE, RELEASE
from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.exceptions import AskError, ResponseError
from redis.retry import Retry

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
_BUFFER_SECONDS = 30 * 86_400.0  # outlives a plant's holidays; a line that is gone leaves nothing behind
_EXPIRES = Struct(">d")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Client = Redis | RedisCluster
T = TypeVar("T")
Kind = TypeVar("Kind", Redis, RedisCluster)


class RedisState:
    """What expires does so by `clock`, and at the latest by Redis's own after the same time.

    Workers' clocks must agree to well within the length of a lease, or two could hold it. A buffer lives 30 days from
    its last `buffer_add`. Every key starts with `prefix`. Nothing is tried twice: that is the caller's to decide. The
    constructor touches no network; a `url` that does not parse raises `SettingsError`.

    A Redis Cluster is known by its first answer that only a cluster gives, and its own client takes over. After an
    answer that only a replica gives, connections are made anew: the address may lead to the new primary by then.
    """

    def __init__(self, url: str, clock: Clock, prefix: str = "flowgauge:") -> None:
        self._clock = clock
        self._prefix = prefix
        self._url = url
        self._joining = Lock()
        self._alone = self._opened(Redis)
        self._address = _address(self._alone)
        self._client: Client = self._alone

    def get(self, key: str) -> bytes | None:
        stored = cast(bytes | None, self._answer(lambda client: client.get(self._key("value", key))))
        if stored is None or _EXPIRES.unpack_from(stored)[0] <= self._now():
            return None
        return stored[_EXPIRES.size :]

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        stored = _EXPIRES.pack(self._now() + ttl_seconds) + value
        self._answer(lambda client: client.set(self._key("value", key), stored, px=_milliseconds(ttl_seconds)))

    def lease(self, key: str, owner: str, ttl_seconds: float) -> bool:
        now = self._now()
        arguments = (owner, repr(now), repr(now + ttl_seconds), _milliseconds(ttl_seconds))
        return bool(self._answer(_script(LEASE, [self._key("lease", key)], arguments)))

    def release(self, key: str, owner: str) -> None:
        self._answer(_script(RELEASE, [self._key("lease", key)], [owner]))

    def buffer_add(self, line: str, entries: Sequence[Buffered], limit: int) -> None:
        arguments: list[Any] = [limit, _milliseconds(_BUFFER_SECONDS)]
        for entry in entries:
            arguments += (_rank(entry), entry.image_id, _encoded(entry))
        self._answer(_script(BUFFER_ADD, self._buffer_keys(line), arguments))

    def buffer(self, line: str) -> list[Buffered]:
        order, entries = self._buffer_keys(line)

        def read(client: Client) -> Any:
            with client.pipeline(transaction=True) as transaction:
                transaction.zrange(order, 0, -1)
                transaction.hgetall(entries)
                return transaction.execute()

        image_ids, encoded = self._answer(read)
        return [_decoded(encoded[image_id]) for image_id in image_ids if image_id in encoded]

    def buffer_remove(self, line: str, image_ids: Sequence[str]) -> None:
        if not image_ids:
            return
        order, entries = self._buffer_keys(line)

        def remove(client: Client) -> None:
            with client.pipeline(transaction=True) as transaction:
                transaction.zrem(order, *image_ids)
                transaction.hdel(entries, *image_ids)
                transaction.execute()

        self._answer(remove)

    def close(self) -> None:
        self._client.close()
        self._alone.close()  # not before: where a cluster's client takes over, other threads may still ask this one

    def _answer(self, ask: Callable[[Client], T]) -> T:
        client = self._client
        with redis_faults(self._address):
            try:
                return ask(client)
            except AskError:  # MOVED is one of these
                if isinstance(client, RedisCluster):
                    raise
                return ask(self._joined())
            except ResponseError as error:
                if only_replica(error) and isinstance(client, Redis):
                    client.connection_pool.disconnect()
                raise

    def _joined(self) -> RedisCluster:
        """The cluster's own client, opened by the first who is told that there is a cluster."""
        with self._joining:
            if isinstance(self._client, RedisCluster):
                return self._client
            cluster = self._opened(RedisCluster)
            self._client = cluster
            return cluster

    def _opened(self, kind: type[Kind]) -> Kind:
        try:
            return kind.from_url(
                self._url,
                socket_connect_timeout=_CONNECT_SECONDS,
                socket_timeout=_ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:  # whose text may quote a part of the password
            raise SettingsError(
                "The URL of Redis does not parse.", "Write redis://user:password@host:port/0."
            ) from None

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"

    def _buffer_keys(self, line: str) -> list[str]:
        return [self._key("order", f"{{{line}}}"), self._key("entries", f"{{{line}}}")]


def _script(text: str, keys: Sequence[str], arguments: Sequence[Any]) -> Callable[[Client], Any]:
    return lambda client: client.register_script(text)(keys, arguments)


def _address(client: Redis) -> str:
    """Where it is, and nothing of the URL that may be secret."""
    options = client.connection_pool.connection_kwargs
    return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")


def _milliseconds(seconds: float) -> int:
    """At least one: Redis refuses a value that has expired already."""
    return max(1, ceil(seconds * 1_000))


def _rank(entry: Buffered) -> int:
    """Microseconds since 1970: exact as the double that Redis sorts by, and ties go by image id."""
    return (entry.captured_at - _EPOCH) // timedelta(microseconds=1)


def _encoded(entry: Buffered) -> str:
    return json.dumps(asdict(entry) | {"captured_at": entry.captured_at.isoformat()})


def _decoded(entry: bytes) -> Buffered:
    fields = json.loads(entry)
    return Buffered(**fields | {"captured_at": datetime.fromisoformat(fields["captured_at"])})
