from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from flowgauge.domain.messages import VERDICTS, Decision, FrozenModel, Instant, Region, Source, Statistics, Verdict
from flowgauge.local.log import LocalLog
from flowgauge.processors.archive import SCHEMA, Archive, archived, archived_days, columns
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.group_member import Member
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


def test_an_archive_keeps_the_columns_that_it_has_had_from_the_first_file_on() -> None:
    time = "timestamp[us, tz=UTC]"
    box = "left: int32, top: int32, right: int32, bottom: int32, score: double"
    assert {field.name: str(field.type) for field in SCHEMA} == {
        "schema_version": "int32",
        "verdict_id": "string",
        "image_id": "string",
        "image_sha256": "string",
        "image_uri": "string",
        "line": "string",
        "captured_at": time,
        "scored_at": time,
        "late": "bool",
        "score": "double",
        "threshold": "double",
        "decision": "string",
        "reasons": "list<item: string>",
        "gauge_version": "string",
        "detector": "string",
        "regions": f"list<item: struct<{box}>>",
        "heatmap_uri": "string",
        "statistics": "struct<brightness: double, contrast: double, focus: double, fingerprint: string>",
        "source": "struct<topic: string, partition: int32, offset: int64, generation: int64, topic_id: string>",
        "standard_score": "double",
        "peak": "list<item: double>",
        "use_for_training": "bool",
        "subject": "string",
        "arrived_at": time,
        "clock_off": "bool",
        "trial_id": "string",
    }


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        (Verdict, SCHEMA),
        (Region, SCHEMA.field("regions").type.value_type),
        (Statistics, SCHEMA.field("statistics").type),
        (Source, SCHEMA.field("source").type),
    ],
)
def test_every_field_of_a_verdict_has_a_column(model: type[BaseModel], kept: Any) -> None:
    assert [field.name for field in kept] == list(model.model_fields)


def test_a_field_that_is_added_gets_the_column_of_its_type_and_none_is_dropped_in_silence() -> None:
    class More(FrozenModel):
        weight: float | None = None
        camera: int
        serviced_at: Instant | None = None
        boxes: tuple[Region, ...] = ()

    types = {field.name: field.type for field in columns(More)}
    assert (types["weight"], types["camera"]) == (pa.float64(), pa.int64())
    assert types["serviced_at"] == pa.timestamp("us", tz="UTC")
    assert types["boxes"].value_type == SCHEMA.field("regions").type.value_type

    class Unknown(FrozenModel):
        wave: complex

    with pytest.raises(KeyError):
        columns(Unknown)


def test_an_archive_of_before_a_field_was_added_is_read(store: Store) -> None:
    append(store, range(3))
    archive(store)
    [name] = files(store)
    table = pq.read_table(BytesIO(store.objects.get(name)), partitioning=None)
    buffer = BytesIO()
    pq.write_table(table.drop_columns(["clock_off", "arrived_at", "subject"]), buffer)
    store.objects.put(name, buffer.getvalue())
    assert list(archived(store.objects)) == [verdict(number) for number in range(3)]


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


@pytest.mark.parametrize("gone", [2, 7])
def test_what_the_topic_has_let_go_of_stays_in_the_archive(store: Store, gone: int) -> None:
    append(store, range(7))
    archive(store)
    assert isinstance(store.log, LocalLog)
    store.log.trim(VERDICTS, 0, gone)
    for end in (9, 10):
        append(store, range(end - 1, end))
        archive(store)
    assert offsets(store) == [*range(7), 8, 9]


@pytest.mark.parametrize(("gone", "missed"), [(12, 0), (17, 9)])
def test_what_expired_after_it_was_archived_is_not_reported_to_be_missed(store: Store, gone: int, missed: int) -> None:
    append(store, range(15))
    archive(store)
    append(store, range(15, 18))
    assert isinstance(store.log, LocalLog)
    store.log.trim(VERDICTS, 0, gone)
    member = Member(lambda: Archive(store, 8), store.log, store.clock)
    assert member.assigned({(VERDICTS, 0): store.log.position("archive", VERDICTS, 0)}) == {(VERDICTS, 0): gone}
    assert sum(alert.detail["expired"] for alert in alerts(store.log)) == missed


def test_what_a_topic_held_before_it_was_made_anew_stays_in_the_archive(store: Store, tmp_path: Path) -> None:
    append(store, range(5))
    archive(store)
    source = Source(topic="images", partition=0, offset=0, topic_id="another")
    with opened(tmp_path / "anew", SetClock()) as other:
        anew = replace(store, log=other.log)
        append_verdicts(anew.log, [verdict(20, source=source)])
        archive(anew)
        archive(anew)
        assert offsets(store) == [*range(5), 0]


def test_a_damaged_file_of_an_open_stretch_is_written_anew(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    append(store, range(5))
    archive(store)
    [name] = files(store)
    store.objects.put(name, b"")
    append(store, [5])
    archive(store)
    assert offsets(store) == list(range(6))
    assert f"{name} is damaged" in caplog.text


def test_fenced_verdicts_are_not_archived(store: Store) -> None:
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


def test_what_else_lies_among_the_archives_files_is_left_alone(store: Store) -> None:
    append(store, range(3))
    archive(store)
    for foreign in ("_SUCCESS", "date=2026-03-01/_SUCCESS", "date=2026-99-99/0-000000000000.parquet", "date=x/y"):
        store.objects.put(f"verdicts/{foreign}", b"")
    assert archived_days(store.objects) == [START.date()]
    assert offsets(store) == [0, 1, 2]
