import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowgauge.domain.messages import (
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
from flowgauge.processors.line_monitor import LineState
from flowgauge.processors.observing import Observing
from flowgauge.registry.lines import set_line
from flowgauge.registry.snapshots import SnapshotFiles, store_snapshot
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.training.thresholds import Rule, Threshold
from tests.support.cameras import Camera, alert_kinds, observe, requests
from tests.support.failing import Failing
from tests.support.streaming import LINE, START, SetClock, append_verdicts, opened, records, verdict


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return opened(tmp_path, SetClock())


@pytest.fixture
def camera() -> Camera:
    return Camera()


def test_verdicts_fill_the_buffer_with_references(store: Store) -> None:
    append_verdicts(store.log, [verdict(0, subject="part-7"), verdict(1, decision=Decision.REJECT)])
    observe(store)
    first, second = store.state.buffer(LINE)
    assert first.subject == "part-7"
    assert (first.image_id, first.decision, second.decision) == ("image-0000", "pass", "reject")
    assert first.image_uri == verdict(0).image_uri


def test_test_images_and_images_that_were_not_kept_never_train(store: Store) -> None:
    append_verdicts(store.log, [verdict(0, use_for_training=False), verdict(1, image_uri=None), verdict(2)])
    observe(store)
    assert [entry.image_id for entry in store.state.buffer(LINE)] == ["image-0002"]


def test_a_fenced_verdict_does_not_train(store: Store) -> None:
    append_verdicts(store.log, [verdict(5), verdict(3, "late")])
    observe(store)
    assert [entry.image_id for entry in store.state.buffer(LINE)] == ["image-0005"]


def test_drift_is_looked_for_in_every_number_of_the_statistics(store: Store) -> None:
    append_verdicts(store.log, [verdict(0)])
    observe(store)
    stored = store.state.get(f"observing/{LINE}")
    assert stored is not None
    (observation,) = LineState.decode(stored).monitor.seen
    numbers = {name for name, field in Statistics.model_fields.items() if field.annotation is float}
    assert observation.statistics.keys() == numbers
    assert numbers >= {"brightness", "contrast", "focus"}


def test_verdicts_of_a_topic_that_was_made_anew_are_observed(store: Store) -> None:
    known = LineState(seen={0: 50}, gauge_version="fit-1", images_since=7)
    store.state.put(f"observing/{LINE}", known.encode(), 60)
    store.state.put("observing-partitions/0", json.dumps([LINE]).encode(), 60)
    append_verdicts(store.log, [verdict(0), verdict(1)])
    observe(store)
    stored = store.state.get(f"observing/{LINE}")
    assert stored is not None
    state = LineState.decode(stored)
    assert (state.seen, state.images_since) == ({0: 1}, 9)


def test_state_that_another_version_wrote_begins_anew_and_says_so(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.state.put(f"observing/{LINE}", b'{"schema_version": 99, "monitor": "in other words"}', 60)
    store.state.put("observing-partitions/0", json.dumps([LINE]).encode(), 60)
    append_verdicts(store.log, [verdict(0), verdict(1)])
    observe(store)
    assert len(store.state.buffer(LINE)) == 2
    assert f"The state observing/{LINE} cannot be read, and begins anew: monitor" in caplog.text


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
    assert alert_kinds(store) == []


def test_a_change_of_light_alerts_with_its_cause_and_requests_one_adaptation(store: Store, camera: Camera) -> None:
    append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(100, shift=3, light=0.5))
    observe(store)
    assert alert_kinds(store) == [AlertKind.DRIFT]
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
    assert (alert_kinds(store), requests(store)) == ([AlertKind.DRIFT], [])
    append_verdicts(store.log, camera.verdicts(60, shift=3, light=0.5))
    observe(store)
    assert len(requests(store)) == 1


def test_a_wave_of_defects_is_proposed_to_a_person_and_not_learned(store: Store, camera: Camera) -> None:
    append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(120, defects=0.4))
    observe(store)
    assert requests(store) == []
    assert alert_kinds(store) == [AlertKind.DRIFT, AlertKind.ADAPTATION_PROPOSED]
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
    assert (alert_kinds(store), requests(store)) == ([AlertKind.DRIFT, AlertKind.ADAPTATION_PROPOSED], [])


