"""The archive's small files and their copies: whatever happens to either, each verdict is read once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flowgauge.domain.errors import ArchiveDamaged, Unavailable
from flowgauge.domain.messages import VERDICTS, Verdict
from flowgauge.processors.archive import Archive, archived_days
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.services.archive_files import Compacted, archive_files, compact, opened
from flowgauge.services.golden import find_verdict
from flowgauge.services.history import archived_tables, history
from tests.support.failing import Failing
from tests.support.streaming import LINE, START, SetClock, append_verdicts, verdict
from tests.support.streaming import opened as open_plant

SECONDS_BETWEEN = 3_600  # so that 60 verdicts span three days


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Iterator[Store]:
    with open_plant(tmp_path, clock) as store:
        append(store, range(60))
        archive(store)
        clock.advance(10 * 86_400)
        yield store


def append(store: Store, numbers: Sequence[int], **changes: Any) -> None:
    append_verdicts(store.log, [made(number, **changes) for number in numbers])


def made(number: int, **changes: Any) -> Verdict:
    at = START + timedelta(seconds=SECONDS_BETWEEN * number)
    given: dict[str, Any] = {"line": LINE if number % 2 else "other", "captured_at": at} | changes
    return verdict(number, **given)


def archive(store: Store) -> None:
    worker = Worker(Archive(store, 4), store.log, store.clock, 64)
    while worker.step():
        pass
    assert worker.error is None
    worker.flush()


def done(store: Store) -> Compacted:
    return compact(store, lambda what, done, total: None)


def read(store: Store, days: Sequence[date] | None = None) -> Counter[int]:
    """How often each verdict is read, by its image's offset."""
    tables = [
        pq.read_table(opened(store.objects, name), partitioning=None) for name in archive_files(store.objects, days)
    ]
    return Counter(source["offset"] for table in tables for source in table["source"].to_pylist())


def copies(store: Store) -> list[str]:
    return list(store.objects.names("compacted/"))


ONCE = Counter(range(60))


def test_copies_stand_for_the_files_of_a_day_and_the_files_stay(store: Store) -> None:
    files = list(store.objects.names("verdicts/"))
    made = done(store)
    assert (made.copies, made.verdicts) == (3, 56)
    assert archive_files(store.objects) == [*copies(store), files[-1]], "the last stretch is still open"
    assert list(store.objects.names("verdicts/")) == files
    assert read(store) == ONCE
    assert read(store, [date(2026, 3, 2)]) == Counter(range(18, 42))
    assert done(store) == Compacted(0, 0, 0, 0), "a second run has nothing to do"


def test_a_copy_has_one_line_after_the_other(store: Store) -> None:
    done(store)
    [table] = [pq.read_table(opened(store.objects, name), partitioning=None) for name in copies(store)[1:2]]
    keys = list(zip(table["line"].to_pylist(), table["captured_at"].to_pylist(), strict=True))
    assert keys == sorted(keys)


def test_what_may_still_be_written_is_not_copied(tmp_path: Path, clock: SetClock) -> None:
    with open_plant(tmp_path / "new", clock) as store:
        append(store, range(39))
        archive(store)
        clock.advance(86_400 + 3_600)
        assert done(store).copies == 1, "the second day is not over"
        clock.advance(86_400)
        # offsets 36 to 38, of that day, lie in the stretch that is being filled
        assert done(store).verdicts == 18
        append(store, range(39, 44))
        archive(store)
        assert read(store) == Counter(range(44))
        assert done(store).copies == 1
        assert read(store) == Counter(range(44))


def test_a_replay_is_read_once_while_it_runs_and_afterwards(store: Store) -> None:
    done(store)
    before = {name: store.objects.get(name) for name in archive_files(store.objects)}
    store.log.commit("archive", VERDICTS, 0, 0)
    assert done(store) == Compacted(0, 0, 0, 0)
    assert read(store) == ONCE
    archive(store)
    assert read(store) == ONCE
    assert done(store) == Compacted(0, 0, 0, 0)
    assert {name: store.objects.get(name) for name in archive_files(store.objects)} == before


def test_a_verdict_of_a_day_that_was_copied_is_read_at_once_and_copied_later(store: Store) -> None:
    done(store)
    before = copies(store)
    append(store, range(60, 68), captured_at=START)
    archive(store)
    assert read(store) == Counter(range(68))
    assert set(before) < set(archive_files(store.objects)), "the copies go on to count"
    again = done(store)
    assert (again.copies, again.removed) == (2, 0)
    assert read(store) == Counter(range(68))
    assert set(before) < set(copies(store)), "whoever listed them a moment ago still finds them"
    assert (done(store).removed, len(copies(store))) == (2, 3)
    assert read(store) == Counter(range(68))


