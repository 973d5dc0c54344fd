from pathlib import Path

import pytest

from flowgauge.domain.messages import DEAD_LETTERS, VERDICTS
from flowgauge.domain.ports import Outgoing
from flowgauge.local.log import LocalLog
from flowgauge.runtime.backend import Store
from flowgauge.runtime.fencing import Counted, VerdictReader, count
from flowgauge.runtime.worker import Worker
from tests.support.streaming import LINE, SetClock, append_verdicts, opened, records, verdict


class Reader(VerdictReader):
    name = "reader"

    def __init__(self, store: Store) -> None:
        super().__init__(store.log)
        self.read: list[int] = []

    def receive(self, counted: list[Counted]) -> list[Outgoing]:  # type: ignore[override]
        self.read += [item.verdict.source.offset for item in counted]
        return []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return opened(tmp_path, SetClock())


def read(store: Store, batch: int) -> list[int]:
    reader = Reader(store)
    worker = Worker(reader, store.log, store.clock, batch)
    while worker.step():
        pass
    return reader.read


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_a_verdict_whose_source_offset_does_not_rise_is_fenced(store: Store, batch: int) -> None:
    append_verdicts(store.log, [verdict(offset) for offset in (0, 1, 3, 2, 3, 4, 0, 5)])
    assert read(store, batch) == [0, 1, 3, 4, 5]


def test_a_reader_that_starts_late_knows_what_counted_before(store: Store) -> None:
    append_verdicts(store.log, [verdict(offset) for offset in (0, 1, 2, 1, 2, 3)])
    store.log.commit("reader", VERDICTS, 0, 3)
    assert read(store, 2) == [3]


def test_verdicts_count_though_those_before_them_have_expired(tmp_path: Path) -> None:
    store = opened(tmp_path, SetClock())
    append_verdicts(store.log, [verdict(offset) for offset in range(6)])
    store.log.commit("reader", VERDICTS, 0, 4)
    assert isinstance(store.log, LocalLog)
    store.log.trim(VERDICTS, 0, 4)
    assert read(store, 2) == [4, 5]


def test_nothing_counts_before_the_first_record(store: Store) -> None:
    append_verdicts(store.log, [verdict(7), verdict(7)])
    assert read(store, 1) == [7], "the first record has nothing before it"
    store.log.commit("reader", VERDICTS, 0, 1)
    assert read(store, 1) == [], "the second repeats the rank of the first"


def test_what_is_no_verdict_is_a_dead_letter_and_its_neighbours_count(store: Store) -> None:
    append_verdicts(store.log, [verdict(0)])
    store.log.append([Outgoing(VERDICTS, LINE, b"{}", partition=0)])
    append_verdicts(store.log, [verdict(1)])
    assert read(store, 100) == [0, 1]
    assert [letter.value for letter in records(store.log, DEAD_LETTERS)] == [b"{}"]


def test_fencing_a_batch_changes_nothing_until_it_is_received(store: Store) -> None:
    append_verdicts(store.log, [verdict(0), verdict(1)])
    batch = records(store.log, VERDICTS)
    assert count(batch) == count(batch)
    assert count(batch, (0, 0)).counted == count(batch).counted[1:]
