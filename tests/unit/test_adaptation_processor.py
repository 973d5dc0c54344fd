from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import cast
from uuid import UUID, uuid5

import pytest

from flowgauge.adaptation.contract import Adapt, AdaptationInput, AdaptationOutcome, adaptation_seed, adapted_version
from flowgauge.domain.dead_letters import REASON
from flowgauge.domain.errors import DatasetError, Unavailable
from flowgauge.domain.golden import Label, is_hold_out
from flowgauge.domain.messages import (
    ADAPTATIONS,
    DEAD_LETTERS,
    SNAPSHOTS,
    AdaptationRequest,
    AlertKind,
    Expected,
    Reason,
    TrialRules,
)
from flowgauge.domain.object_keys import adaptation_object, image_object, line_settings_object
from flowgauge.domain.ports import Buffered, Log, Outgoing, Record
from flowgauge.domain.trace import Round
from flowgauge.processors.adaptation import Adaptation, audit, audits, coalesced, request_adaptation
from flowgauge.registry.golden_sets import add_golden
from flowgauge.registry.lines import set_line
from flowgauge.registry.snapshots import active_snapshot, announcements, fetch_snapshot, roll_back, store_snapshot
from flowgauge.registry.trials import begin_trial
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.services.decisions import Decisions
from flowgauge.services.status import line_statuses
from flowgauge.services.trials import stop_trial
from tests.support.failing import Failing
from tests.support.streaming import LINE, START, SetClock, adapt, fitted, load, opened, png, records, refuse, snapshot

MINIMUM = 4


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Iterator[Store]:
    with fitted(opened(tmp_path / "plant", clock)) as store:
        set_line(store.objects, LINE, buffer_minimum=MINIMUM)
        yield store


def asked(number: int = 0, line: str = LINE, reason: Reason = Reason.DRIFT) -> AdaptationRequest:
    return AdaptationRequest(
        request_id=uuid5(UUID(int=0), str(number)), line=line, reason=reason, requested_at=START, requested_by="test"
    )


def fill(store: Store, images: int, brightness: int = 120) -> None:
    for number in range(images):
        name = image_object(LINE, START, f"{number}")
        data = png(brightness, seed=number)
        entry = Buffered(f"{number}", store.objects.put(name, data), f"sha-{number}", START, 1.0, "pass", "")
        store.state.buffer_add(LINE, [entry], 100)


def work(store: Store, how: Adapt = adapt) -> Worker:
    """A new adaptation worker, as after a restart, works off what is there."""
    worker = Worker(Adaptation(store, load, how, "test"), store.log, store.clock, 16)
    while worker.step():
        pass
    return worker


def alert_kinds(store: Store) -> list[AlertKind]:
    return [each.kind for each in alerts(store.log)]


def versions(store: Store) -> list[str]:
    return [message.version for message in announcements(store.log, LINE)]


class Spy:
    def __init__(self) -> None:
        self.given: list[AdaptationInput] = []

    def __call__(self, given: AdaptationInput) -> AdaptationOutcome:
        self.given.append(given)
        return adapt(given)


def test_what_is_no_request_is_a_dead_letter_and_the_next_is_carried_out(store: Store) -> None:
    fill(store, MINIMUM)
    store.log.append([Outgoing(ADAPTATIONS, LINE, b"adapt, please")])
    request_adaptation(store, asked())
    work(store)
    assert versions(store)[-1] == adapted_version(asked())
    (letter,) = records(store.log, DEAD_LETTERS)
    assert letter.headers[REASON].startswith("This is no request to adapt")


def test_an_accepted_candidate_is_stored_recorded_announced_and_reported(store: Store) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    work(store)
    version = adapted_version(asked())
    active = active_snapshot(store.log, LINE)
    assert (active.version, active.epoch, active.parent) == (version, 2, "fit-1")
    files = fetch_snapshot(store.objects, LINE, version)
    assert active.sha256 == files.sha256
    assert load(files.manifest, files.weights).threshold == pytest.approx(170, abs=2)
    report = audit(store, LINE, version)
    assert report is not None
    assert (report.accepted, report.anchor, report.parent, report.trace.trained) == (
        True,
        "fit-1",
        "fit-1",
        MINIMUM,
    )
    assert alert_kinds(store) == [AlertKind.ADAPTATION_ACCEPTED]


