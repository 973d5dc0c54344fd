from datetime import timedelta
from pathlib import Path

import pytest

from flowgauge.domain.dead_letters import REASON, dead_letter
from flowgauge.domain.messages import ALERTS, DEAD_LETTERS, VERDICTS, Alert, AlertKind, Decision
from flowgauge.domain.ports import Outgoing
from flowgauge.processors.alerting import Alerting
from flowgauge.processors.scoring import NO_GAUGE
from flowgauge.runtime.alerts import NO_LINE, alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from tests.support.failing import Failing
from tests.support.streaming import LINE, SetClock, append_verdicts, opened, records, verdict


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return opened(tmp_path, clock)


def alerting(store: Store) -> Worker:
    return Worker(Alerting(store), store.log, store.clock, 16)


def work(worker: Worker) -> None:
    while worker.step():
        pass
    assert worker.error is None


def append_rejects(store: Store, *offsets: int) -> None:
    append_verdicts(store.log, [verdict(offset, decision=Decision.REJECT) for offset in offsets])


def alert_counts(store: Store) -> list[tuple[AlertKind, int]]:
    return [(each.kind, each.count) for each in alerts(store.log)]


def raw(store: Store) -> list[Alert]:
    return [Alert.decode(record.value) for record in records(store.log, ALERTS)]


def test_the_first_reject_is_reported_at_once(store: Store) -> None:
    append_rejects(store, 0)
    work(alerting(store))
    assert alert_counts(store) == [(AlertKind.REJECT, 1)]
    assert "1 rejected, the first is image-0000" in alerts(store.log)[0].message


def test_passes_and_ordinary_reviews_are_no_alerts(store: Store) -> None:
    append_verdicts(store.log, [verdict(0), verdict(1, decision=Decision.REVIEW, reasons=("close",))])
    work(alerting(store))
    assert alert_counts(store) == []


def test_a_window_stays_open_for_records_that_are_still_to_be_read_whatever_the_clock_says(
    store: Store, clock: SetClock
) -> None:
    append_rejects(store, 0, 1, 2)
    first, *rest = records(store.log, VERDICTS)
    clock.advance(3_600)
    lagging = Alerting(store)
    lagging.process([first])
    assert lagging.punctuate(clock.now()) == []
    lagging.process(rest)
    (last,) = lagging.punctuate(clock.now())
    assert Alert.decode(last.value).count == 3


def test_many_rejects_in_one_window_are_one_alert_with_a_count(store: Store, clock: SetClock) -> None:
    worker = alerting(store)
    append_rejects(store, *range(20))
    work(worker)
    clock.advance(66)
    work(worker)
    assert alert_counts(store) == [(AlertKind.REJECT, 20)]
    assert len(raw(store)) == 2
    assert len({each.alert_id for each in raw(store)}) == 1
    assert len(raw(store)[-1].detail["examples"]) == 10


def test_a_record_that_is_shown_late_still_counts_in_its_window(store: Store, clock: SetClock) -> None:
    worker = alerting(store)
    append_rejects(store, 0)
    clock.advance(62)
    work(worker)
    clock.advance(-4)  # appended before the window's end, by another machine, and visible only now
    append_rejects(store, 1)
    clock.advance(10)
    work(worker)
    work(worker)
    assert alert_counts(store) == [(AlertKind.REJECT, 2)]


def test_a_worker_whose_clock_is_ahead_loses_none_of_a_count(store: Store, clock: SetClock) -> None:
    worker = Alerting(store)
    for offset in range(4):
        append_rejects(store, offset)
        store.log.append(worker.process(records(store.log, VERDICTS)[offset:]))
        store.log.append(worker.punctuate(clock.now() + timedelta(hours=1)))
    assert alert_counts(store) == [(AlertKind.REJECT, 4)]


def test_each_window_has_its_own_alert(store: Store, clock: SetClock) -> None:
    worker = alerting(store)
    for offset in range(3):
        append_rejects(store, offset)
        work(worker)
        clock.advance(66)
    assert alert_counts(store) == [(AlertKind.REJECT, 1)] * 3


def test_a_window_closes_when_a_later_record_comes_though_nothing_is_ever_idle(store: Store, clock: SetClock) -> None:
    worker = alerting(store)
    append_rejects(store, 0, 1)
    worker.step()
    clock.advance(66)
    append_verdicts(store.log, [verdict(2)])
    worker.step()
    assert alert_counts(store) == [(AlertKind.REJECT, 2)]


def committed(store: Store, topic: str) -> int:
    return store.log.position("alerting", topic, 0)


def test_a_window_that_has_passed_is_committed_though_nothing_comes_after_it(store: Store, clock: SetClock) -> None:
    worker = alerting(store)
    append_rejects(store, 0, 1)
    store.log.append([dead_letter(LINE, b"", {"ce_id": "x"}, "The image is empty.")] * 3)
    work(worker)
    clock.advance(64)
    work(worker)
    assert (committed(store, VERDICTS), committed(store, DEAD_LETTERS)) == (0, 0), "a record may still be shown late"
    clock.advance(2)
    work(worker)
    assert (committed(store, VERDICTS), committed(store, DEAD_LETTERS)) == (2, 3)
    successor = alerting(store)
    reported = raw(store)
    work(successor)
    assert raw(store) == reported


