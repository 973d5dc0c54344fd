"""Redis that is flushed, full, slow or away: said in one sentence, and nothing else is lost with it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from datetime import timedelta
from socket import create_server
from socketserver import BaseRequestHandler, ThreadingTCPServer
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from flowgauge.domain.errors import SettingsError, StoreFull, Unavailable
from flowgauge.domain.ports import Buffered
from flowgauge.redis.state import RedisState
from tests.support.sockets import HOST, refusing, serving
from tests.support.streaming import START, SetClock

SECRET = "s3cr3t-w0rd"
PREFIX = f"faults-{uuid4()}:"

CALLS: dict[str, Callable[[RedisState], object]] = {
    "get": lambda state: state.get("k"),
    "put": lambda state: state.put("k", b"v", 10),
    "lease": lambda state: state.lease("k", "one", 10),
    "release": lambda state: state.release("k", "one"),
    "buffer_add": lambda state: state.buffer_add("a", [entry("x")], 10),
    "buffer": lambda state: state.buffer("a"),
    "buffer_remove": lambda state: state.buffer_remove("a", ["s3://b/x"]),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
WRITES = {name: CALLS[name] for name in ("put", "lease", "buffer_add")}


def entry(image_id: str, minute: int = 0) -> Buffered:
    return Buffered(image_id, f"s3://b/{image_id}", "ab", START + timedelta(minutes=minute), 1.5, "pass", "00ff")


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    """Beside the state, to look and to harm."""
    with closing(Redis.from_url(redis_url)) as client:
        yield client


@pytest.fixture
def state(redis_url: str, client: Redis) -> Iterator[RedisState]:
    with closing(RedisState(redis_url, SetClock(), PREFIX)) as state:
        yield state
    for key in client.scan_iter(match=PREFIX + "*"):
        client.delete(key)


def keys(client: Redis) -> list[bytes]:
    return sorted(client.scan_iter(match=PREFIX + "*"))


def answering(reply: bytes) -> AbstractContextManager[int]:
    """A port where everything that is asked has the same answer."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            while self.request.recv(65_536):
                self.request.sendall(reply)

    return serving(ThreadingTCPServer((HOST, 0), Handler))


def opened(port: int, options: str = "") -> Any:
    return closing(RedisState(f"redis://user:{SECRET}@127.0.0.1:{port}/0{options}", SetClock()))


def test_after_a_flush_the_state_is_empty_and_works_on(state: RedisState, client: Redis) -> None:
    for call in CALLS.values():
        call(state)
    client.flushall()
    client.script_flush()
    assert state.get("k") is None
    assert state.buffer("a") == []
    state.buffer_remove("a", ["s3://b/x"])
    state.release("k", "one")
    assert state.lease("k", "two", 10)
    state.buffer_add("a", [entry("y")], 10)
    assert state.buffer("a") == [entry("y")]


def test_every_key_expires(state: RedisState, client: Redis) -> None:
    for call in WRITES.values():
        call(state)
    left = {key.removeprefix(PREFIX.encode()).partition(b":")[0]: client.pttl(key) for key in keys(client)}
    assert 0 < left[b"value"] <= 10_000
    assert 0 < left[b"lease"] <= 10_000
    month = 30 * 86_400_000
    assert month - 60_000 < left[b"order"] <= month
    assert month - 60_000 < left[b"entries"] <= month


def test_an_add_gives_a_buffer_another_month(state: RedisState, client: Redis) -> None:
    state.buffer_add("a", [entry("x")], 10)
    for key in keys(client):
        client.pexpire(key, 5_000)
    state.buffer_add("a", [entry("y", 1)], 10)
    assert all(client.pttl(key) > 86_400_000 for key in keys(client))


def test_an_empty_buffer_leaves_no_key(state: RedisState, client: Redis) -> None:
    state.buffer_add("a", [entry("x")], 10)
    state.buffer_remove("a", ["s3://b/x"])
    assert keys(client) == []


@pytest.mark.parametrize("half", [b":{a}", b"order:{a}", b"entries:{a}"], ids=["both", "order", "entries"])
def test_a_buffer_of_which_a_part_was_evicted_starts_afresh(state: RedisState, client: Redis, half: bytes) -> None:
    state.buffer_add("a", [entry("x"), entry("y", 1)], 10)
    for key in keys(client):
        if key.endswith(half):
            client.delete(key)
    assert state.buffer("a") == []
    state.buffer_add("a", [entry("z", 2)], 10)
    assert state.buffer("a") == [entry("z", 2)]
    assert client.hlen(PREFIX + "entries:{a}") == 1


@every_call
def test_redis_that_is_away_is_said_soon_and_without_the_password(call: Callable[[RedisState], object]) -> None:
    with refusing() as port, opened(port) as state:
        begun = monotonic()
        with pytest.raises(
            Unavailable, match=f"127.0.0.1:{port} cannot be used: .*refused.* Check that it runs"
        ) as reported:
            call(state)
        assert monotonic() - begun < 5
        assert SECRET not in repr(reported.value) + str(reported.value.__cause__)


@every_call
def test_redis_that_does_not_answer_is_not_waited_for_long(call: Callable[[RedisState], object]) -> None:
    with create_server(("127.0.0.1", 0)) as silent, opened(silent.getsockname()[1], "?socket_timeout=0.2") as state:
        begun = monotonic()
        with pytest.raises(Unavailable, match="Timeout"):
            call(state)
        assert monotonic() - begun < 5


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "goes on by itself"),
        (b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", "Check the user and the password"),
        (b"-NOPERM this user has no permissions to run the 'get' command\r\n", "Grant this user"),
        (b"-READONLY You can't write against a read only replica.\r\n", "Name the primary"),
        (b"-MISCONF Redis is configured to save RDB snapshots, but it's unable to.\r\n", "Mend what it names"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "names a Redis server"),
    ],
)
@every_call
def test_redis_that_refuses_is_said_with_a_remedy(
    call: Callable[[RedisState], object], reply: bytes, remedy: str
) -> None:
    with answering(reply) as port, opened(port) as state:
        with pytest.raises(Unavailable, match=remedy) as reported:
            call(state)
        assert SECRET not in repr(reported.value)


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES)
def test_redis_without_memory_is_a_full_store_and_goes_on_once_it_has_some(
    state: RedisState, client: Redis, call: Callable[[RedisState], object]
) -> None:
    before = {name: str(client.config_get(name)[name]) for name in ("maxmemory", "maxmemory-policy")}
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreFull, match="no memory left"):
            call(state)
        assert keys(client) == []
    finally:
        for name, value in before.items():
            client.config_set(name, value)
    call(state)
    assert keys(client)


@pytest.mark.parametrize("url", ["localhost:6379", f"redis://:{SECRET}/x@host:6379", "redis://[host/0"])
def test_a_url_that_does_not_parse_is_reported_without_its_text(url: str) -> None:
    with pytest.raises(SettingsError, match="does not parse") as reported:
        RedisState(url, SetClock())
    assert SECRET not in repr(reported.value)
