"""What the console is told of each line, as it happens."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flowgauge.domain.errors import Unavailable, UserError
from flowgauge.domain.messages import (
    ADAPTATIONS,
    ALERTS,
    SNAPSHOTS,
    AlertKind,
    Decision,
    Expected,
    Reason,
    Source,
    Stage,
    TrialRules,
    Verdict,
)
from flowgauge.domain.ports import Outgoing
from flowgauge.local.log import LocalLog
from flowgauge.processors.adaptation import request_adaptation
from flowgauge.processors.archive import Archive
from flowgauge.processors.line_monitor import Trigger
from flowgauge.registry.snapshots import publish_snapshot, roll_back, store_snapshot
from flowgauge.registry.trials import begin_trial
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.services.changes import latest_changes, recorded
from flowgauge.services.decisions import approved, refuse, send
from flowgauge.services.history import history
from flowgauge.services.overview import Attention, Overview
from tests.support.streaming import LINE, START, SetClock, append_verdicts, fitted, opened, snapshot, verdict

AT = START + timedelta(minutes=1)
TRIGGER = Trigger(LINE, Reason.DRIFT, "image-7", AT, "the light rose", since=START)


@pytest.fixture
def clock() -> SetClock:
    return SetClock(START + timedelta(minutes=1))


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return opened(tmp_path, clock)


@pytest.fixture
def overview(store: Store) -> Overview:
    return Overview(store)


def test_a_trial_is_seen_and_is_no_other_gauge(store: Store, overview: Overview, clock: SetClock) -> None:
    fitted(store)
    fitted(store, "fit-2")
    clock.advance(60)
    store_snapshot(store.objects, LINE, "fit-1", snapshot("fit-1"))
    begin_trial(store, LINE, "fit-1", "a test", Expected.SAME, TrialRules())
    overview.refresh()
    found = overview.summary(LINE)
    assert found.active is not None
    assert found.trial is not None
    assert (found.active.version, found.active.at) == ("fit-2", AT)
    assert (found.trial.version, found.trial.stage) == ("fit-1", Stage.SHADOW)
    assert [each.version for each in overview.gauges(LINE)] == ["fit-2", "fit-1"]
    roll_back(store, LINE, "fit-1")
    overview.refresh()
    assert overview.summary(LINE).trial is None


def test_verdicts_are_counted_by_decision_and_minute_as_they_come(
    store: Store, overview: Overview, clock: SetClock
) -> None:
    fitted(store)
    decisions = [Decision.PASS] * 6 + [Decision.REJECT] * 3 + [Decision.REVIEW]
    append_verdicts(store.log, [verdict(n, decision=decision) for n, decision in enumerate(decisions)])
    overview.refresh()
    first = overview.summary(LINE)
    assert (first.images, first.rejected, first.reviewed) == (10, 0.3, 0.1)
    assert [minute.images for minute in first.minutes if minute.images] == [10]
    append_verdicts(store.log, [verdict(60, decision=Decision.REJECT, late=True)])
    overview.refresh()
    shown = overview.summary(LINE).shown
    assert shown is not None
    assert shown.image_id == "image-0009", "the image before has not been looked at yet"
    clock.advance(5)
    second = overview.summary(LINE)
    assert (second.images, second.late) == (11, 1)
    assert [minute.images for minute in second.minutes][-2:] == [10, 1]
    assert second.shown is not None
    assert second.shown.image_id == "image-0060"
    assert [each.image_id for each in overview.flagged(LINE)] == ["image-0060", "image-0009"] + [
        f"image-000{n}" for n in (8, 7, 6)
    ]
    assert (second.attention, second.reason) == (Attention.LATE, "1 verdicts were late within an hour.")


def test_a_verdict_of_a_worker_that_had_lost_its_partition_does_not_count(store: Store, overview: Overview) -> None:
    def of(offset: int, name: str) -> Verdict:
        return verdict(offset, name, source=Source(topic="images", partition=0, offset=offset))

    append_verdicts(store.log, [of(0, "a"), of(1, "b"), of(0, "again"), of(2, "c")])
    overview.refresh()
    assert len(overview.samples(LINE)) == 3


def test_a_line_that_has_stopped_shows_the_hour_in_which_it_ran(
    store: Store, overview: Overview, clock: SetClock
) -> None:
    append_verdicts(store.log, [verdict(n, decision=Decision.REJECT) for n in range(4)])
    overview.refresh()
    clock.advance(86_400)
    found = overview.summary(LINE)
    assert (found.images, found.rejected, found.rate) == (4, 1.0, 0.0)


def test_a_proposal_waits_until_it_is_approved_or_refused(store: Store, overview: Overview) -> None:
    fitted(store)
    other = Trigger(LINE, Reason.COUNT, "image-9", AT + timedelta(seconds=9), "many images")
    store.log.append([TRIGGER.proposed(), other.proposed()])
    overview.refresh()
    assert [each.request.reason for each in overview.proposals()] == [Reason.DRIFT, Reason.COUNT]
    assert overview.summaries()[0].attention is Attention.PROPOSAL
    request = approved(store.log, TRIGGER.request.request_id, "mara", store.clock.now())
    send(store, request)
    refuse(store, other.request.request_id, "mara", "it is Sunday")
    overview.refresh()
    assert overview.proposals() == []
    assert [each.request_id for each in overview.waiting()] == [request.request_id]
    done = alert(LINE, AlertKind.ADAPTATION_ACCEPTED, str(request.request_id), START, "It was accepted.")
    store.log.append([done])
    overview.refresh()
    assert overview.waiting() == []


def test_a_gauge_that_comes_answers_what_was_proposed_to_the_one_before(
    store: Store, overview: Overview, clock: SetClock
) -> None:
    fitted(store)
    store.log.append([TRIGGER.proposed()])
    clock.advance(60)
    publish_snapshot(store, LINE, "fit-2", snapshot("fit-2"), "fit-1")
    overview.refresh()
    assert overview.proposals() == []


def test_many_rejects_push_out_nothing_that_a_person_must_see(store: Store, overview: Overview) -> None:
    fitted(store)
    store.log.append([alert(LINE, AlertKind.BACKLOG, "x", AT, "Verdicts come late.")])
    store.log.append([alert(LINE, AlertKind.REJECT, f"minute {n}", AT, "1 rejected") for n in range(300)])
    overview.refresh()
    assert overview.summary(LINE).reason == "Verdicts come late."
    assert len(overview.alerts(LINE)) < 100


def test_what_the_oldest_alerts_decided_is_not_waited_for(store: Store, overview: Overview, clock: SetClock) -> None:
    fitted(store)
    store.log.append([alert(LINE, AlertKind.REJECT, f"minute {n}", AT, "1 rejected") for n in range(3)])
    assert isinstance(store.log, LocalLog)
    store.log.trim(ALERTS, 0, 2)
    request_adaptation(store, TRIGGER.request.model_copy(update={"requested_at": AT - timedelta(hours=5)}))
    overview.refresh()
    assert overview.waiting() == []


def test_what_was_refused_can_no_longer_be_approved(store: Store) -> None:
    fitted(store)
    store.log.append([TRIGGER.proposed()])
    refuse(store, TRIGGER.request.request_id, "mara", "wait for the lamp")
    for again in (approved, lambda log, *given: refuse(store, TRIGGER.request.request_id, "lee", "")):
        with pytest.raises(UserError, match="refused by mara"):
            again(store.log, TRIGGER.request.request_id, "lee", START)


def test_lines_that_need_a_person_come_first(store: Store, overview: Overview) -> None:
    for line in ("a", "b", "c"):
        publish_snapshot(store, line, "fit-1", snapshot("fit-1", line=line), None)
    append_verdicts(store.log, [verdict(0, line="d"), verdict(1, "r", line="b", decision=Decision.REJECT)])
    store.log.append([alert("c", AlertKind.FROZEN_CAMERA, "x", START, "The camera of c stands still.")])
    overview.refresh()
    found = [(each.line, each.attention) for each in overview.summaries()]
    assert found == [("c", Attention.PROBLEM), ("d", Attention.NO_GAUGE), ("b", Attention.NONE), ("a", Attention.NONE)]


def test_a_drift_is_over_once_a_gauge_has_followed_it(store: Store, overview: Overview, clock: SetClock) -> None:
    fitted(store)
    clock.advance(60)
    store.log.append([alert(LINE, AlertKind.DRIFT, "x", clock.now(), "The light rose.")])
    overview.refresh()
    assert overview.summary(LINE).attention is Attention.DRIFT
    clock.advance(60)
    publish_snapshot(store, LINE, "adapted-1", snapshot("adapted-1"), "fit-1")
    overview.refresh()
    assert overview.summary(LINE).attention is Attention.NONE
    assert [each.version for each in overview.gauges(LINE)] == ["adapted-1", "fit-1"]


def test_a_problem_with_a_gauge_ends_with_the_next_one(store: Store, overview: Overview, clock: SetClock) -> None:
    fitted(store)
    clock.advance(60)
    store.log.append([alert(LINE, AlertKind.SNAPSHOT_INVALID, "x", clock.now(), "The snapshot is damaged.")])
    overview.refresh()
    assert overview.summary(LINE).reason == "The snapshot is damaged."
    clock.advance(60)
    publish_snapshot(store, LINE, "fit-2", snapshot("fit-2"), "fit-1")
    overview.refresh()
    assert overview.summary(LINE).attention is Attention.NONE


def test_an_alert_that_comes_again_with_a_higher_count_replaces_itself(store: Store, overview: Overview) -> None:
    for count in (1, 8, 5):
        store.log.append([alert(LINE, AlertKind.REJECT, "minute", START, f"{count} rejected", count)])
    overview.refresh()
    assert [each.count for each in overview.alerts(LINE)] == [8]


def test_a_worker_whose_clock_is_ahead_moves_no_minute(store: Store, overview: Overview) -> None:
    ahead = verdict(0, scored_at=START + timedelta(days=1))
    append_verdicts(store.log, [ahead, *(verdict(n) for n in range(1, 6))])
    overview.refresh()
    found = overview.summary(LINE)
    assert (found.images, found.rate) == (6, 2.0)


def test_late_verdicts_of_days_ago_call_nobody(store: Store, overview: Overview, clock: SetClock) -> None:
    fitted(store)
    append_verdicts(store.log, [verdict(0, late=True)])
    overview.refresh()
    assert overview.summary(LINE).attention is Attention.LATE
    clock.advance(9 * 86_400)
    assert overview.summary(LINE).attention is Attention.NONE


def test_a_broker_that_hangs_keeps_nobody_from_what_was_read(
    store: Store, overview: Overview, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_verdicts(store.log, [verdict(0)])
    overview.refresh()
    hangs, goes_on = threading.Event(), threading.Event()

    def bounds(topic: str) -> list[tuple[int, int]]:
        hangs.set()
        goes_on.wait()
        raise Unavailable("The broker is away.", "Wait.")

    monkeypatch.setattr(store.log, "bounds", bounds)
    with ThreadPoolExecutor(2) as threads:
        looking = threads.submit(overview.refresh)
        assert hangs.wait(timeout=60)
        asked = threads.submit(overview.summaries)
        assert [each.line for each in asked.result(timeout=60)] == [LINE]
        goes_on.set()
        with pytest.raises(Unavailable):
            looking.result()


def test_records_of_another_schema_hide_none_of_ours(store: Store, overview: Overview) -> None:
    fitted(store)
    store.log.append([Outgoing(topic, LINE, b"{}") for topic in (ADAPTATIONS, ALERTS, SNAPSHOTS)])
    store.log.append([TRIGGER.proposed()])
    overview.refresh()
    assert len(overview.proposals()) == 1
    assert approved(store.log, TRIGGER.request.request_id, "mara", AT).approved


def test_of_two_answers_at_once_one_holds(store: Store) -> None:
    """Yes and no are both found to be free before either is given."""
    fitted(store)
    for number in range(20):
        trigger = Trigger(LINE, Reason.DRIFT, f"image-{number}", AT, "the light rose")
        store.log.append([trigger.proposed()])
        request = approved(store.log, trigger.request.request_id, "mara", AT)
        with ThreadPoolExecutor(2) as people:
            answers: list[Future[Any]] = [
                people.submit(send, store, request),
                people.submit(refuse, store, request.request_id, "lee", "no"),
            ]
        assert sum(answer.exception() is None for answer in answers) == 1
    said = [change.action for change in latest_changes(store, 100)]
    assert len(said) == 20
    assert len(store.log.read(ADAPTATIONS, 0, 0, 100)) == said.count("approve")


def test_an_unknown_line_is_said(overview: Overview) -> None:
    for ask in (overview.summary, overview.samples, overview.flagged, overview.gauges):
        with pytest.raises(UserError, match="flowgauge lines list"):
            ask("nowhere")


def test_a_recent_verdict_is_found_whole_by_its_id(store: Store, overview: Overview) -> None:
    sent = [verdict(n, verdict_id=uuid4()) for n in range(700)]
    append_verdicts(store.log, sent)
    overview.refresh()
    assert overview.verdict(sent[-1].verdict_id) == sent[-1]
    assert overview.verdict(sent[0].verdict_id) is None, "the oldest make room, and the archive has them"
    rejected = verdict(700, verdict_id=uuid4(), decision=Decision.REJECT)
    append_verdicts(store.log, [rejected, *(verdict(n, verdict_id=uuid4()) for n in range(701, 1_500))])
    overview.refresh()
    assert overview.verdict(rejected.verdict_id) == rejected, "a gallery shows it after any number of passes"
    assert overview.verdict(uuid4()) is None


def test_the_history_of_a_span_joins_the_archive_and_what_it_does_not_have_yet(
    store: Store, overview: Overview
) -> None:
    sent = [
        verdict(n, verdict_id=uuid4(), decision=Decision.REJECT if n % 50 == 0 else Decision.PASS) for n in range(300)
    ]
    append_verdicts(store.log, sent[:256])
    worker = Worker(Archive(store, 64), store.log, store.clock, 64)
    while worker.step():
        pass
    worker.flush()
    append_verdicts(store.log, sent[256:])
    overview.refresh()
    recent = overview.samples(LINE)[-60:]
    whole = history(store.objects, LINE, START, START + timedelta(hours=1), recent, 1_000)
    assert [sample.verdict_id for sample in whole.samples] == [each.verdict_id for each in sent]
    elsewhere = START.astimezone(timezone(timedelta(hours=14)))
    same = history(store.objects, LINE, elsewhere, elsewhere + timedelta(hours=1), [], 1_000)
    assert len(same.samples) == 256, "whatever zone the span is written in"
    assert history(store.objects, "other", START, START + timedelta(hours=1), [], 10).samples == []
    thin = history(store.objects, LINE, START, START + timedelta(seconds=200), recent, 40)
    assert thin.images == 200
    rejects = [sample for sample in thin.samples if sample.decision is Decision.REJECT]
    assert len(rejects) == 4, "all of them stay"
    assert 30 <= len(thin.samples) - len(rejects) <= 40
    with pytest.raises(UserError, match="31 days"):
        history(store.objects, LINE, START, START + timedelta(days=60), [], 10)


def test_changes_are_kept_one_by_one_and_listed_newest_first(store: Store, clock: SetClock) -> None:
    for day in range(3):
        with recorded(store, "mara", "settings", LINE, "", {"policy": "auto"}, {"policy": "off", "day": day}):
            clock.advance(1)
        with recorded(store, "lee", "replay", None, "0/7"):
            clock.advance(86_400)
    found = latest_changes(store, 10)
    assert [each.by for each in found] == ["lee", "mara"] * 3
    assert [each.after["day"] for each in latest_changes(store, 2, LINE)] == [2, 1]
    store.objects.put("changes/2026-03-01/damaged.json", b"{")
    assert len(latest_changes(store, 10)) == 6