def test_a_refused_candidate_is_recorded_and_reported_with_its_reasons_and_the_gauge_stays(store: Store) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    work(store, refuse)
    assert versions(store) == ["fit-1"]
    [report] = audits(store, LINE)
    assert not report.accepted
    [alert] = alerts(store.log)
    assert alert.kind is AlertKind.ADAPTATION_REFUSED
    assert "It misses synthetic anomalies." in alert.message


def test_a_buffer_that_is_too_small_is_refused_and_says_how_many_it_lacks(store: Store) -> None:
    fill(store, MINIMUM - 3)
    request_adaptation(store, asked())
    work(store)
    [alert] = alerts(store.log)
    assert "holds 1 images that may train, 3 too few" in alert.message
    assert versions(store) == ["fit-1"]


def test_a_line_without_a_gauge_is_refused(store: Store) -> None:
    request_adaptation(store, asked(line="new"))
    work(store)
    assert "has no gauge yet" in alerts(store.log)[0].message


def test_an_adaptation_is_given_anchor_parent_and_buffer_in_order_of_capture(store: Store) -> None:
    fill(store, MINIMUM)
    spy = Spy()
    for number in range(2):
        request_adaptation(store, asked(number))
        work(store, spy)
    first, second = spy.given
    assert first.anchor is first.parent
    assert (second.anchor.version, second.parent.version) == ("fit-1", adapted_version(asked(0)))
    assert [entry.image_id for entry, _ in second.buffered] == ["0", "1", "2", "3"]
    assert (second.version, second.seed) == (adapted_version(asked(1)), adaptation_seed(asked(1)))


def test_a_redelivered_request_changes_nothing(store: Store) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    work(store)
    spy = Spy()
    store.log.commit("adaptation", ADAPTATIONS, 0, 0)
    work(store, spy)
    assert spy.given == []
    assert versions(store) == ["fit-1", adapted_version(asked())]


def test_a_damaged_record_of_an_adaptation_ends_no_worker_and_hides_no_other(store: Store) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    work(store)
    store.objects.put(adaptation_object(LINE, adapted_version(asked())), b"{")
    store.log.commit("adaptation", ADAPTATIONS, 0, 0)
    request_adaptation(store, asked(1))
    work(store)
    assert [report.request for report in audits(store, LINE)] == [asked(1)]
    assert [status.accepted for status in line_statuses(store)] == [True]


def test_a_redelivered_request_does_not_undo_a_rollback(store: Store) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    work(store)
    roll_back(store, LINE, "fit-1")
    store.log.commit("adaptation", ADAPTATIONS, 0, 0)
    work(store)
    assert active_snapshot(store.log, LINE).version == "fit-1"


def test_a_kill_between_record_and_announcement_announces_at_the_restart(store: Store, clock: SetClock) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    processor = Adaptation(store, load, adapt, "test")
    Worker(processor, Failing(store.log, ["append"], 1_000), clock, 16).step()
    assert versions(store) == ["fit-1"]
    spy = Spy()
    work(store, spy)
    assert spy.given == []
    assert versions(store) == ["fit-1", adapted_version(asked())]
    assert alert_kinds(store) == [AlertKind.ADAPTATION_ACCEPTED]


def test_a_decision_that_cannot_be_announced_is_refused_and_ends_no_worker(store: Store, clock: SetClock) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    processor = Adaptation(store, load, adapt, "test")
    Worker(processor, Failing(store.log, ["append"], 1_000), clock, 16).step()
    store.objects.put(line_settings_object(LINE), b'{"cool_down_seconds": null}')
    work(store)
    assert versions(store) == ["fit-1"]
    [refused] = alerts(store.log)
    assert refused.kind is AlertKind.ADAPTATION_REFUSED
    assert f"flowgauge lines set {LINE}" in refused.message


def test_a_gauge_that_a_person_made_meanwhile_stays(store: Store) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())

    def overtaken(given: AdaptationInput) -> AdaptationOutcome:
        fitted(store, "fit-2")
        return adapt(given)

    work(store, overtaken)
    assert versions(store) == ["fit-1", "fit-2"]
    assert "Meanwhile fit-2 became the line's gauge" in alerts(store.log)[-1].message