def test_with_adaptation_switched_off_a_drift_is_an_alert_and_no_more(store: Store, camera: Camera) -> None:
    set_line(store.objects, LINE, policy="off")
    append_verdicts(store.log, camera.verdicts(100) + camera.verdicts(100, shift=3, light=0.5))
    observe(store)
    assert (alert_kinds(store), requests(store)) == ([AlertKind.DRIFT], [])


@pytest.mark.parametrize(("cool_down", "expected"), [(10_000, 1), (0, 2)])
def test_no_second_adaptation_is_requested_while_the_line_cools_down(
    store: Store, camera: Camera, cool_down: float, expected: int
) -> None:
    set_line(store.objects, LINE, cool_down_seconds=cool_down)
    for light, shift in ((0.4, 0), (0.5, 2), (0.6, 4)):
        append_verdicts(store.log, camera.verdicts(100, shift=shift, light=light))
    observe(store)
    assert len(requests(store)) == expected
    assert alert_kinds(store).count(AlertKind.DRIFT) >= expected


def test_a_clock_that_was_a_year_ahead_once_does_not_hold_adaptations_up(store: Store, camera: Camera) -> None:
    set_line(store.objects, LINE, adapt_every=50, cool_down_seconds=600)
    append_verdicts(store.log, camera.verdicts(49))
    append_verdicts(store.log, camera.verdicts(1, scored_at=START + timedelta(days=365)))
    append_verdicts(store.log, camera.verdicts(49))
    observe(store)
    assert len(requests(store)) == 1
    append_verdicts(store.log, camera.verdicts(1))
    observe(store)
    assert len(requests(store)) == 2


def test_a_verdict_that_was_scored_before_the_last_request_falls_into_its_cool_down(
    store: Store, camera: Camera
) -> None:
    set_line(store.objects, LINE, adapt_every=50, cool_down_seconds=600)
    append_verdicts(store.log, camera.verdicts(50, scored_at=START + timedelta(minutes=1)))
    append_verdicts(store.log, camera.verdicts(50, scored_at=START))
    observe(store)
    assert len(requests(store)) == 1


def test_a_swap_starts_the_monitor_afresh(store: Store, camera: Camera) -> None:
    append_verdicts(store.log, camera.verdicts(100))
    append_verdicts(store.log, camera.verdicts(100, light=0.5, gauge_version="adapted-2"))
    observe(store)
    assert alert_kinds(store) == []


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
    assert alert_kinds(store) == []
    assert len(empty.buffer(LINE)) == 50


def _gauged(store: Store, version: str = "fit-1") -> Threshold:
    """The line's gauge has a threshold for 5 % of false alarms: of 200 good scores around 100, 10 a deviation."""
    scores = 100 + 10 * np.random.default_rng(0).normal(size=200)
    folds = np.arange(200) % 2
    limit = Threshold.from_folds(scores, folds, rule=Rule.CONFORMAL, k=1.5, seed=0)
    manifest = json.dumps({"threshold": limit.model_dump(mode="json")}).encode()
    store_snapshot(store.objects, LINE, version, SnapshotFiles(manifest, b"weights"))
    return limit


def _scored(images: int, centre: float, defects: float = 0.0, start: int = 0, **changes: Any) -> list[Verdict]:
    """Verdicts whose raw scores alone say anything: light and place stand still."""
    rng = np.random.default_rng(start + 1)
    scores = centre + 10 * rng.normal(size=images) + np.where(rng.random(images) < defects, 80, 0)
    return [
        verdict(start + offset, score=float(score), standard_score=0.0, **changes)
        for offset, score in enumerate(scores)
    ]


