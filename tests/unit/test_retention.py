from collections.abc import Iterator
from datetime import datetime, timedelta
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
            judged(store, number, at, decision)
        archive(store)
        clock.advance(3 * 86_400)
        yield store


def judged(store: Store, number: int, at: datetime, decision: Decision = Decision.PASS) -> None:
    uri = store.objects.put(f"images/{LINE}/{at:%Y-%m-%d}/{number}", b"image")
    append_verdicts(store.log, [verdict(number, captured_at=at, decision=decision, image_uri=uri)])


def stored_uri(store: Store, number: int) -> str:
    return next(uri for each in archived(store.objects) if (uri := each.image_uri) and uri.endswith(f"/{number}"))


def archive(store: Store) -> None:
    worker = Worker(Archive(store, 64), store.log, store.clock, 64)
    worker.step()
    worker.flush()


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
    entry = Buffered("image-0001", stored_uri(store, 1), "ab", START, 1.0, "pass", "")
    store.state.buffer_add(LINE, [entry], 10)
    PassRetention(store).tidy()
    assert kept(store)[:3] == [0, 1, 3]


def test_what_is_buffered_of_one_camera_keeps_no_image_of_another_that_has_the_same_id(store: Store) -> None:
    set_line(store.objects, LINE, pass_retention_days=1)
    entry = Buffered("image-0002", stored_uri(store, 1), "ab", START, 1.0, "pass", "")
    store.state.buffer_add(LINE, [entry], 10)
    PassRetention(store).tidy()
    assert kept(store)[:3] == [0, 1, 3]


def test_what_was_buffered_goes_once_it_has_left_the_buffer_however_late(store: Store, clock: SetClock) -> None:
    set_line(store.objects, LINE, pass_retention_days=1)
    entry = Buffered("image-0001", stored_uri(store, 1), "ab", START, 1.0, "pass", "")
    store.state.buffer_add(LINE, [entry], 10)
    judged(store, 12, START + timedelta(days=30))
    archive(store)
    clock.advance(30 * 86_400)
    for _ in range(2):
        PassRetention(store).tidy()
        assert kept(store) == [0, 1, 3, 6, 9]
        clock.advance(86_400)
    store.state.buffer_remove(LINE, [entry.image_uri])
    PassRetention(store).tidy()
    assert kept(store) == [0, 3, 6, 9]


def test_a_pass_that_is_archived_after_its_day_was_gone_through_goes_too(store: Store, clock: SetClock) -> None:
    set_line(store.objects, LINE, pass_retention_days=1)
    retention = PassRetention(store)
    retention.tidy()
    judged(store, 12, START)
    archive(store)
    clock.advance(86_400)
    retention.tidy()
    assert kept(store) == [0, 3, 6, 9, 10, 11]


def test_a_clock_that_was_ahead_once_does_not_keep_passes(store: Store, clock: SetClock) -> None:
    set_line(store.objects, LINE, policy="off")
    retention = PassRetention(store)
    clock.advance(365 * 86_400)
    retention.tidy()
    clock.advance(-365 * 86_400)
    set_line(store.objects, LINE, pass_retention_days=1)
    retention.tidy()
    assert kept(store) == [0, 3, 6, 7, 8, 9, 10, 11]


def test_a_day_is_gone_through_again_once_a_day_for_a_week_and_no_longer(store: Store, clock: SetClock) -> None:
    set_line(store.objects, LINE, pass_retention_days=1)
    retention = PassRetention(store)
    retention.tidy()
    store.objects.put(f"images/{LINE}/2026-03-01/1", b"put back by hand")
    clock.advance(3_600)
    retention.tidy()
    assert 1 in kept(store)
    clock.advance(86_400)
    retention.tidy()
    assert 1 not in kept(store)
    judged(store, 12, START + timedelta(days=7))
    archive(store)
    clock.advance(7 * 86_400)
    retention.tidy()
    store.objects.put(f"images/{LINE}/2026-03-01/1", b"put back by hand")
    clock.advance(86_400)
    retention.tidy()
    assert kept(store) == [0, 1, 3, 6, 9]


@pytest.mark.parametrize("name", ["golden/press-4/good/1.png", "uploads/1.png", "images/press-30/2026-03-01/1"])
def test_an_image_that_lies_elsewhere_is_not_deleted(store: Store, name: str) -> None:
    set_line(store.objects, LINE, pass_retention_days=1)
    uri = store.objects.put(name, b"of a claim check")
    append_verdicts(store.log, [verdict(12, captured_at=START, decision=Decision.PASS, image_uri=uri)])
    archive(store)
    PassRetention(store).tidy()
    assert list(store.objects.names(name)) == [name]


def test_a_file_of_the_archive_that_is_damaged_keeps_its_days_images_alone_and_says_so(
    store: Store, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    set_line(store.objects, LINE, pass_retention_days=1)
    name = next(store.objects.names("verdicts/"))
    whole = store.objects.get(name)
    store.objects.put(name, whole[:100])
    retention = PassRetention(store)
    retention.tidy()
    assert kept(store) == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    assert f"{name} is damaged" in caplog.text
    store.objects.put(name, whole)
    clock.advance(86_400)
    retention.tidy()
    assert kept(store) == [0, 3, 6, 9, 10, 11]


def test_a_line_whose_settings_do_not_hold_is_passed_over_with_a_word(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.objects.put(line_settings_object("a-damaged-line"), b'{"pass_retention_days": "soon"}')
    set_line(store.objects, LINE, pass_retention_days=1)
    PassRetention(store).tidy()
    assert kept(store) == [0, 3, 6, 7, 8, 9, 10, 11]
    assert "flowgauge lines set a-damaged-line" in caplog.text
