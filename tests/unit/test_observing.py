from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from core.messages import (
    ADAPTATIONS,
    ALERTS,
    VERDICTS,
    AdaptationRequest,
    Alert,
    AlertKind,
    Decision,
    Reason,
    Statistics,
    Verdict,
)
from streams.alerts import alerts
from streams.lines import set_line
from streams.observing import Observing
from streams.store import Store
from streams.worker import Worker
from tests.support.failing import Failing
from tests.support.streaming import LINE, SetClock, append_verdicts, hash_bits, opened, records, verdict


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return opened(tmp_path, SetClock())


class Camera:
    """Verdicts of a line whose scores and light are set; offsets rise by one."""

    def __init__(self) -> None:
        self._dice = Random(0)
        self._offset = 0

    def verdicts(
        self, images: int, shift: float = 0.0, light: float = 0.4, defects: float = 0.0, **changes: Any
    ) -> list[Verdict]:
        return [self._verdict(shift, light, defects, changes) for _ in range(images)]

    def _verdict(self, shift: float, light: float, defects: float, changes: dict[str, Any]) -> Verdict:
        offset, self._offset = self._offset, self._offset + 1
        dice = self._dice
        standard = dice.gauss(shift, 1) + (8 if dice.random() < defects else 0)
        seen = Statistics(
            brightness=dice.gauss(light, 0.01),
            contrast=dice.gauss(0.1, 0.01),
            focus=dice.gauss(1, 0.1),
            fingerprint=f"{hash_bits(offset):016x}",
        )
        facts: dict[str, Any] = {"standard_score": standard, "peak": (dice.random(), dice.random()), "statistics": seen}
        return verdict(offset, **(facts | changes))


@pytest.fixture
def camera() -> Camera:
    return Camera()


def observe(store: Store, batch: int = 64) -> None:
    """A new observing worker, as after a restart, works off what is there."""
    worker = Worker(Observing(store), store.log, store.clock, batch)
    while worker.step():
        pass
    assert worker.error is None


def requests(store: Store) -> list[AdaptationRequest]:
    return [AdaptationRequest.decode(record.value) for record in records(store.log, ADAPTATIONS)]


def told(store: Store) -> list[AlertKind]:
    return [each.kind for each in alerts(store.log)]


def test_verdicts_fill_the_buffer_with_references(store: Store) -> None:
    append_verdicts(store.log, [verdict(0, subject="part-7"), verdict(1, decision=Decision.REJECT)])
    observe(store)
    first, second = store.state.buffer(LINE)
    assert first.subject == "part-7"
    assert (first.image_id, first.decision, second.decision) == ("image-0000", "pass", "reject")
    assert first.image_uri == verdict(0).image_uri


def test_judge_images_and_images_that_were_not_kept_never_teach(store: Store) -> None:
    append_verdicts(store.log, [verdict(0, teaches=False), verdict(1, image_uri=None), verdict(2)])
    observe(store)
    assert [entry.image_id for entry in store.state.buffer(LINE)] == ["image-0002"]


def test_a_void_verdict_does_not_teach(store: Store) -> None:
    append_verdicts(store.log, [verdict(5), verdict(3, "late")])
    observe(store)
    assert [entry.image_id for entry in store.state.buffer(LINE)] == ["image-0005"]


def test_the_buffer_keeps_to_the_line_s_settings(store: Store) -> None:
    set_line(store.objects, LINE, buffer_size=5, buffer_minimum=1)
    append_verdicts(store.log, [verdict(offset) for offset in range(20)])
    observe(store, batch=7)
    assert [entry.image_id for entry in store.state.buffer(LINE)] == [f"image-{offset:04d}" for offset in range(15, 20)]