def _contradictions(store: Store) -> list[Alert]:
    return [each for each in alerts(store.log) if each.kind is AlertKind.THRESHOLD_DISAGREES]


@pytest.mark.parametrize("defects", [0.0, 0.1, 0.3])
def test_a_threshold_that_fits_the_line_is_not_contradicted_whatever_defects_come(store: Store, defects: float) -> None:
    _gauged(store)
    append_verdicts(store.log, _scored(400, 100, defects))
    observe(store)
    assert _contradictions(store) == []


@pytest.mark.parametrize(("centre", "side", "share"), [(125, "below", 0.3), (70, "above", 0.0)])
def test_a_threshold_that_does_not_fit_the_line_is_reported_once_with_a_proposal(
    store: Store, centre: float, side: str, share: float
) -> None:
    limit = _gauged(store)
    append_verdicts(store.log, _scored(500, centre, defects=0.1))
    observe(store)
    [found] = _contradictions(store)
    assert f"lies {side}" in found.message
    assert found.detail["images"] == 200
    proposed = found.detail["proposed"]
    assert f"`flowgauge threshold set {LINE} {proposed:.6g} --keep-promise`" in found.message
    truth = limit.value + centre - 100
    assert abs(proposed - truth) < abs(limit.value - truth) / 2
    assert found.detail["low"] <= truth <= found.detail["high"]
    assert (found.detail["false_alarms"] > share) if side == "below" else (found.detail["false_alarms"] < 0.01)


def test_the_check_survives_restarts_and_a_lost_commit(store: Store, tmp_path: Path) -> None:
    _gauged(store)
    append_verdicts(store.log, _scored(260, 125))
    observe(store)
    interrupted = opened(tmp_path / "interrupted", SetClock())
    _gauged(interrupted)
    for start in range(0, 260, 65):
        append_verdicts(interrupted.log, _scored(260, 125)[start : start + 65])
        observe(interrupted, batch=7)
    assert _contradictions(interrupted) == _contradictions(store)
    assert len(_contradictions(store)) == 1
    interrupted.log.commit("observing", VERDICTS, 0, 0)
    observe(interrupted)
    assert len([r for r in records(interrupted.log, ALERTS) if Alert.decode(r.value).count]) == 1


def test_each_gauge_is_checked_anew_and_images_of_one_part_count_once(store: Store) -> None:
    set_line(store.objects, LINE, threshold_check_images=50)
    _gauged(store), _gauged(store, "fit-2")
    first = [each.model_copy(update={"subject": f"part-{n // 2}"}) for n, each in enumerate(_scored(98, 130))]
    append_verdicts(store.log, first)
    observe(store)
    assert _contradictions(store) == [], "49 parts have been seen"
    append_verdicts(store.log, _scored(1, 130, start=98) + _scored(50, 130, start=99, gauge_version="fit-2"))
    observe(store)
    assert [each.detail["version"] for each in _contradictions(store)] == ["fit-1", "fit-2"]


def test_no_check_where_it_is_off_or_the_gauge_promises_nothing_that_can_be_read(store: Store) -> None:
    append_verdicts(store.log, _scored(210, 150))
    observe(store)
    set_line(store.objects, LINE, threshold_check_images=0)
    _gauged(store, "fit-2")
    append_verdicts(store.log, _scored(210, 150, start=210, gauge_version="fit-2"))
    observe(store)
    assert _contradictions(store) == []


def test_a_check_waits_while_the_store_is_away(store: Store) -> None:
    _gauged(store)
    append_verdicts(store.log, _scored(200, 125))
    away = Store(store.uri, store.log, Failing(store.objects, ["get"], 1_000), store.state, store.clock)
    worker = Worker(Observing(away), store.log, store.clock, 64)
    while worker.step():
        pass
    assert _contradictions(store) == []
    append_verdicts(store.log, _scored(1, 125, start=200))
    observe(store)
    assert len(_contradictions(store)) == 1
