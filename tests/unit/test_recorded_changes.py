"""No change goes unrecorded: each deed is cut off after each of its writes, and what changed by then has a record."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.dead_letters import OFFSET, PARTITION, TOPIC
from flowgauge.domain.errors import Conflict, Unavailable, UserError
from flowgauge.domain.golden import Label
from flowgauge.domain.lines import Policy
from flowgauge.domain.messages import ADAPTATIONS, ALERTS, DEAD_LETTERS, IMAGES, SNAPSHOTS, Decision, Expected, Reason
from flowgauge.domain.object_keys import line_settings_object
from flowgauge.domain.ports import Outgoing
from flowgauge.processors.line_monitor import Trigger
from flowgauge.registry.lines import line_settings
from flowgauge.registry.snapshots import active_snapshot, announce
from flowgauge.runtime.backend import Store
from flowgauge.services import trials
from flowgauge.services.changes import ChangeState, latest_changes, recorded
from flowgauge.services.decisions import approved, refuse, requested, send
from flowgauge.services.fit import FromDataset, fit_line
from flowgauge.services.golden import add_folder, label_verdict, unlabel
from flowgauge.services.replay import DeadLetters, dead_letters, replay
from flowgauge.services.retention import set_retention
from flowgauge.services.settings import change_settings
from flowgauge.services.snapshots import roll_back
from flowgauge.services.threshold import announce_threshold, stored_threshold
from flowgauge.services.trials import promote, start_trial, stop_trial
from tests.support.gauges import settings as quick_settings
from tests.support.plants import LINE, fitted_store, tiny_dataset
from tests.support.shell import Shell
from tests.support.streaming import START, SetClock, opened, png, verdict

IMAGE = png(120)
VERDICT = verdict(0, image_sha256=sha256(IMAGE).hexdigest())
PROPOSAL = Trigger(LINE, Reason.DRIFT, "image-7", START, "the light rose")
WRITES = {"objects": ("put", "delete"), "log": ("append",), "state": ("put",)}


class Cut:
    """A part of a store that goes away for good as soon as nothing is `left`, which all parts share."""

    def __init__(self, part: Any, writes: Sequence[str], left: Iterator[int]) -> None:
        self._part, self._writes, self._left = part, writes, left

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)

        def write(*given: Any, **named: Any) -> Any:
            if next(self._left, None) is None:
                raise Unavailable("The store is away.", "Wait.")
            return found(*given, **named)

        return write if name in self._writes else found


def cut(store: Store, writes: int) -> Store:
    left = iter(range(writes))
    parts: dict[str, Any] = {name: Cut(getattr(store, name), methods, left) for name, methods in WRITES.items()}
    return replace(store, **parts)


def at_work(store: Store) -> dict[str, Any]:
    """What a plant goes by. A stored snapshot is nothing before it is announced, and the report of a trial follows the
    announcement of its end.
    """
    names = [name for name in store.objects.names("") if not name.startswith(("changes/", "snapshots/", "trials/"))]
    found: dict[str, Any] = {name: store.objects.get(name) for name in names}
    return found | {topic: store.log.read(topic, 0, 0, 1_000) for topic in (ADAPTATIONS, ALERTS, IMAGES, SNAPSHOTS)}


def others(store: Store) -> str:
    """The version of the gauge that is not active."""
    versions = {name.split("/")[2] for name in store.objects.names(f"snapshots/{LINE}/")}
    return (versions - {active_snapshot(store.log, LINE).version}).pop()


def stains(store: Store) -> Path:
    return Path(store.uri) / "stains"


def moved(store: Store) -> None:
    announce_threshold(store, LINE, stored_threshold(store, LINE, "mara", value=9, sure=True), "mara")


def label(store: Store) -> None:
    label_verdict(store, VERDICT, Label.DEFECT, "stain", "mara")


def on_trial(store: Store) -> None:
    start_trial(store, LINE, others(store), "lee", Expected.SAME)


def shown(store: Store) -> str:
    """The trial that a person sees."""
    trial = active_snapshot(store.log, LINE).trial
    return "" if trial is None else str(trial.trial_id)


def fitted(store: Store) -> None:
    good = FromDataset(tiny_dataset())
    fit_line(store, LINE, good, quick_settings(), by="mara", progress=lambda what, done, total: None, tell=print)


def nothing(store: Store) -> None:
    """Is needed before."""


Deed = Callable[[Store], Any]
DEEDS: dict[str, tuple[Deed, Deed]] = {
    "settings": (nothing, lambda store: change_settings(store, LINE, {"buffer_size": "300"}, "mara")),
    "label": (nothing, label),
    "another label": (label, lambda store: label_verdict(store, VERDICT, Label.GOOD, "", "mara")),
    "label taken back": (label, lambda store: unlabel(store, VERDICT, "mara")),
    "golden add": (nothing, lambda store: add_folder(store, LINE, stains(store), Label.DEFECT, "", "mara", print)),
    "adapt": (nothing, lambda store: send(store, requested(LINE, "mara", START))),
    "approve": (nothing, lambda store: send(store, approved(store.log, PROPOSAL.request.request_id, "mara", START))),
    "refuse": (nothing, lambda store: refuse(store, PROPOSAL.request.request_id, "mara", "the lamp is broken")),
    "replay": (nothing, lambda store: replay(store, dead_letters(store.log, DeadLetters()), "mara")),
    "roll back": (nothing, lambda store: roll_back(store, LINE, others(store), "mara")),
    "roll back during a trial": (on_trial, lambda store: roll_back(store, LINE, others(store), "mara")),
    "threshold": (nothing, moved),
    "start trial": (nothing, lambda store: start_trial(store, LINE, others(store), "mara", Expected.SAME)),
    "stop trial": (on_trial, lambda store: stop_trial(store, LINE, shown(store), "mara", "it passes everything")),
    "promote": (on_trial, lambda store: promote(store, LINE, shown(store)[:8], "mara")),
    "fit": (nothing, fitted),
}


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line with two gauges, a kept image, a folder of others, a proposal and two dead letters."""
    root = fitted_store(tmp_path_factory.mktemp("plant") / "store")
    (root / "stains").mkdir()
    for number in range(2):
        (root / "stains" / f"{number}.png").write_bytes(png(150, number))
    with open_store(str(root)) as store:
        announce_threshold(store, LINE, stored_threshold(store, LINE, "lee", value=1e6, sure=True), "lee")
        store.objects.put(store.objects.name(str(VERDICT.image_uri)), IMAGE)
        letters = [{"ce_id": f"{number}", TOPIC: IMAGES, PARTITION: "0", OFFSET: f"{number}"} for number in (1, 2)]
        store.log.append([Outgoing(DEAD_LETTERS, LINE, b"x", headers) for headers in letters])
        store.log.append([PROPOSAL.proposed()])
    return root


