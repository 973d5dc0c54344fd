"""What every state store keeps to."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest

from flowgauge.domain.ports import Buffered, Clock, State
from flowgauge.local.state import LocalState
from flowgauge.redis.state import RedisState
from tests.support.streaming import START, SetClock

Opener = Callable[[pytest.FixtureRequest, Clock], State]


def local(request: pytest.FixtureRequest, clock: Clock) -> State:
    root: Path = request.getfixturevalue("tmp_path")
    return LocalState(root / "state.db", clock)


def redis(request: pytest.FixtureRequest, clock: Clock) -> State:
    """On a server that other tests use too, below a prefix of its own."""
    return RedisState(request.getfixturevalue("redis_url"), clock, prefix=f"{uuid4()}:")


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def redis_cluster(request: pytest.FixtureRequest, clock: Clock) -> State:
    """Three servers that share the keys; their client is told of one."""
    return RedisState(request.getfixturevalue("redis_cluster_url"), clock, prefix=f"{uuid4()}:")


@pytest.fixture(params=[local, redis, redis_cluster], ids=["local", "redis", "redis-cluster"])
def state(request: pytest.FixtureRequest, clock: SetClock) -> Iterator[State]:
    opener: Opener = request.param
    state = opener(request, clock)
    yield state
    state.close()


def entry(image_id: str, minute: int = 0, score: float | None = 1.5) -> Buffered:
    at = START + timedelta(minutes=minute)
    return Buffered(image_id, f"store:///{image_id}", "ab", at, score, "pass", "00ff", subject=None)


def ids(state: State, line: str = "a") -> list[str]:
    return [buffered.image_id for buffered in state.buffer(line)]


def test_a_value_is_there_until_it_expires(state: State, clock: SetClock) -> None:
    state.put("k", b"v", ttl_seconds=10)
    assert state.get("k") == b"v"
    clock.advance(9)
    assert state.get("k") == b"v"
    clock.advance(2)
    assert state.get("k") is None


def test_an_unknown_key_has_no_value(state: State) -> None:
    assert state.get("k") is None


def test_a_value_is_any_bytes_and_the_last_one_put(state: State) -> None:
    state.put("k", b"", ttl_seconds=10)
    assert state.get("k") == b""
    state.put("k", bytes(range(256)), ttl_seconds=0.5)
    assert state.get("k") == bytes(range(256))


def test_a_value_that_has_expired_when_put_is_not_there(state: State) -> None:
    state.put("k", b"v", ttl_seconds=0)
    assert state.get("k") is None


def test_values_and_leases_of_one_key_do_not_meet(state: State) -> None:
    state.put("k", b"v", ttl_seconds=10)
    assert state.lease("k", "one", 10)
    state.release("k", "one")
    assert state.get("k") == b"v"


def test_a_lease_has_one_holder_at_a_time(state: State) -> None:
    assert state.lease("adapt", "one", 10)
    assert not state.lease("adapt", "two", 10)
    state.release("adapt", "one")
    assert state.lease("adapt", "two", 10)


def test_a_holder_renews_its_lease(state: State, clock: SetClock) -> None:
    state.lease("adapt", "one", 10)
    clock.advance(8)
    assert state.lease("adapt", "one", 10)
    clock.advance(8)
    assert not state.lease("adapt", "two", 10)


def test_a_lease_passes_on_once_it_has_expired(state: State, clock: SetClock) -> None:
    state.lease("adapt", "one", 10)
    clock.advance(11)
    assert state.lease("adapt", "two", 10)


def test_only_its_holder_releases_a_lease(state: State) -> None:
    state.lease("adapt", "one", 10)
    state.release("adapt", "two")
    assert not state.lease("adapt", "two", 10)


def test_of_many_who_ask_at_once_one_holds_the_lease(state: State) -> None:
    with ThreadPoolExecutor(8) as threads:
        held = list(threads.map(lambda owner: state.lease("adapt", owner, 10), map(str, range(8))))
    assert held.count(True) == 1


def test_buffered_images_come_back_whole_and_in_order_of_capture(state: State) -> None:
    late, early = entry("late", 2), entry("early", 1, score=None)
    state.buffer_add("a", [late, early], limit=10)
    assert state.buffer("a") == [early, late]


def test_a_buffer_belongs_to_one_line(state: State) -> None:
    state.buffer_add("a", [entry("x")], limit=10)
    assert state.buffer("b") == []


def test_the_oldest_captures_leave_a_full_buffer(state: State) -> None:
    state.buffer_add("a", [entry(str(minute), minute) for minute in (3, 1, 2)], limit=2)
    assert ids(state) == ["2", "3"]


def test_an_image_that_comes_again_replaces_itself(state: State) -> None:
    state.buffer_add("a", [entry("x", 1), entry("y", 2)], limit=10)
    state.buffer_add("a", [entry("x", 3)], limit=10)
    assert ids(state) == ["y", "x"]


def test_captures_of_one_instant_are_ordered_by_where_they_lie(state: State) -> None:
    state.buffer_add("a", [entry("b"), entry("ä"), entry("a")], limit=10)
    assert ids(state) == ["a", "b", "ä"]
    state.buffer_add("a", [], limit=1)
    assert ids(state) == ["ä"]


def test_images_of_two_cameras_that_count_alike_are_both_kept(state: State) -> None:
    first = entry("frame-1")
    second = replace(first, image_uri="store:///frame-1@another")
    state.buffer_add("a", [first, second], limit=10)
    assert state.buffer("a") == [first, second]
    state.buffer_remove("a", [first.image_uri])
    assert state.buffer("a") == [second]


def test_a_capture_is_ordered_by_its_instant_whatever_its_zone(state: State) -> None:
    early, late = entry("early", 1), entry("late", 2)
    elsewhere = replace(early, captured_at=early.captured_at.astimezone(timezone(timedelta(hours=9))))
    state.buffer_add("a", [late, elsewhere], limit=10)
    assert state.buffer("a") == [early, late]


def test_a_microsecond_decides_who_leaves(state: State) -> None:
    later = replace(entry("a"), captured_at=START + timedelta(microseconds=1))
    state.buffer_add("a", [later, entry("b")], limit=1)
    assert ids(state) == ["a"]


def test_what_comes_too_late_for_a_full_buffer_is_not_kept(state: State) -> None:
    state.buffer_add("a", [entry("x", 2), entry("y", 3)], limit=2)
    state.buffer_add("a", [entry("old", 1)], limit=2)
    assert ids(state) == ["x", "y"]


def test_a_buffer_of_no_images_keeps_none(state: State) -> None:
    state.buffer_add("a", [entry("x")], limit=0)
    assert state.buffer("a") == []


def test_a_buffer_holds_its_limit_while_many_add(state: State) -> None:
    def add(number: int) -> None:
        state.buffer_add("a", [entry(f"{number}-{minute}", minute) for minute in range(5)], limit=10)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(8)))
    assert [buffered.captured_at for buffered in state.buffer("a")] == [
        START + timedelta(minutes=minute) for minute in (3, 3, 4, 4, 4, 4, 4, 4, 4, 4)
    ]


def test_removing_an_image_is_repeatable(state: State) -> None:
    state.buffer_add("a", [entry("x"), entry("y", 1)], limit=10)
    state.buffer_remove("a", ["store:///x", "unknown"])
    state.buffer_remove("a", ["store:///x"])
    state.buffer_remove("a", [])
    assert ids(state) == ["y"]
