"""What every state store keeps to."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from adapters.local.state import LocalState
from core.ports import Buffered, Clock, State
from tests.support.streaming import START, SetClock


def local(root: Path, clock: Clock) -> State:
    return LocalState(root / "state.db", clock)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=[local], ids=["local"])
def state(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> Iterator[State]:
    opener: Callable[[Path, Clock], State] = request.param
    state = opener(tmp_path, clock)
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


def test_removing_an_image_is_repeatable(state: State) -> None:
    state.buffer_add("a", [entry("x"), entry("y", 1)], limit=10)
    state.buffer_remove("a", ["x", "unknown"])
    state.buffer_remove("a", ["x"])
    assert ids(state) == ["y"]