@pytest.mark.parametrize("deed", DEEDS)
def test_what_has_changed_has_a_record_whenever_the_store_goes_away(plant: Path, tmp_path: Path, deed: str) -> None:
    prepare, do = DEEDS[deed]
    for writes in count():
        root = tmp_path / str(writes)
        shutil.copytree(plant, root)
        with open_store(str(root)) as store:
            prepare(store)
            before, known = at_work(store), len(latest_changes(store, 100))
            try:
                do(cut(store, writes))
                failed = False
            except Unavailable:
                failed = True
            of_deed = latest_changes(store, 100)[: len(latest_changes(store, 100)) - known]
            if not failed:
                assert writes >= 3, "before, the change, after"
                assert [(each.by, each.state) for each in of_deed] == [("mara", ChangeState.DONE)]
                assert at_work(store) != before
                return
            assert [each.state for each in of_deed] in ([], [ChangeState.BEGUN])
            assert of_deed or at_work(store) == before, f"unrecorded after {writes} writes"


def test_what_is_refused_leaves_no_record(plant: Path, tmp_path: Path) -> None:
    shutil.copytree(plant, tmp_path / "store")
    with open_store(str(tmp_path / "store")) as store:
        known = latest_changes(store, 100)
        active = active_snapshot(store.log, LINE).version
        refused: list[Deed] = [
            lambda store: change_settings(store, LINE, {"buffer_size": "many"}, "mara"),
            lambda store: start_trial(store, LINE, active, "mara", Expected.SAME),
            partial(stop_trial, line=LINE, trial_id="", by="mara", why=""),
            lambda store: refuse(store, uuid4(), "mara", "no"),
            lambda store: add_folder(store, LINE, tmp_path, Label.DEFECT, "", "mara", print),
        ]
        for each in refused:
            with pytest.raises(UserError):
                each(store)
        assert latest_changes(store, 100) == known