@pytest.mark.parametrize("policy", ["auto", "shadow"])
def test_a_trial_that_a_person_began_meanwhile_goes_on(store: Store, policy: str) -> None:
    set_line(store.objects, LINE, policy=policy)
    fill(store, MINIMUM)
    request_adaptation(store, asked())

    def overtaken(given: AdaptationInput) -> AdaptationOutcome:
        store_snapshot(store.objects, LINE, "fit-2", snapshot("fit-2"))
        begin_trial(store, LINE, "fit-2", "a person", Expected.SAME, TrialRules())
        return adapt(given)

    work(store, overtaken)
    active = active_snapshot(store.log, LINE)
    assert (active.version, active.trial and active.trial.version) == ("fit-1", "fit-2")
    assert "Meanwhile fit-2 went on trial" in alerts(store.log)[-1].message


def test_a_redelivered_request_is_not_tried_again_once_its_trial_is_compacted(store: Store) -> None:
    set_line(store.objects, LINE, policy="shadow")
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    work(store)
    trial = active_snapshot(store.log, LINE).trial
    assert trial is not None
    stop_trial(store, LINE, trial.short_id, "a person", "it is worse")
    store.log.commit("adaptation", ADAPTATIONS, 0, 0)
    compacted = replace(store, log=cast(Log, Compacted(store.log)))
    work(compacted)
    assert active_snapshot(store.log, LINE).trial is None