def test_a_file_that_somebody_deletes_takes_its_verdicts_out_of_the_copy(store: Store) -> None:
    done(store)
    victim = next(store.objects.names("verdicts/"))
    lost = pq.read_table(BytesIO(store.objects.get(victim)), partitioning=None)["source"].to_pylist()
    store.objects.delete(victim)
    assert read(store) == ONCE - Counter(source["offset"] for source in lost)
    done(store)
    assert read(store) == ONCE - Counter(source["offset"] for source in lost)


@pytest.mark.parametrize("failures", range(1, 4))
@pytest.mark.parametrize("method", ["put", "get"])
def test_a_store_that_leaves_meanwhile_shows_each_verdict_once(store: Store, method: str, failures: int) -> None:
    done(store)
    append(store, range(60, 68), captured_at=START)
    archive(store)
    broken = Store(store.uri, store.log, Failing(store.objects, [method], failures), store.state, store.clock)
    for _ in range(failures):
        with pytest.raises(Unavailable):
            done(broken)
        assert read(store) == Counter(range(68))
    assert done(broken).copies > 0
    assert read(store) == Counter(range(68))
    assert (done(broken).copies, len(copies(store))) == (0, 3)


def _age(store: Store, without: list[str]) -> None:
    """Make a file of the archive one of before these fields were added."""
    name = next(store.objects.names("verdicts/"))
    buffer = BytesIO()
    table = pq.read_table(BytesIO(store.objects.get(name)), partitioning=None)
    pq.write_table(table.drop_columns(without), buffer)
    store.objects.put(name, buffer.getvalue())


def test_files_of_before_a_field_was_added_are_copied_with_what_a_verdict_says_of_it(store: Store) -> None:
    _age(store, ["clock_off", "subject", "use_for_training"])
    done(store)
    rows = pq.read_table(opened(store.objects, copies(store)[0]), partitioning=None).to_pylist()
    assert {(row["clock_off"], row["use_for_training"], row["subject"]) for row in rows} == {(False, True, None)}


def test_files_of_before_a_field_was_added_are_read_by_their_columns(store: Store) -> None:
    _age(store, ["clock_off", "arrived_at", "subject"])
    since = datetime(2026, 3, 1, tzinfo=UTC)
    assert history(store.objects, LINE, since, since + timedelta(days=4), [], 1_000).images == 30
    tables = archived_tables(store, LINE, 10, ("image_id", "subject", "clock_off"), lambda what, done, total: None)
    rows = [row for _, table in tables for row in table.to_pylist()]
    assert len(rows) == 30
    assert {(row["clock_off"], row["subject"]) for row in rows} == {(False, None)}


def test_the_archive_of_a_line_is_read_from_its_newest_file_on(store: Store) -> None:
    read_by = archived_tables(store, LINE, 10, ["captured_at"], lambda what, done, total: None)
    times = [table["captured_at"].to_pylist() for _, table in read_by if table.num_rows]
    assert len({each[0].date() for each in times}) < len(times)
    assert [min(each) for each in times] == sorted((min(each) for each in times), reverse=True)


def test_a_file_of_others_is_not_read(store: Store) -> None:
    store.objects.put("verdicts/date=2026-03-01/_SUCCESS", b"")
    done(store)
    assert read(store) == ONCE


def test_the_history_is_the_same_from_copies(store: Store) -> None:
    since = datetime(2026, 3, 1, tzinfo=UTC)
    before = history(store.objects, LINE, since, since + timedelta(days=4), [], 1_000)
    assert before.images == 30
    done(store)
    assert history(store.objects, LINE, since, since + timedelta(days=4), [], 1_000) == before


@pytest.mark.parametrize("left", [0, 100])
def test_a_damaged_file_is_named_and_keeps_no_other_day_from_its_copies(store: Store, left: int) -> None:
    name = next(store.objects.names("verdicts/"))
    store.objects.put(name, store.objects.get(name)[:left])
    with pytest.raises(ArchiveDamaged, match=f"{name} is damaged: .* Restore it from a copy"):
        done(store)
    days = archived_days(store.objects)
    assert len(copies(store)) == len(days) - 1
    with pytest.raises(ArchiveDamaged, match=name):
        list(archived_tables(store, LINE, 30, ["score"], lambda what, done, total: None))
    with pytest.raises(ArchiveDamaged, match=name):
        find_verdict(store, made(0).verdict_id, lambda what, done, total: None, days[0])
    assert read(store, days[1:]) == Counter(range(18, 60))