def test_a_line_without_a_gauge_fills_its_buffer_and_does_not_drift(store: Store, camera: Camera) -> None:
    unknown: dict[str, Any] = {"standard_score": None, "score": None, "peak": None, "gauge_version": None}
    append_verdicts(store.log, camera.verdicts(60, **unknown) + camera.verdicts(60, light=0.6, **unknown))
    observe(store)
    assert len(store.state.buffer(LINE)) == 120
    assert told(store) == []


def test_a_change_of_light_alerts_with_its_cause_and_requests_one_adaptation(store: Store, camera: Camera) -> None:
    append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(100, shift=3, light=0.5))
    observe(store)
    assert told(store) == [AlertKind.DRIFT]
    assert "brightness rose from 0.4 to 0.5" in alerts(store.log)[0].message
    [request] = requests(store)
    assert (request.line, request.reason, request.requested_by) == (LINE, Reason.DRIFT, "observing")


def test_the_request_says_since_when_the_line_has_changed(store: Store, camera: Camera) -> None:
    before, after = camera.verdicts(100), camera.verdicts(100, shift=3, light=0.5)
    append_verdicts(store.log, before + after)
    observe(store)
    [request] = requests(store)
    assert request.since is not None
    assert before[-4].captured_at <= request.since <= after[4].captured_at


def test_the_adaptation_is_requested_only_when_the_line_has_settled(store: Store, camera: Camera) -> None:
    append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(25, shift=3, light=0.5))
    observe(store)
    assert (told(store), requests(store)) == ([AlertKind.DRIFT], [])
    append_verdicts(store.log, camera.verdicts(60, shift=3, light=0.5))
    observe(store)
    assert len(requests(store)) == 1


def test_a_wave_of_defects_is_proposed_to_a_person_and_not_learned(store: Store, camera: Camera) -> None:
    append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(120, defects=0.4))
    observe(store)
    assert requests(store) == []
    assert told(store) == [AlertKind.DRIFT, AlertKind.ADAPTATION_PROPOSED]
    assert "must not be learned" in alerts(store.log)[-1].message
    proposal = alerts(store.log)[-1]
    assert f"flowgauge adapt --approve {proposal.detail['request']['request_id']}" in proposal.message


def test_a_proposal_carries_the_whole_request_that_would_be_made(tmp_path: Path) -> None:
    asked: list[AdaptationRequest] = []
    for policy in ("auto", "propose"):
        store = opened(tmp_path / policy, SetClock())
        set_line(store.objects, LINE, policy=policy)
        camera = Camera()
        append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(100, shift=3, light=0.5))
        observe(store)
        asked += requests(store)
        asked += [
            AdaptationRequest.model_validate(each.detail["request"])
            for each in alerts(store.log)
            if each.kind is AlertKind.ADAPTATION_PROPOSED
        ]
    made, proposed = asked
    assert made == proposed
    assert made.since is not None


def test_the_policy_propose_asks_a_person_and_off_asks_nobody(store: Store, camera: Camera) -> None:
    set_line(store.objects, LINE, policy="propose")
    append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(100, shift=3, light=0.5))
    observe(store)
    assert (told(store), requests(store)) == ([AlertKind.DRIFT, AlertKind.ADAPTATION_PROPOSED], [])


def test_with_adaptation_switched_off_a_drift_is_an_alert_and_no_more(store: Store, camera: Camera) -> None:
    set_line(store.objects, LINE, policy="off")
    append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(100, shift=3, light=0.5))
    observe(store)
    assert (told(store), requests(store)) == ([AlertKind.DRIFT], [])


@pytest.mark.parametrize(("cool_down", "expected"), [(10_000, 1), (0, 2)])
def test_no_second_adaptation_is_requested_while_the_line_cools_down(
    store: Store, camera: Camera, cool_down: float, expected: int
) -> None:
    set_line(store.objects, LINE, cool_down_seconds=cool_down)
    for light, shift in ((0.4, 0), (0.5, 2), (0.6, 4)):
        append_verdicts(store.log, camera.verdicts(100, shift=shift, light=light))
    observe(store)
    assert len(requests(store)) == expected
    assert told(store).count(AlertKind.DRIFT) >= expected


