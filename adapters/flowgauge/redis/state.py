"""State in Redis. It may be flushed at any time: buffers fill again, monitors start afresh."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from math import ceil
from struct import Struct
from threading import Lock
from typing import Any, TypeVar, cast

from flowgauge.domain.errors import SettingsError, StoreFull, Unavailable
from flowgauge.domain.ports import Buffered, Clock
from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

# Longer holds a batch up for a server that is away; shorter takes one on a slow network for such.
_CONNECT_SECONDS = 2.0
# The same for an answer, which a server that saves its data or carries out a long script gives late.
_ANSWER_SECONDS = 5.0
# Outlives a plant's holidays; for ever, and a line that is gone would leave its buffer behind.
_BUFFER_SECONDS = 30 * 86_400.0
_EXPIRES = Struct(">d")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# What Redis does in one step, so that no crash and no other client comes between.

# KEYS: lease. ARGV: owner, now, expires, milliseconds to live
_LEASE = """
local held = redis.call('HMGET', KEYS[1], 'owner', 'expires')
if held[1] and held[1] ~= ARGV[1] and tonumber(held[2]) > tonumber(ARGV[2]) then
    return 0
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'expires', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""

# KEYS: lease. ARGV: owner
_RELEASE = """
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
"""

# KEYS: order, entries. ARGV: limit, milliseconds to live, then (rank, image URI, entry) of each image.
# Eviction takes one key at a time: a half whose other half is gone could grow without bound, so it goes too.
_BUFFER_ADD = """
if redis.call('ZCARD', KEYS[1]) ~= redis.call('HLEN', KEYS[2]) then
    redis.call('DEL', KEYS[1], KEYS[2])
end
for i = 3, #ARGV, 3 do
    redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call('HSET', KEYS[2], ARGV[i + 1], ARGV[i + 2])
end
local last = -1 - tonumber(ARGV[1])
for _, uri in ipairs(redis.call('ZRANGE', KEYS[1], 0, last)) do
    redis.call('HDEL', KEYS[2], uri)
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, last)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
"""