class Compacted:
    """A log that has lost all but the last announcement of each line."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        found = self._log.read(topic, partition, offset, limit)
        last = {record.key: record.offset for record in records(self._log, topic, partition)}
        return [record for record in found if topic != SNAPSHOTS or last[record.key] == record.offset]


def test_requests_of_one_batch_coalesce_and_a_person_s_comes_first() -> None:
    requests = [asked(0), asked(1, reason=Reason.PERSON), asked(2), asked(3, "other"), asked(4, "other")]
    assert coalesced(requests) == [requests[1], requests[4]]


def test_what_a_person_approved_counts_as_theirs() -> None:
    approved = asked(0).model_copy(update={"approved": True})
    assert coalesced([asked(1), approved, asked(2)]) == [approved]


def test_a_request_that_was_left_out_for_another_is_reported_and_the_other_is_decided(store: Store) -> None:
    fill(store, MINIMUM)
    mine = asked(1, reason=Reason.PERSON)
    decisions = Decisions(store.log)
    for request in (asked(0), mine, mine, asked(2)):
        request_adaptation(store, request)
    work(store)
    assert alert_kinds(store) == [AlertKind.ADAPTATION_COALESCED] * 2 + [AlertKind.ADAPTATION_ACCEPTED]
    assert versions(store) == ["fit-1", adapted_version(mine)]
    for number in (0, 2):
        decided = decisions.of(asked(number))
        assert decided is not None
        assert decided == decisions.of(mine)
        assert decisions.instead(asked(number)) == mine.request_id


def test_a_request_that_comes_again_after_its_decision_is_not_reported_to_be_left_out(store: Store) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked(0))
    work(store)
    request_adaptation(store, asked(1))
    store.log.commit("adaptation", ADAPTATIONS, 0, 0)
    work(store)
    assert alert_kinds(store) == [AlertKind.ADAPTATION_ACCEPTED] * 2


def test_a_request_after_one_of_a_person_that_comes_again_decided_is_carried_out(store: Store) -> None:
    fill(store, MINIMUM)
    mine = asked(0, reason=Reason.PERSON)
    request_adaptation(store, mine)
    work(store)
    request_adaptation(store, asked(1))
    store.log.commit("adaptation", ADAPTATIONS, 0, 0)
    work(store)
    assert versions(store) == ["fit-1", adapted_version(mine), adapted_version(asked(1))]
    assert alert_kinds(store) == [AlertKind.ADAPTATION_ACCEPTED] * 2


def test_a_request_that_was_left_out_before_a_kill_is_left_out_again(store: Store, clock: SetClock) -> None:
    fill(store, MINIMUM)
    for request in (asked(0), asked(1, reason=Reason.PERSON)):
        request_adaptation(store, request)
    Worker(Adaptation(store, load, adapt, "test"), Failing(store.log, ["append"], 1_000), clock, 16).step()
    request_adaptation(store, asked(2))
    work(store)
    assert versions(store) == ["fit-1", adapted_version(asked(1)), adapted_version(asked(2))]
    assert alert_kinds(store) == [AlertKind.ADAPTATION_COALESCED] + [AlertKind.ADAPTATION_ACCEPTED] * 2


def test_a_line_has_its_new_gauge_before_the_next_line_of_the_batch_adapts(store: Store) -> None:
    fill(store, MINIMUM)
    fitted(store, "fit-1", line="other")
    set_line(store.objects, "other", buffer_minimum=MINIMUM)
    store.state.buffer_add("other", store.state.buffer(LINE), 100)
    for number, line in enumerate((LINE, "other", LINE)):
        request_adaptation(store, asked(number, line))
    seen: list[tuple[str, str]] = []

    def looking(given: AdaptationInput) -> AdaptationOutcome:
        seen.append((given.line, active_snapshot(store.log, LINE).version))
        return adapt(given)

    work(store, looking)
    assert seen == [(LINE, "fit-1"), ("other", adapted_version(asked(2)))]


def test_what_was_decided_of_one_line_is_not_repeated_while_the_next_waits(store: Store, clock: SetClock) -> None:
    fill(store, MINIMUM)
    fitted(store, "fit-1", line="other")
    for line in (LINE, "other"):
        request_adaptation(store, asked(line=line))
    store.state.lease("adaptation/other", "another", 60)
    worker = work(store, refuse)
    for _ in range(4):
        clock.advance(30)
        worker.step()
    assert [each.line for each in alerts(store.log)] == [LINE, "other"]
    assert store.log.position("adaptation", ADAPTATIONS, 0) == 2


@pytest.mark.parametrize("error", [ValueError("singular"), DatasetError("All were rejected.", "Look at them.")])
def test_an_adaptation_that_fails_is_refused_loudly_and_the_gauge_stays(store: Store, error: Exception) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())

    def failing(given: AdaptationInput) -> AdaptationOutcome:
        raise error

    work(store, failing)
    [alert] = alerts(store.log)
    assert str(error) in alert.message
    assert versions(store) == ["fit-1"]


def test_an_adaptation_waits_for_a_store_that_is_away(store: Store, clock: SetClock) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    objects = Failing(store.objects, ["get", "put"], times=7)
    broken = Store(store.uri, store.log, objects, store.state, clock)
    worker = Worker(Adaptation(broken, load, adapt, "test"), store.log, clock, 16)
    for _ in range(12):
        worker.step()
        clock.advance(20)
    assert versions(store) == ["fit-1", adapted_version(asked())]
    assert alert_kinds(store) == [AlertKind.ADAPTATION_ACCEPTED]


def test_another_worker_s_adaptation_of_the_same_line_is_waited_for(store: Store, clock: SetClock) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    store.state.lease(f"adaptation/{LINE}", "another", 60)
    assert isinstance(work(store).error, Unavailable)
    clock.advance(61)
    work(store)
    assert versions(store)[-1] == adapted_version(asked())


def test_what_another_worker_decided_meanwhile_is_not_decided_again(store: Store) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())

    def overtaken(given: AdaptationInput) -> AdaptationOutcome:
        """Frozen for longer than its lease, while the buffer changed and another worker was given the request."""
        store.state.release(f"adaptation/{LINE}", "test")
        fill(store, 2 * MINIMUM, brightness=90)
        records = store.log.read(ADAPTATIONS, 0, 0, 1)
        store.log.append(Adaptation(store, load, adapt, "another").process(records))
        return adapt(given)

    work(store, overtaken)
    (announced,) = (each for each in announcements(store.log, LINE) if each.version == adapted_version(asked()))
    assert fetch_snapshot(store.objects, LINE, announced.version).sha256 == announced.sha256
    assert alert_kinds(store).count(AlertKind.ADAPTATION_ACCEPTED) == 1


def test_a_stop_gives_the_adaptation_up_and_it_begins_anew_at_the_next_start(store: Store) -> None:
    fill(store, MINIMUM)
    request_adaptation(store, asked())
    worker = Worker(Adaptation(store, load, adapt, "test", stopping=lambda: True), store.log, store.clock, 16)
    worker.step()
    assert versions(store) == ["fit-1"]
    work(store)
    assert versions(store)[-1] == adapted_version(asked())


def test_images_whose_retention_has_passed_do_not_train(store: Store) -> None:
    fill(store, MINIMUM + 1)
    store.objects.delete(image_object(LINE, START, "0"))
    request_adaptation(store, asked())
    spy = Spy()
    work(store, spy)
    assert [entry.image_id for entry, _ in spy.given[0].buffered] == ["1", "2", "3", "4"]


def test_the_record_tells_suspects_apart_that_two_cameras_gave_one_id(store: Store) -> None:
    fill(store, MINIMUM)
    first, *_ = store.state.buffer(LINE)
    data = png(120, seed=99)
    name = image_object(LINE, START, first.image_id, source="urn:second-camera")
    second = replace(first, image_uri=store.objects.put(name, data), image_sha256="sha-second")
    store.state.buffer_add(LINE, [second], 100)

    def rejecting(given: AdaptationInput) -> AdaptationOutcome:
        outcome = adapt(given)
        suspect = Round(rule="iqr", threshold=1.0, kept=MINIMUM, rejected=(second.image_uri,))
        return replace(outcome, trace=outcome.trace.model_copy(update={"rounds": (suspect,)}))

    request_adaptation(store, asked())
    work(store, rejecting)
    [report] = audits(store, LINE)
    assert report.rejected_uris == {second.image_uri: second.image_uri}
    assert {first.image_uri, second.image_uri} < set(report.buffered)


def test_images_from_before_the_change_do_not_train(store: Store) -> None:
    for number in range(12):
        at = START + timedelta(minutes=number)
        name = image_object(LINE, at, f"{number}")
        uri = store.objects.put(name, png(120, seed=number))
        store.state.buffer_add(LINE, [Buffered(f"{number}", uri, f"sha-{number}", at, 1.0, "pass", "")], 100)
    spy = Spy()
    since = START + timedelta(minutes=5)
    request_adaptation(store, asked().model_copy(update={"since": since}))
    work(store, spy)
    assert [entry.image_id for entry, _ in spy.given[0].buffered] == ["5", "6", "7", "8", "9", "10", "11"]


def test_golden_images_test_by_halves_and_never_train(store: Store) -> None:
    fill(store, MINIMUM)
    ids = [f"golden-{number}" for number in range(12)]
    for number, image_id in enumerate(ids):
        add_golden(store.objects, LINE, Label.GOOD, image_id, png(100, seed=100 + number))
    shown = png(130, seed=77)
    add_golden(store.objects, LINE, Label.DEFECT, "shown", shown)
    entry = Buffered("shown", store.objects.put("images/x", shown), sha256(shown).hexdigest(), START, 1.0, "reject", "")
    store.state.buffer_add(LINE, [entry], 100)
    request_adaptation(store, asked())
    spy = Spy()
    work(store, spy)
    [given] = spy.given
    assert "shown" not in [each.image_id for each, _ in given.buffered]
    assert len(given.golden_good) == sum(map(is_hold_out, ids))
    assert 0 < len(given.golden_good) < 12


def test_golden_images_that_get_another_label_while_an_adaptation_reads_them_refuse_none_and_do_not_train(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, MINIMUM)
    for number in range(12):
        add_golden(store.objects, LINE, Label.DEFECT, f"golden-{number}", png(200, seed=100 + number))
    shown = png(200, seed=100)
    entry = Buffered("shown", store.objects.put("images/x", shown), sha256(shown).hexdigest(), START, 1.0, "reject", "")
    store.state.buffer_add(LINE, [entry], 100)
    get, gone, spy = store.objects.get, list[str](), Spy()

    def relabelled(name: str) -> bytes:
        """Somebody says that each defect is good just before it is read."""
        if name.startswith(f"golden/{LINE}/defect/") and name not in gone:
            gone.append(name)
            add_golden(store.objects, LINE, Label.GOOD, name.rpartition("/")[2], get(name))
        return get(name)

    monkeypatch.setattr(store.objects, "get", relabelled)
    request_adaptation(store, asked())
    work(store, spy)
    assert len(gone) == 12
    assert [each.image_id for each, _ in spy.given[0].buffered] == ["0", "1", "2", "3"]
    assert alert_kinds(store) == [AlertKind.ADAPTATION_ACCEPTED]