def test_a_swap_starts_the_monitor_afresh(store: Store, camera: Camera) -> None:
    append_verdicts(store.log, camera.verdicts(100))
    append_verdicts(store.log, camera.verdicts(100, light=0.5, gauge_version="adapted-2"))
    observe(store)
    assert told(store) == []


def test_a_count_requests_an_adaptation_without_any_drift(store: Store, camera: Camera) -> None:
    set_line(store.objects, LINE, adapt_every=50, cool_down_seconds=0)
    append_verdicts(store.log, camera.verdicts(120))
    observe(store)
    assert [request.reason for request in requests(store)] == [Reason.COUNT] * 2


def test_a_restart_in_the_middle_changes_nothing(store: Store, tmp_path: Path) -> None:
    def story() -> list[Verdict]:
        camera = Camera()
        return camera.verdicts(150) + camera.verdicts(110, shift=3, light=0.5)

    append_verdicts(store.log, story())
    observe(store)
    interrupted = opened(tmp_path / "interrupted", SetClock())
    for start in range(0, 260, 13):
        append_verdicts(interrupted.log, story()[start : start + 13])
        observe(interrupted, batch=5)
    assert requests(interrupted) == requests(store)
    assert alerts(interrupted.log) == alerts(store.log)
    assert interrupted.state.buffer(LINE) == store.state.buffer(LINE)


def test_a_replay_after_a_lost_commit_observes_nothing_twice(store: Store, camera: Camera) -> None:
    append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(25, shift=3, light=0.5))
    observe(store)
    store.log.commit("observing", VERDICTS, 0, 0)
    observe(store)
    assert [Alert.decode(record.value).kind for record in records(store.log, ALERTS)] == [AlertKind.DRIFT]


def test_a_kill_between_request_and_checkpoint_repeats_the_request_with_its_id(store: Store, camera: Camera) -> None:
    append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(100, shift=3, light=0.5))
    forgetful = Store(store.uri, store.log, store.objects, Failing(store.state, ["put"], 1_000), store.clock)
    Worker(Observing(forgetful), store.log, store.clock, 500).step()
    observe(store, batch=500)
    first, second = requests(store)
    assert first == second
    assert len(alerts(store.log)) == 1


def test_losing_all_state_starts_afresh_and_goes_on(store: Store, camera: Camera, tmp_path: Path) -> None:
    append_verdicts(store.log, camera.verdicts(100))
    observe(store)
    empty = opened(tmp_path / "other", SetClock()).state
    bereft = Store(store.uri, store.log, store.objects, empty, store.clock)
    append_verdicts(store.log, camera.verdicts(50, light=0.5))
    observe(bereft)
    assert told(store) == []
    assert len(empty.buffer(LINE)) == 50


NIGHTLY = "0 2 * * *"
TICK = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)  # the first after START


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


def test_ticks_from_before_the_schedule_was_seen_mean_nothing(store: Store, camera: Camera) -> None:
    append_verdicts(store.log, camera.verdicts(20))
    observe(store)
    set_to(clock := _clock(store), TICK + timedelta(hours=1))
    set_line(store.objects, LINE, adapt_schedule=NIGHTLY)
    append_verdicts(store.log, at(camera, TICK - timedelta(hours=1)) + at(camera, TICK + timedelta(minutes=30)))
    observe(store)
    assert requests(store) == []
    set_to(clock, TICK + timedelta(days=1))
    observe(store)
    assert [request.requested_at for request in requests(store)] == [TICK + timedelta(days=1)]


def _clock(store: Store) -> SetClock:
    assert isinstance(store.clock, SetClock)
    return store.clock


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
    assert (told(scheduled), requests(scheduled)) == (expected, [])


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
    assert Observing(scheduled).idle(clock.now()) == []


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
    assert loser.idle(clock.now()) == []
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
