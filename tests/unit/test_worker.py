"""The commit sequence, one failure path each: whatever fails is repeated in its place, and nothing twice."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import ALERTS, IMAGES
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.runtime.backend import Store
from flowgauge.runtime.processor import Processor
from flowgauge.runtime.task import Step
from flowgauge.runtime.worker import Worker
from tests.support.failing import Failing
from tests.support.streaming import SetClock, opened, png, records, send


class Echo(Processor):
    """Answers each image with an alert that carries its offset."""

    name = "echo"
    inputs = (IMAGES,)

    def __init__(self) -> None:
        self.given: list[int] = []
        self.checkpoints = 0

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        self.given += [record.offset for record in records]
        return [Outgoing(ALERTS, record.key, str(record.offset).encode()) for record in records]

    def checkpoint(self) -> None:
        self.checkpoints += 1


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    store = opened(tmp_path / "plant", clock)
    send(store, [(str(number), png(100)) for number in range(5)])
    return store


def echoed(store: Store) -> list[int]:
    return [int(record.value) for record in records(store.log, ALERTS)]


def run_through(store: Store, clock: SetClock, processor: Any, log: Any, batch: int = 2) -> list[str]:
    """Work until all is done, with pauses that let every back-off pass; what was in the way."""
    troubles: list[str] = []
    worker = Worker(processor, log, clock, batch, unavailable=lambda name, error: troubles.append(f"{name}: {error}"))
    while worker.lag() or worker.error:
        worker.step()
        clock.advance(20)
    worker.step()
    return troubles


def test_records_are_processed_in_order_and_committed(store: Store, clock: SetClock) -> None:
    echo = Echo()
    assert run_through(store, clock, echo, store.log) == []
    assert echoed(store) == [0, 1, 2, 3, 4]
    assert store.log.position("echo", IMAGES, 0) == 5
    assert echo.checkpoints == 3


@pytest.mark.parametrize("method", ["read", "append", "commit", "position", "partitions"])
def test_a_log_that_is_away_for_a_moment_loses_and_repeats_nothing(store: Store, clock: SetClock, method: str) -> None:
    for failures in (1, 2, 3):
        echo = Echo()
        log = Failing(store.log, [method], times=0)
        worker = Worker(echo, log, clock, 2)
        worker.step()
        log.left = failures
        send(store, [("more", png(100))])
        for _ in range(12):
            worker.step()
            clock.advance(20)
        assert worker.error is None
        assert log.left == 0
        assert echo.given == sorted(set(echo.given))
    assert echoed(store) == sorted(set(echoed(store)))


def test_what_was_processed_but_not_appended_is_not_processed_again(store: Store, clock: SetClock) -> None:
    echo = Echo()
    assert len(run_through(store, clock, echo, Failing(store.log, ["append"], times=2))) == 2
    assert echo.given == [0, 1, 2, 3, 4]
    assert echoed(store) == [0, 1, 2, 3, 4]


def test_a_failed_commit_appends_nothing_twice(store: Store, clock: SetClock) -> None:
    echo = Echo()
    assert len(run_through(store, clock, echo, Failing(store.log, ["commit"], times=2))) == 2
    assert echoed(store) == [0, 1, 2, 3, 4]
    assert store.log.position("echo", IMAGES, 0) == 5


def test_a_failed_checkpoint_is_repeated_before_the_commit(store: Store, clock: SetClock) -> None:
    echo: Any = Failing(Echo(), ["checkpoint"])
    worker = Worker(echo, store.log, clock, 2)
    worker.step()
    assert isinstance(worker.error, Unavailable)
    assert store.log.position("echo", IMAGES, 0) == 0
    clock.advance(20)
    worker.step()
    assert echo.checkpoints >= 1
    assert echoed(store)[:2] == [0, 1]
    assert echoed(store).count(0) == 1


def test_a_batch_whose_processing_fails_comes_again_as_it_was(store: Store, clock: SetClock) -> None:
    echo = Failing(Echo(), ["process"], times=3)
    assert len(run_through(store, clock, echo, store.log)) == 3
    assert echo.given == [0, 1, 2, 3, 4]


def test_a_worker_that_was_killed_before_its_commit_starts_at_the_last_one(store: Store, clock: SetClock) -> None:
    Worker(Echo(), Failing(store.log, ["commit"]), clock, 2).step()
    successor = Echo()
    run_through(store, clock, successor, store.log)
    assert successor.given == [0, 1, 2, 3, 4]


def test_pauses_double_up_to_ten_seconds(store: Store, clock: SetClock) -> None:
    echo: Any = Failing(Echo(), ["process"], times=1_000)
    worker = Worker(echo, store.log, clock, 2)
    tries = []
    for _ in range(600):
        before = echo.left
        worker.step()
        tries.append(before - echo.left)
        clock.advance(0.1)
    at = [index for index, tried in enumerate(tries) if tried]
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert gaps == sorted(gaps)
    assert gaps[0] <= 2
    assert max(gaps) in (100, 101)


class Clockwork(Echo):
    """Says the minute, once, when it is idle."""

    def punctuate(self, now: datetime) -> list[Outgoing]:
        minute = f"{now:%H:%M}".encode()
        if minute in self.minutes:
            return []
        self.minutes.append(minute)
        return [Outgoing(ALERTS, "clock", minute)]

    def __init__(self) -> None:
        super().__init__()
        self.minutes: list[bytes] = []


@pytest.mark.parametrize(("failing", "times"), [("append", 3), ("checkpoint", 3)])
def test_what_is_due_is_appended_once_and_checkpointed_whatever_fails(
    store: Store, clock: SetClock, failing: str, times: int
) -> None:
    store.log.commit("echo", IMAGES, 0, 5)
    clockwork = Clockwork()
    log = Failing(store.log, ["append"], times if failing == "append" else 0)
    processor: Any = Failing(clockwork, ["checkpoint"], times if failing == "checkpoint" else 0)
    seen: list[Step] = []
    worker = Worker(processor, log, clock, 2, observer=seen.append)
    for _ in range(times + 1):
        worker.step()
        clock.advance(10)
    assert worker.error is None
    assert [record.value for record in records(store.log, ALERTS)] == [b"06:00"]
    assert clockwork.checkpoints == 1
    assert [(len(step.records), len(step.outgoing)) for step in seen] == [(0, 1)]


def test_a_clock_that_is_set_back_does_not_prolong_a_pause(store: Store, clock: SetClock) -> None:
    echo = Echo()
    worker = Worker(echo, Failing(store.log, ["read"]), clock, 2)
    worker.step()
    clock.advance(-3_600)
    worker.step()
    assert echo.given == [0, 1]


def test_an_observer_sees_only_what_is_durable(store: Store, clock: SetClock) -> None:
    seen: list[Step] = []
    log = Failing(store.log, ["append"])
    worker = Worker(Echo(), log, clock, 2, observer=seen.append)
    worker.step()
    assert seen == []
    clock.advance(20)
    worker.step()
    assert [record.offset for step in seen for record in step.records] == [0, 1, 2, 3]