def test_a_window_that_has_passed_is_not_committed_before_all_that_is_there_is_read(
    store: Store, clock: SetClock
) -> None:
    append_rejects(store, 0, 1)
    first, second = records(store.log, VERDICTS)
    clock.advance(3_600)
    lagging = Alerting(store)
    lagging.process([first])
    lagging.punctuate(clock.now())
    assert lagging.committable_offset(VERDICTS, 0, 1) == 0
    lagging.process([second])
    lagging.punctuate(clock.now())
    assert lagging.committable_offset(VERDICTS, 0, 2) == 2


def test_a_kill_in_the_middle_of_a_window_counts_nothing_twice(store: Store, clock: SetClock) -> None:
    append_rejects(store, 0, 1)
    work(alerting(store))
    append_rejects(store, 2)
    successor = alerting(store)
    work(successor)
    clock.advance(66)
    work(successor)
    assert alert_counts(store) == [(AlertKind.REJECT, 3)]


def test_a_restart_that_gets_half_way_takes_nothing_back(store: Store) -> None:
    append_rejects(store, *range(20))
    worker = alerting(store)
    work(worker)
    worker.flush()
    successor = alerting(store)
    successor.step()  # 16 of them
    successor.flush()
    assert alert_counts(store) == [(AlertKind.REJECT, 20)]


def test_a_count_that_cannot_be_reported_when_it_is_due_is_reported_later_and_committed_then(
    store: Store, clock: SetClock
) -> None:
    log = Failing(store.log, ["append"], times=0)
    worker = Worker(Alerting(store), log, store.clock, 16)
    append_rejects(store, 0, 1)
    work(worker)
    clock.advance(66)
    log.left = 1
    worker.step()
    assert worker.error is not None
    assert committed(store, VERDICTS) == 0
    clock.advance(20)
    work(worker)
    assert alert_counts(store) == [(AlertKind.REJECT, 2)]
    assert committed(store, VERDICTS) == 2


def test_a_repeated_verdict_is_not_counted(store: Store, clock: SetClock) -> None:
    worker = alerting(store)
    append_rejects(store, 0, 1, 0, 1)
    work(worker)
    clock.advance(66)
    work(worker)
    assert alert_counts(store) == [(AlertKind.REJECT, 2)]


def test_a_line_without_a_gauge_is_reported_of_once_per_window(store: Store) -> None:
    append_verdicts(store.log, [verdict(offset, decision=Decision.REVIEW, reasons=(NO_GAUGE,)) for offset in range(5)])
    work(alerting(store))
    assert [each.kind for each in raw(store)] == [AlertKind.NO_GAUGE]
    assert "flowgauge fit" in raw(store)[0].message


def test_dead_letter_are_reported_with_their_reason(store: Store, clock: SetClock) -> None:
    worker = alerting(store)
    store.log.append([dead_letter(LINE, b"", {"ce_id": "x"}, "The image is empty.")] * 3)
    work(worker)
    clock.advance(66)
    work(worker)
    assert alert_counts(store) == [(AlertKind.DEAD_LETTER, 3)]
    assert "The image is empty." in alerts(store.log)[0].message


def test_a_flush_tells_the_count_so_far(store: Store) -> None:
    worker = alerting(store)
    append_rejects(store, 0, 1, 2)
    work(worker)
    worker.flush()
    assert alert_counts(store) == [(AlertKind.REJECT, 3)]


def test_a_foreign_dead_letter_makes_no_alert_that_is_too_long_to_be_written(store: Store) -> None:
    headers = {"ce_id": "x" * 3_000_000, REASON: "y" * 3_000_000}
    store.log.append([Outgoing(DEAD_LETTERS, LINE, b"", headers)])
    work(alerting(store))
    [record] = records(store.log, ALERTS)
    assert len(record.value) < 10_000


def test_what_lies_in_two_partitions_is_counted_whole(tmp_path: Path, clock: SetClock) -> None:
    with opened(tmp_path / "parted", clock, partitions=2) as store:
        for partition, count in ((0, 3), (1, 2)):
            store.log.append([Outgoing(DEAD_LETTERS, "of/nobody", b"", partition=partition)] * count)
        worker = alerting(store)
        work(worker)
        worker.flush()
        assert sum(count for _, count in alert_counts(store)) == 5


@pytest.mark.parametrize("key", ["../etc", "", "x" * 65])
def test_a_dead_letter_whose_key_names_no_line_is_reported_too(store: Store, key: str) -> None:
    store.log.append([dead_letter(key, b"x", {"ce_id": "poison"}, "That cannot name a line.")])
    work(alerting(store))
    (alert,) = alerts(store.log)
    assert (alert.line, alert.kind, alert.count) == (NO_LINE, AlertKind.DEAD_LETTER, 1)
    assert "the first is poison" in alert.message
