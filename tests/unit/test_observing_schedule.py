"""Adaptation by a schedule: once per tick, also while the line pauses, whoever has it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flowgauge.domain.messages import AlertKind, Reason, Verdict
from flowgauge.processors.observing import Observing
from flowgauge.registry.lines import set_line
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from tests.support.cameras import Camera, alert_kinds, observe, requests
from tests.support.failing import Failing
from tests.support.streaming import LINE, START, SetClock, append_verdicts, opened

NIGHTLY = "0 2 * * *"
TICK = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)  # the first after START


@pytest.fixture
def camera() -> Camera:
    return Camera()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def scheduled(tmp_path: Path, clock: SetClock) -> Store:
    store = opened(tmp_path / "scheduled", clock)
    set_line(store.objects, LINE, adapt_schedule=NIGHTLY)
    return store


def set_to(clock: SetClock, at: datetime) -> None:
    clock.advance((at - clock.now()).total_seconds())


def at(camera: Camera, moment: datetime, images: int = 3) -> list[Verdict]:
    return camera.verdicts(images, scored_at=moment, captured_at=moment)


def test_a_schedule_requests_an_adaptation_at_its_tick_although_the_line_pauses(
    scheduled: Store, camera: Camera, clock: SetClock
) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    worker = Worker(Observing(scheduled), scheduled.log, clock, 64)
    set_to(clock, TICK - timedelta(seconds=1))
    for _ in range(3):
        worker.step()
    assert requests(scheduled) == []
    set_to(clock, TICK)
    for _ in range(3):
        worker.step()
        clock.advance(90)
    [request] = requests(scheduled)
    assert (request.line, request.reason, request.requested_at) == (LINE, Reason.SCHEDULE, TICK)


def test_a_verdict_after_the_tick_brings_the_request_that_nobody_was_there_to_make(
    scheduled: Store, camera: Camera, tmp_path: Path
) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    append_verdicts(scheduled.log, at(camera, TICK + timedelta(hours=4)))
    observe(scheduled)
    [late] = requests(scheduled)
    assert late.requested_at == TICK

    clock = SetClock()
    quiet = opened(tmp_path / "quiet", clock)
    set_line(quiet.objects, LINE, adapt_schedule=NIGHTLY)
    append_verdicts(quiet.log, Camera().verdicts(20))
    observe(quiet)
    set_to(clock, TICK)
    observe(quiet)
    assert requests(quiet) == [late], "two workers that notice one tick make one request"


def test_of_ticks_that_were_missed_the_last_alone_counts(scheduled: Store, camera: Camera, clock: SetClock) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    set_to(clock, TICK + timedelta(days=3))
    observe(scheduled)
    assert [request.requested_at for request in requests(scheduled)] == [TICK + timedelta(days=3)]


def test_a_tick_without_images_since_the_last_time_asks_for_nothing(
    scheduled: Store, camera: Camera, clock: SetClock
) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    for day in range(3):
        set_to(clock, TICK + timedelta(days=day))
        observe(scheduled)
    assert len(requests(scheduled)) == 1
    append_verdicts(scheduled.log, at(camera, TICK + timedelta(days=2, hours=5)))
    observe(scheduled)
    assert len(requests(scheduled)) == 1
    set_to(clock, TICK + timedelta(days=3))
    observe(scheduled)
    assert [request.requested_at for request in requests(scheduled)] == [TICK, TICK + timedelta(days=3)]


def test_a_line_without_a_gauge_is_not_adapted_by_schedule(scheduled: Store, camera: Camera, clock: SetClock) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20, gauge_version=None, standard_score=None, peak=None))
    observe(scheduled)
    set_to(clock, TICK)
    observe(scheduled)
    assert requests(scheduled) == []


def test_ticks_from_before_the_schedule_was_seen_mean_nothing(tmp_path: Path, camera: Camera, clock: SetClock) -> None:
    store = opened(tmp_path, clock)
    append_verdicts(store.log, camera.verdicts(20))
    observe(store)
    set_to(clock, TICK + timedelta(hours=1))
    set_line(store.objects, LINE, adapt_schedule=NIGHTLY)
    append_verdicts(store.log, at(camera, TICK - timedelta(hours=1)) + at(camera, TICK + timedelta(minutes=30)))
    observe(store)
    assert requests(store) == []
    set_to(clock, TICK + timedelta(days=1))
    observe(store)
    assert [request.requested_at for request in requests(store)] == [TICK + timedelta(days=1)]


def test_a_schedule_that_changes_counts_from_then_on_also_across_a_restart(
    scheduled: Store, camera: Camera, clock: SetClock
) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    set_to(clock, TICK - timedelta(hours=4))
    set_line(scheduled.objects, LINE, adapt_schedule="0 23 * * *")
    observe(scheduled)
    set_to(clock, TICK - timedelta(hours=2))
    observe(scheduled)
    assert [request.requested_at for request in requests(scheduled)] == [TICK - timedelta(hours=3)]


def test_a_schedule_that_is_unset_asks_for_nothing_more(scheduled: Store, camera: Camera, clock: SetClock) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    set_line(scheduled.objects, LINE, adapt_schedule=None)
    clock.advance(3600)
    observe(scheduled)
    set_to(clock, TICK)
    observe(scheduled)
    assert requests(scheduled) == []


@pytest.mark.parametrize(("policy", "expected"), [("propose", [AlertKind.ADAPTATION_PROPOSED]), ("off", [])])
def test_the_policy_holds_for_schedules_too(
    scheduled: Store, camera: Camera, clock: SetClock, policy: str, expected: list[AlertKind]
) -> None:
    set_line(scheduled.objects, LINE, policy=policy)
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    set_to(clock, TICK)
    observe(scheduled)
    assert (alert_kinds(scheduled), requests(scheduled)) == (expected, [])


def test_one_cool_down_holds_for_all_reasons_and_across_a_restart(
    scheduled: Store, camera: Camera, clock: SetClock
) -> None:
    set_line(scheduled.objects, LINE, adapt_every=40, cool_down_seconds=3600)
    append_verdicts(scheduled.log, at(camera, TICK - timedelta(minutes=10), images=50))
    observe(scheduled)
    set_to(clock, TICK)
    observe(scheduled)
    append_verdicts(scheduled.log, at(camera, TICK + timedelta(minutes=5), images=50))
    observe(scheduled)
    assert [request.reason for request in requests(scheduled)] == [Reason.COUNT]


def test_a_worker_without_the_partition_asks_for_nothing(scheduled: Store, camera: Camera, clock: SetClock) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    set_to(clock, TICK)
    assert Observing(scheduled).punctuate(clock.now()) == []


def test_a_worker_that_lost_the_line_goes_on_from_what_the_other_stored(
    scheduled: Store, camera: Camera, clock: SetClock
) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    loser = Observing(scheduled)
    Worker(loser, scheduled.log, clock, 64).step()
    set_to(clock, TICK)
    observe(scheduled)
    append_verdicts(scheduled.log, at(camera, TICK + timedelta(minutes=1)))
    observe(scheduled)
    before = scheduled.state.get(f"observing/{LINE}")
    assert loser.punctuate(clock.now()) == []
    assert scheduled.state.get(f"observing/{LINE}") == before


def test_a_kill_between_the_scheduled_request_and_its_checkpoint_repeats_it_with_its_id(
    scheduled: Store, camera: Camera, clock: SetClock
) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    set_to(clock, TICK)
    state = Failing(scheduled.state, ["put"], 1_000)
    forgetful = Store(scheduled.uri, scheduled.log, scheduled.objects, state, clock)
    Worker(Observing(forgetful), scheduled.log, clock, 64).step()
    observe(scheduled)
    first, second = requests(scheduled)
    assert first == second
    observe(scheduled)
    assert len(requests(scheduled)) == 2


def test_a_log_that_is_away_at_the_tick_delays_the_request_and_loses_nothing(
    scheduled: Store, camera: Camera, clock: SetClock
) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    set_to(clock, TICK)
    worker = Worker(Observing(scheduled), Failing(scheduled.log, ["append"], 3), clock, 64)
    for _ in range(8):
        worker.step()
        clock.advance(20)
    assert worker.error is None
    assert len(requests(scheduled)) == 1


@pytest.mark.parametrize("read_by_a_worker", [True, False])
def test_a_clock_that_was_days_ahead_once_does_not_hold_a_schedule_up(
    scheduled: Store, camera: Camera, clock: SetClock, read_by_a_worker: bool
) -> None:
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    if read_by_a_worker:
        clock.advance(5 * 86_400)
    append_verdicts(scheduled.log, at(camera, START + timedelta(days=5)))
    observe(scheduled)
    [early] = requests(scheduled)
    set_to(clock, START)
    append_verdicts(scheduled.log, at(camera, START))
    observe(scheduled)
    set_to(clock, TICK)
    observe(scheduled)
    assert [request.requested_at for request in requests(scheduled)] == [early.requested_at, TICK]


def test_a_tick_by_a_clock_a_little_ahead_is_asked_for_once(scheduled: Store, camera: Camera, clock: SetClock) -> None:
    set_line(scheduled.objects, LINE, cool_down_seconds=0)
    append_verdicts(scheduled.log, camera.verdicts(20))
    observe(scheduled)
    set_to(clock, TICK - timedelta(seconds=5))
    for seconds in (1, 2, 3):
        append_verdicts(scheduled.log, at(camera, TICK + timedelta(seconds=seconds)))
        observe(scheduled)
    assert [request.requested_at for request in requests(scheduled)] == [TICK]