@pytest.mark.parametrize("end", [partial(stop_trial, why="it passes everything"), promote], ids=["stop", "promote"])
def test_an_end_of_a_trial_that_another_has_followed_is_refused_and_recorded_as_such(
    plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[..., Any]
) -> None:
    shutil.copytree(plant, tmp_path / "store")
    with open_store(str(tmp_path / "store")) as store:
        on_trial(store)
        of_mara = shown(store)

        def after_another(store: Store, line: str, make: Any) -> Any:
            monkeypatch.undo()
            stop_trial(store, LINE, of_mara, "lee", "")
            on_trial(store)
            return announce(store, line, make)

        monkeypatch.setattr(trials, "announce", after_another)
        with pytest.raises(Conflict, match="is not under way"):
            end(store, LINE, of_mara, by="mara")
        assert shown(store) not in (of_mara, "")
        change = next(each for each in latest_changes(store, 9) if each.by == "mara")
        assert (change.state, change.after["trial_id"]) == (ChangeState.REFUSED, of_mara)
        assert "is not under way" in change.after["refused"]
        with pytest.raises(Conflict, match="is not under way"):
            end(store, LINE, shown(store)[:7], by="mara")


def test_two_people_who_change_different_settings_at_once_both_have_theirs(tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store, ThreadPoolExecutor(1) as second:
        answers: list[Future[Any]] = []

        class Meanwhile:
            def __getattr__(self, name: str) -> Any:
                return getattr(store.objects, name)

            def put(self, name: str, data: bytes) -> None:
                """Somebody else's change begins once this one's has been read."""
                if not answers:
                    answers.append(second.submit(change_settings, store, LINE, {"buffer_size": "300"}, "lee"))
                    wait(answers, 1.0)
                store.objects.put(name, data)

        changing: Any = Meanwhile()
        change_settings(replace(store, objects=changing), LINE, {"policy": "off"}, "mara")
        answers[0].result()
        settings = line_settings(store.objects, LINE)
        assert (settings.policy, settings.buffer_size) == (Policy.OFF, 300)


def test_settings_that_did_not_hold_are_recorded_with_those_that_replace_them(tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store:
        store.objects.put(line_settings_object(LINE), b'{"cool_down_seconds": null, "buffer_size": 0}')
        change_settings(store, LINE, {"cool_down_seconds": "30"}, "mara")
        [made] = latest_changes(store, 9)
        assert (made.before, made.after) == (
            {"cool_down_seconds": None, "buffer_size": 0},
            {"cool_down_seconds": 30, "buffer_size": 400},
        )


def test_how_long_a_bucket_keeps_images_is_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Rules:
        """Of a bucket; those of a real one are tested in `tests/integration/test_retention_rules.py`."""

        def __init__(self) -> None:
            self.kept: dict[Decision, int | None] = dict.fromkeys(Decision)

        def days(self) -> dict[Decision, int | None]:
            return dict(self.kept)

        def set(self, days: Mapping[Decision, int | None]) -> None:
            self.kept = dict(days)

    rules = Rules()
    with open_store(str(tmp_path)) as store:
        store.objects.put(line_settings_object("a-damaged-line"), b"{")
        set_retention(store, rules, {Decision.PASS: 30, Decision.REJECT: None}, "mara")
        assert "flowgauge lines set a-damaged-line" in caplog.text
        with pytest.raises(UserError):
            set_retention(store, rules, {Decision.PASS: 1}, "mara")
        (change,) = latest_changes(store, 9)
    assert rules.kept[Decision.PASS] == 30
    assert (change.by, change.action, change.state) == ("mara", "retention", ChangeState.DONE)
    assert (change.before, change.after) == ({"pass_days": "for ever"}, {"pass_days": 30})


def test_a_change_made_by_a_clock_that_is_ahead_is_shown(tmp_path: Path) -> None:
    clock = SetClock()
    with opened(tmp_path, clock) as store:
        clock.advance(2 * 86_400)
        with recorded(store, "mara", "settings", LINE):
            pass
        clock.advance(-2 * 86_400)
        assert [change.by for change in latest_changes(store, 9)] == ["mara"]


def test_a_change_that_nobody_finished_is_shown_as_such(flowgauge: Shell, tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store:
        with recorded(store, "mara", "settings", LINE, "", {"policy": "auto"}, {"policy": "off"}):
            pass
        with pytest.raises(Unavailable), recorded(store, "lee", "roll back", LINE, "fit-1"):
            raise Unavailable("The brokers are away.", "Wait.")
    first, second = flowgauge("changes", "--store", tmp_path).out.splitlines()
    assert first.endswith(f"mara  {LINE}  settings  policy: auto -> off")
    assert second.endswith(f"lee  {LINE}  roll back  fit-1  (not known whether it took effect)")
    assert [each["state"] for each in flowgauge("changes", "--store", tmp_path, "--json").lines] == ["done", "begun"]