_REMEDIES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (BusyLoadingError, "It loads its data, and the work goes on by itself once it has."),
    ((AuthenticationError, AuthenticationWrongNumberOfArgsError), "Check the user and the password in its URL."),
    ((AuthorizationError, NoPermissionError), "Grant this user reads, writes and scripts on the keys of our prefix."),
    (ResponseError, "Mend what it names, and the work goes on by itself."),
    (InvalidResponse, "Check that its URL names a Redis server."),
    (Exception, "Check that it runs and can be reached."),
)

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
        self._single = self._opened(Redis)
        # Where it is, and nothing of the URL that may be secret.
        options = self._single.connection_pool.connection_kwargs
        self._address = str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")
        self._client: Client = self._single

    def get(self, key: str) -> bytes | None:
        stored = cast(bytes | None, self._answer(lambda client: client.get(self._key("value", key))))
        if stored is None or _EXPIRES.unpack_from(stored)[0] <= self._clock.now().timestamp():
            return None
        return stored[_EXPIRES.size :]

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        stored = _EXPIRES.pack(self._clock.now().timestamp() + ttl_seconds) + value
        self._answer(lambda client: client.set(self._key("value", key), stored, px=_milliseconds(ttl_seconds)))

    def lease(self, key: str, owner: str, ttl_seconds: float) -> bool:
        now = self._clock.now().timestamp()
        arguments = (owner, repr(now), repr(now + ttl_seconds), _milliseconds(ttl_seconds))
        return bool(self._run(_LEASE, [self._key("lease", key)], arguments))

    def release(self, key: str, owner: str) -> None:
        self._run(_RELEASE, [self._key("lease", key)], [owner])

    def buffer_add(self, line: str, entries: Sequence[Buffered], limit: int) -> None:
        arguments: list[Any] = [limit, _milliseconds(_BUFFER_SECONDS)]
        for entry in entries:
            # Microseconds since 1970: exact as the double that Redis sorts by, and ties go by image URI.
            rank = (entry.captured_at - _EPOCH) // timedelta(microseconds=1)
            arguments += (rank, entry.image_uri, entry.encode())
        self._run(_BUFFER_ADD, self._buffer_keys(line), arguments)

    def buffer(self, line: str) -> list[Buffered]:
        order, entries = self._buffer_keys(line)

        def read(client: Client) -> Any:
            with client.pipeline(transaction=True) as transaction:
                transaction.zrange(order, 0, -1)
                transaction.hgetall(entries)
                return transaction.execute()

        image_uris, encoded = self._answer(read)
        return [Buffered.decode(encoded[image_uri]) for image_uri in image_uris if image_uri in encoded]

    def buffer_remove(self, line: str, image_uris: Sequence[str]) -> None:
        if not image_uris:
            return
        order, entries = self._buffer_keys(line)

        def remove(client: Client) -> None:
            with client.pipeline(transaction=True) as transaction:
                transaction.zrem(order, *image_uris)
                transaction.hdel(entries, *image_uris)
                transaction.execute()

        self._answer(remove)

    def close(self) -> None:
        self._client.close()
        # Not before: where a cluster's client has taken over, other threads may still ask this one.
        self._single.close()

    def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return self._answer(lambda client: client.register_script(script)(keys, arguments))

    def _answer(self, ask: Callable[[Client], T]) -> T:
        client = self._client
        with redis_faults(self._address):
            try:
                return ask(client)
            except AskError:
                # MOVED is one of these. The first thread that is told that there is a cluster opens its client.
                if isinstance(client, RedisCluster):
                    raise
                with self._joining:
                    if not isinstance(self._client, RedisCluster):
                        self._client = self._opened(RedisCluster)
                    cluster = self._client
                return ask(cluster)
            except ResponseError as error:
                if _only_replica(error) and isinstance(client, Redis):
                    client.connection_pool.disconnect()
                raise

    def _opened(self, kind: type[Kind]) -> Kind:
        try:
            return kind.from_url(
                self._url,
                socket_connect_timeout=_CONNECT_SECONDS,
                socket_timeout=_ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            # Its text may quote a part of the password.
            raise SettingsError(
                "The URL of Redis does not parse.", "Write redis://user:password@host:port/0."
            ) from None

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"

    def _buffer_keys(self, line: str) -> list[str]:
        """Both hold the same tag in braces, so a cluster keeps them together."""
        return [self._key("order", f"{{{line}}}"), self._key("entries", f"{{{line}}}")]


@contextmanager
def redis_faults(address: str) -> Iterator[None]:
    """Every `RedisError` inside becomes `StoreFull` or `Unavailable`, which names `address` and the remedy."""
    try:
        yield
    except (RedisError, RedisClusterException) as error:  # of which neither is the other
        text = str(error)
        # Before version 7, what a script meets comes as a plain error with the text inside.
        if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in text:
            remedy = "Raise its maxmemory, or free some."
            raise StoreFull(f"Redis at {address} has no memory left.", remedy) from error
        if "SELECT is not allowed in cluster mode" in text:
            remedy = "End FLOWGAUGE_REDIS_URL in /0: a cluster has no other database."
        elif _only_replica(error):
            remedy = (
                "Name the primary in its URL: a replica takes no writes. After a failover the work goes on by itself."
            )
        elif "CERTIFICATE_VERIFY_FAILED" in text:
            remedy = "Check FLOWGAUGE_REDIS_CA_FILE, and the host names in the server's certificate."
        else:
            remedy = next(words for kinds, words in _REMEDIES if isinstance(error, kinds))
        raise Unavailable(f"Redis at {address} cannot be used: {text.removesuffix('.')}.", remedy) from error


def _only_replica(error: Exception) -> bool:
    """Whether a server answers as a replica does. Before version 7, a script's answer has the word inside."""
    return isinstance(error, ReadOnlyError) or "-READONLY" in str(error)


def _milliseconds(seconds: float) -> int:
    """At least one: Redis refuses a value that has expired already."""
    return max(1, ceil(seconds * 1_000))
