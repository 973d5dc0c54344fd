import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import pytest

from flowgauge.adaptation.contract import Adapt, AdaptationInput, AdaptationOutcome
from flowgauge.app.bootstrap import open_store
from flowgauge.app.embedded import embedded, folder_source
from flowgauge.domain.errors import SettingsError, StoreBusy, Unavailable
from flowgauge.domain.messages import (
    ALERTS,
    DEAD_LETTERS,
    IMAGES,
    VERDICTS,
    AdaptationRequest,
    AlertKind,
    Decision,
    Verdict,
)
from flowgauge.domain.object_keys import line_settings_object
from flowgauge.local.folder_options import FolderOptions
from flowgauge.processors.adaptation import request_adaptation
from flowgauge.processors.archive import archived
from flowgauge.registry.lines import set_line
from flowgauge.registry.snapshots import active_snapshot
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.local_runner import LogTrimming, Runner
from flowgauge.runtime.task import Step
from tests.support.failing import Failing
from tests.support.streaming import LINE, SetClock, adapt, fitted, load, opened, png, records, send, verdicts

TIMEOUT_SECONDS = 30


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return fitted(opened(tmp_path / "plant", clock))


def images(count: int, brightness: int = 100, start: int = 0) -> list[tuple[str, bytes]]:
    return [(f"{number:04d}", png(brightness + number % 7, seed=number)) for number in range(start, start + count)]


def eventually(condition: Callable[[], bool]) -> None:
    """Bounded: a thread has to do something that the test can see."""
    deadline, pause = monotonic() + TIMEOUT_SECONDS, Event()
    while not condition():
        assert monotonic() < deadline, "it never happened"
        pause.wait(0.005)


