from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path

import pytest

from flowgauge.domain.messages import VERDICTS, Decision, Region
from flowgauge.processors.archive import Archive, archived
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from tests.support.failing import Failing
from tests.support.streaming import START, SetClock, append_verdicts, opened, verdict


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return opened(tmp_path, clock)


def archiving(store: Store, rows: int = 8, batch: int = 5) -> Worker:
    return Worker(Archive(store, rows), store.log, store.clock, batch)


def archive(store: Store, rows: int = 8, batch: int = 5) -> None:
    """A new worker, as after a restart, works off what is there and stops."""
    worker = archiving(store, rows, batch)
    while worker.step():
        pass
    assert worker.error is None
    worker.flush()


def offsets(store: Store) -> list[int]:
    return [kept.source.offset for kept in archived(store.objects)]


def files(store: Store) -> list[str]:
    return list(store.objects.names("verdicts/"))


def append(store: Store, numbers: Iterable[int]) -> None:
    append_verdicts(store.log, [verdict(number) for number in numbers])


def test_an_archived_verdict_is_the_verdict(store: Store) -> None:
    full = verdict(
        0,
        decision=Decision.REJECT,
        reasons=("too bright", "twice"),
        regions=(Region(left=1, top=2, right=3, bottom=4, score=0.5),),
        heatmap_uri="store:///heatmaps/x",
        subject="part-7",
    )
    bare = verdict(
        1, score=None, standard_score=None, peak=None, gauge_version=None, image_uri=None, use_for_training=False
    )
    append_verdicts(store.log, [full, bare])
    archive(store)
    assert list(archived(store.objects)) == [full, bare]


def test_files_hold_aligned_stretches_of_offsets_of_one_partition_and_date(store: Store) -> None:
    append(store, range(20))
    archive(store)
    assert files(store) == [f"verdicts/date=2026-03-01/0-{first:012d}.parquet" for first in (0, 8, 16)]
    assert offsets(store) == list(range(20))


def test_a_stretch_over_midnight_makes_one_file_per_date_of_capture(store: Store) -> None:
    days = [START + timedelta(days=number % 2) for number in range(6)]
    append_verdicts(store.log, [verdict(number, captured_at=at) for number, at in enumerate(days)])
    archive(store)
    assert len(files(store)) == 2
    assert [kept.source.offset for kept in archived(store.objects, day=date(2026, 3, 2))] == [1, 3, 5]


@pytest.mark.parametrize("batch", [1, 3, 8, 30])
def test_restarts_at_any_point_hold_each_verdict_once(store: Store, batch: int) -> None:
    for start in range(0, 30, 7):
        append(store, range(start, min(start + 7, 30)))
        archive(store, batch=batch)
    assert offsets(store) == list(range(30))


def test_a_replay_from_the_beginning_rewrites_the_same_files(store: Store) -> None:
    append(store, range(20))
    archive(store)
    before = {name: store.objects.get(name) for name in files(store)}
    store.log.commit("archive", VERDICTS, 0, 0)
    archive(store, batch=3)
    assert {name: store.objects.get(name) for name in files(store)} == before


def test_a_restart_that_gets_half_way_takes_nothing_back(store: Store) -> None:
    append(store, range(7))
    archive(store)
    successor = archiving(store, batch=5)
    successor.step()
    successor.flush()
    assert offsets(store) == list(range(7))


def test_void_verdicts_are_not_archived(store: Store) -> None:
    append(store, [0, 1, 2, 1, 2, 3, 4, 5, 6, 7, 8, 3, 9])
    archive(store, rows=4)
    assert offsets(store) == list(range(10))


def test_only_the_start_of_the_open_stretch_is_committed(store: Store) -> None:
    append(store, range(13))
    archive(store)
    assert store.log.position("archive", VERDICTS, 0) == 8


def test_a_slow_line_is_archived_after_half_a_minute_though_its_stretch_is_open(store: Store, clock: SetClock) -> None:
    worker = archiving(store)
    append(store, [0])
    worker.step()
    worker.step()
    append(store, [1])
    worker.step()
    worker.step()
    assert offsets(store) == [0]
    clock.advance(31)
    worker.step()
    assert offsets(store) == [0, 1]


def test_a_clock_that_is_set_back_does_not_hold_the_archive_up(store: Store, clock: SetClock) -> None:
    worker = archiving(store)
    append(store, [0])
    worker.step()
    worker.step()
    clock.advance(-3_600)
    append(store, [1])
    worker.step()
    worker.step()
    assert offsets(store) == [0, 1]


@pytest.mark.parametrize("failures", range(1, 6))
def test_a_store_that_is_away_for_a_while_loses_and_repeats_nothing(
    store: Store, clock: SetClock, failures: int
) -> None:
    append(store, range(30))
    objects = Failing(store.objects, ["put"], failures)
    broken = Store(store.uri, store.log, objects, store.state, clock)
    worker = archiving(broken, rows=4, batch=13)
    for _ in range(20):
        worker.step()
        clock.advance(40)
    worker.flush()
    assert objects.left == 0
    assert offsets(store) == list(range(30))


def test_the_archive_is_read_by_line(store: Store) -> None:
    append_verdicts(store.log, [verdict(0), verdict(1, line="other")])
    archive(store)
    assert [kept.source.offset for kept in archived(store.objects, line="other")] == [1]
