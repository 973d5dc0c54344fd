from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from flowgauge.domain.messages import Decision
from flowgauge.domain.object_keys import line_settings_object
from flowgauge.domain.ports import Buffered
from flowgauge.processors.archive import Archive, archived
from flowgauge.registry.lines import set_line
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.services.retention import PassRetention
from tests.support.streaming import LINE, START, SetClock, append_verdicts, opened, verdict

IMAGES_A_DAY = 3


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Iterator[Store]:
    """Four days of verdicts, archived; the first image of each day is a reject."""
    with opened(tmp_path, clock) as store:
        for number in range(4 * IMAGES_A_DAY):
            at = START + timedelta(days=number // IMAGES_A_DAY)
            decision = Decision.PASS if number % IMAGES_A_DAY else Decision.REJECT
            uri = store.objects.put(f"images/{LINE}/{at:%Y-%m-%d}/{number}", b"image")
            append_verdicts(store.log, [verdict(number, captured_at=at, decision=decision, image_uri=uri)])
        worker = Worker(Archive(store, 64), store.log, clock, 64)
        worker.step()
        worker.flush()
        clock.advance(3 * 86_400)
        yield store


def kept(store: Store) -> list[int]:
    return sorted(int(name.rpartition("/")[2]) for name in store.objects.names("images/"))


def test_without_a_limit_every_image_is_kept(store: Store) -> None:
    set_line(store.objects, LINE, policy="off")
    PassRetention(store).tidy()
    assert kept(store) == list(range(12))


def test_passes_of_days_before_the_limit_go_and_everything_else_stays(store: Store) -> None:
    set_line(store.objects, LINE, pass_retention_days=1)
    PassRetention(store).tidy()
    assert kept(store) == [0, 3, 6, 7, 8, 9, 10, 11]
    assert len(list(archived(store.objects))) == 12


def test_what_is_buffered_stays(store: Store) -> None:
    set_line(store.objects, LINE, pass_retention_days=1)
    entry = Buffered("image-0001", f"store:///images/{LINE}/2026-03-01/1", "ab", START, 1.0, "pass", "")
    store.state.buffer_add(LINE, [entry], 10)
    PassRetention(store).tidy()
    assert kept(store)[:3] == [0, 1, 3]


def test_a_day_is_gone_through_once_and_the_next_when_its_time_has_come(store: Store, clock: SetClock) -> None:
    set_line(store.objects, LINE, pass_retention_days=1)
    retention = PassRetention(store)
    retention.tidy()
    store.objects.put(f"images/{LINE}/2026-03-01/1", b"put back by hand")
    clock.advance(86_400)
    retention.tidy()
    assert kept(store) == [0, 1, 3, 6, 9, 10, 11]


def test_a_line_whose_settings_do_not_hold_is_passed_over_with_a_word(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.objects.put(line_settings_object("a-damaged-line"), b'{"pass_retention_days": "soon"}')
    set_line(store.objects, LINE, pass_retention_days=1)
    PassRetention(store).tidy()
    assert kept(store) == [0, 3, 6, 7, 8, 9, 10, 11]
    assert "flowgauge lines set a-damaged-line" in caplog.text