class Running:
    """A runner in a thread of its own, stopped at the end of the block; what it raised is in `error`."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._thread = Thread(target=self._run)
        self.error: BaseException | None = None

    def _run(self) -> None:
        try:
            self._runner.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> "Running":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.stop()
        self.join()

    def join(self) -> None:
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive()


def test_run_until_idle_scores_alerts_archives_and_buffers_everything(store: Store) -> None:
    send(store, [*images(20), ("bright", png(200)), ("broken", b"")])
    embedded(store, load, adapt).run_until_idle()
    assert len(verdicts(store.log)) == 21
    assert {each.kind for each in alerts(store.log)} == {AlertKind.DEAD_LETTER, AlertKind.REJECT}
    assert len(list(archived(store.objects))) == 21
    assert len(store.state.buffer(LINE)) == 21


def test_run_until_idle_may_be_repeated_and_goes_on_where_it_was(store: Store) -> None:
    runner = embedded(store, load, adapt)
    for start in (0, 10, 20):
        send(store, images(10, start=start))
        runner.run_until_idle()
    assert [each.image_id for each in archived(store.objects)] == [image_id for image_id, _ in images(30)]


def test_the_whole_story_drift_adaptation_and_swap(store: Store) -> None:
    set_line(store.objects, LINE, buffer_minimum=40)
    runner = embedded(store, load, adapt)
    send(store, images(100))
    runner.run_until_idle()
    send(store, images(100, brightness=160, start=100))
    runner.run_until_idle()
    assert active_snapshot(store.log, LINE).version.startswith("adapted-")
    kinds = [each.kind for each in alerts(store.log)]
    assert kinds.index(AlertKind.DRIFT) < kinds.index(AlertKind.ADAPTATION_ACCEPTED)
    send(store, images(20, brightness=160, start=200))
    runner.run_until_idle()
    after = verdicts(store.log)[-20:]
    assert {each.decision for each in verdicts(store.log)[100:110]} == {Decision.REJECT}
    assert {each.decision for each in after} == {Decision.PASS}


def test_the_same_stream_gives_the_same_story(tmp_path: Path) -> None:
    def story(name: str) -> tuple[list[Verdict], list[str]]:
        store = fitted(opened(tmp_path / name, SetClock()))
        set_line(store.objects, LINE, buffer_minimum=40)
        send(store, images(100) + images(100, brightness=160, start=100))
        embedded(store, load, adapt).run_until_idle()
        return verdicts(store.log), [each.message for each in alerts(store.log)]

    assert story("one") == story("two")


def test_run_streams_a_folder_until_it_is_stopped_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    with fitted(open_store(str(tmp_path / "plant"))) as store:
        source = folder_source(store, folder, LINE, FolderOptions(quiet_seconds=0))
        with Running(embedded(store, load, adapt, [source])) as running:
            for name, data in images(30):
                (folder / f".{name}").write_bytes(data)
                (folder / f".{name}").rename(folder / f"{name}.png")
            eventually(lambda: len(verdicts(store.log)) == 30)
        assert running.error is None
        assert Counter(each.image_id.partition("@")[0] for each in archived(store.objects)) == Counter(
            f"{name}.png" for name, _ in images(30)
        )


def test_scoring_does_not_wait_for_an_adaptation(tmp_path: Path) -> None:
    begun, let_go = Event(), Event()

    def slow(given: AdaptationInput) -> AdaptationOutcome:
        begun.set()
        assert let_go.wait(TIMEOUT_SECONDS)
        return adapt(given)

    with fitted(open_store(str(tmp_path / "plant"))) as store, running_adaptation(store, slow):
        assert begun.wait(TIMEOUT_SECONDS)
        send(store, images(10, start=100))
        eventually(lambda: len(verdicts(store.log)) == 20)
        assert active_snapshot(store.log, LINE).version == "fit-1"
        let_go.set()
        eventually(lambda: active_snapshot(store.log, LINE).version != "fit-1")


def test_a_line_whose_settings_do_not_hold_ends_no_run(store: Store) -> None:
    store.objects.put(line_settings_object("another-line"), b'{"cool_down_seconds": null}')
    store.objects.put("verdicts/_SUCCESS", b"")
    set_line(store.objects, LINE, pass_retention_days=30)
    send(store, images(3))
    embedded(store, load, adapt).run_until_idle()
    assert len(verdicts(store.log)) == 3


def test_a_clock_that_was_ahead_once_does_not_hold_the_trimming_of_the_log_up(store: Store, clock: SetClock) -> None:
    trimmed: list[tuple[str, int, int]] = []
    trimming = LogTrimming(store.log, clock, {}, lambda *stretch: trimmed.append(stretch))
    send(store, images(3))
    for seconds in (365 * 86_400, -365 * 86_400):
        clock.advance(seconds)
        trimming.tidy()
    assert trimmed == [(IMAGES, 0, 3)] * 2


def running_adaptation(store: Store, how: Adapt) -> Running:
    """A runner that has scored ten images, with an adaptation asked for."""
    set_line(store.objects, LINE, buffer_minimum=5, adapt_every=10, cool_down_seconds=86_400)
    send(store, images(10))
    return Running(embedded(store, load, how))


def test_a_stop_gives_up_an_adaptation_that_is_under_way(tmp_path: Path) -> None:
    begun = Event()

    def endless(given: AdaptationInput) -> AdaptationOutcome:
        begun.set()
        while True:
            given.progress("adapting", 0.5)

    with fitted(open_store(str(tmp_path / "plant"))) as store:
        with running_adaptation(store, endless) as running:
            assert begun.wait(TIMEOUT_SECONDS)
        assert running.error is None
        embedded(store, load, adapt).run_until_idle()
        assert active_snapshot(store.log, LINE).version.startswith("adapted-")


def test_an_exception_in_any_thread_ends_the_run_and_is_raised(store: Store) -> None:
    def observer(step: Step) -> None:
        if step.processor == "archive":
            raise RuntimeError("a bug")

    running = Running(embedded(store, load, adapt, observer=observer))
    send(store, images(1))
    with running:
        running.join()
    assert isinstance(running.error, RuntimeError)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_and_what_was_scored_is_archived(tmp_path: Path, number: int) -> None:
    with fitted(open_store(str(tmp_path / "plant"))) as store:
        send(store, images(5))

        def observer(step: Step) -> None:
            if step.processor == "scoring":
                os.kill(os.getpid(), number)

        before = signal.getsignal(number)
        embedded(store, load, adapt, observer=observer).run()
        assert signal.getsignal(number) == before
        assert len(list(archived(store.objects))) == 5


def test_two_runners_never_work_on_one_store(tmp_path: Path) -> None:
    with fitted(open_store(str(tmp_path / "plant"))) as store, Running(embedded(store, load, adapt)):
        eventually(lambda: (tmp_path / "plant" / "runner.lock").exists())
        eventually(lambda: (tmp_path / "plant" / "runner.lock").read_text() != "")
        with open_store(str(tmp_path / "plant")) as same, pytest.raises(StoreBusy, match="Another runner"):
            embedded(same, load, adapt).run_until_idle()
    embedded(fitted(open_store(str(tmp_path / "plant"))), load, adapt).run_until_idle()


def test_run_until_idle_raises_what_is_away_and_goes_on_later(store: Store, clock: SetClock) -> None:
    send(store, images(3))
    objects = Failing(store.objects, ["put"], times=0)
    broken = Store(store.uri, store.log, objects, store.state, clock)
    runner = embedded(broken, load, adapt)
    objects.left = 1_000
    with pytest.raises(Unavailable):
        runner.run_until_idle()
    objects.left = 0
    clock.advance(20)
    runner.run_until_idle()
    assert len(list(archived(store.objects))) == 3


def test_consumed_images_leave_the_log_and_verdicts_stay(store: Store, clock: SetClock) -> None:
    runner = embedded(store, load, adapt)
    send(store, images(10))
    runner.run_until_idle()
    clock.advance(60)
    send(store, images(1, start=10))
    runner.run_until_idle()
    assert len(records(store.log, IMAGES)) <= 1
    assert len(records(store.log, VERDICTS)) == 11


def test_dead_letters_that_have_left_the_log_are_not_reported_as_expired(store: Store, clock: SetClock) -> None:
    send(store, [*images(3), ("empty", b""), ("broken", b"no")])
    for _ in range(3):
        embedded(store, load, adapt).run_until_idle()
        clock.advance(60)
    assert store.log.begin(IMAGES, 0) == 5, "the log kept them"
    assert AlertKind.RECORDS_EXPIRED not in {each.kind for each in alerts(store.log)}


def test_a_start_tells_of_no_dead_letter_again(store: Store, clock: SetClock) -> None:
    send(store, [*images(3), ("empty", b""), ("broken", b"no")])
    embedded(store, load, adapt).run_until_idle()
    reported = store.log.end(ALERTS, 0)
    embedded(store, load, adapt).run_until_idle()
    clock.advance(66)
    embedded(store, load, adapt).run_until_idle()
    assert store.log.end(ALERTS, 0) == reported
    assert [(each.kind, each.count) for each in alerts(store.log)] == [(AlertKind.DEAD_LETTER, 2)]
    assert store.log.position("alerting", DEAD_LETTERS, 0) == 2


def test_a_stop_in_the_middle_of_a_window_leaves_its_count_whole(store: Store) -> None:
    send(store, [("empty", b""), ("broken", b"no")])
    embedded(store, load, adapt).run_until_idle()
    send(store, [("void", b"")])
    embedded(store, load, adapt).run_until_idle()
    assert [(each.kind, each.count) for each in alerts(store.log)] == [(AlertKind.DEAD_LETTER, 3)]


def test_an_adaptation_that_a_person_asked_for_is_carried_out(store: Store) -> None:
    set_line(store.objects, LINE, buffer_minimum=5)
    send(store, images(10))
    runner = embedded(store, load, adapt)
    runner.run_until_idle()
    request_adaptation(store, person())
    runner.run_until_idle()
    assert active_snapshot(store.log, LINE).version.startswith("adapted-")


def person() -> AdaptationRequest:
    return AdaptationRequest.model_validate(
        {
            "request_id": "11111111-1111-1111-1111-111111111111",
            "line": LINE,
            "reason": "person",
            "requested_at": "2026-03-01T06:00:00Z",
            "requested_by": "ana",
        }
    )


@pytest.mark.parametrize("uri", ["gs://bucket", "https://host/x", "redis://host", ""])
def test_a_store_that_is_not_supported_is_refused_with_what_is(uri: str) -> None:
    with pytest.raises(SettingsError, match="Name a directory"):
        open_store(uri)


def test_a_store_can_be_moved(tmp_path: Path, clock: SetClock) -> None:
    with fitted(opened(tmp_path / "here", clock)) as store:
        send(store, images(3))
        embedded(store, load, adapt).run_until_idle()
    (tmp_path / "here").rename(tmp_path / "there")
    with opened(tmp_path / "there", clock) as moved:
        entry = moved.state.buffer(LINE)[0]
        assert moved.objects.get(moved.objects.name(entry.image_uri)) == images(1)[0][1]
