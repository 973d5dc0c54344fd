"""Trials of candidates: through scoring, their tally and the announcements, on an embedded store."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from flowgauge.domain.errors import Conflict, SettingsError, SnapshotCorrupt, UserError
from flowgauge.domain.messages import (
    ALERTS,
    SHADOW_VERDICTS,
    SNAPSHOTS,
    Alert,
    AlertKind,
    Decision,
    Expected,
    Promotion,
    ShadowVerdict,
    Stage,
)
from flowgauge.domain.object_keys import trial_object, trials_folder
from flowgauge.domain.ports import Log, Outgoing
from flowgauge.models.prediction import Prediction, Predictor
from flowgauge.processors.scoring import Scoring
from flowgauge.processors.trials import Trials
from flowgauge.registry.gauges import Gauges
from flowgauge.registry.lines import set_line
from flowgauge.registry.snapshots import active_snapshot, announcements, as_record, roll_back, store_snapshot
from flowgauge.registry.trials import begin_trial, ended, introduce, record_end, tally_of, trial_reports
from flowgauge.runtime.events import image_record
from flowgauge.runtime.worker import Worker
from flowgauge.services.changes import ChangeState, latest_changes
from flowgauge.services.trials import labelled, promote
from flowgauge.trials.tally import ERROR, Bound, Outcome, broken, log_evidence
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import Preprocessing
from tests.support.streaming import (
    LINE,
    BrightnessFacts,
    BrightnessGauge,
    SetClock,
    event,
    fitted,
    load,
    opened,
    png,
    records,
    send,
    snapshot,
    verdicts,
)


@dataclass(frozen=True)
class Slow(BrightnessGauge):
    """Takes a hundred times as long."""

    def _prediction(self, picture: Picture) -> Prediction:
        made = super()._prediction(picture)
        return Prediction(**{**vars(made), "seconds": 1.0})


@dataclass(frozen=True)
class Failing(BrightnessGauge):
    def predict_each(self, items: Sequence[tuple[BrightnessGauge, Picture]]) -> list[Prediction]:
        raise AssertionError("gauges of one kind share this")

    def _prediction(self, picture: Picture) -> Prediction:
        raise RuntimeError("out of memory")


@dataclass(frozen=True)
class NotANumber(BrightnessGauge):
    def _prediction(self, picture: Picture) -> Prediction:
        return Prediction(**{**vars(super()._prediction(picture)), "score": float("nan")})


@dataclass(frozen=True)
class NoStandard(BrightnessGauge):
    def _prediction(self, picture: Picture) -> Prediction:
        return Prediction(**{**vars(super()._prediction(picture)), "standard_score": float("nan")})


@dataclass(frozen=True)
class Unseeing(BrightnessGauge):
    """Fails where it is shown the picture, before it predicts."""

    manifest: BrightnessFacts = field(default_factory=lambda: BrightnessFacts(Preprocessing(size=128)))

    def seen(self, picture: Picture) -> Picture:
        raise RuntimeError("no such crop")


@dataclass(frozen=True)
class ColdAtFirst(BrightnessGauge):
    """Takes a hundred times as long in its first pass."""

    passes: list[int] = field(default_factory=list)

    def predict_each(self, items: Sequence[tuple[BrightnessGauge, Picture]]) -> list[Prediction]:
        raise AssertionError("gauges of one kind share this")

    def _prediction(self, picture: Picture) -> Prediction:
        self.passes.append(1)
        made = super()._prediction(picture)
        return Prediction(**{**vars(made), "seconds": 1.0 if len(self.passes) <= 16 else 0.0})


class Crash(BaseException):
    """Stands for the end of the process."""


@dataclass(frozen=True)
class Crashing(BrightnessGauge):
    def _prediction(self, picture: Picture) -> Prediction:
        raise Crash


KINDS = {
    "crashing": Crashing,
    "cold": ColdAtFirst,
    "slow": Slow,
    "failing": Failing,
    "nan": NotANumber,
    "no-standard": NoStandard,
    "unseeing": Unseeing,
}


def load_any(manifest: bytes, weights: bytes) -> Predictor:
    """A gauge of the kind that its version names; `broken`, `no-memory` and `no-backbone` do not load."""
    gauge = load(manifest, weights)
    if gauge.version == "broken":
        raise SnapshotCorrupt("The weights do not match their SHA-256.", "Restore the object.")
    if gauge.version == "no-memory":
        raise RuntimeError("CUDA out of memory")
    if gauge.version == "no-backbone":
        raise SettingsError("There are no weights of this backbone.", "Give them.")
    kind: type[BrightnessGauge] = KINDS.get(gauge.version, BrightnessGauge)
    return kind(gauge.line, gauge.version, gauge.threshold)


class Plant:
    """A line whose images are worked off by scoring and trials, each of which can be started anew."""

    def __init__(self, root: Path, partitions: int = 1) -> None:
        self.clock = SetClock()
        self.store = fitted(opened(root, self.clock, partitions))
        self.sent = 0
        self.restart()

    def restart(self) -> None:
        log = self.store.log
        scoring = Scoring(self.store, Gauges(log, self.store.objects, load_any))
        self.workers = [Worker(each, log, self.clock, 16) for each in (scoring, Trials(self.store))]

    def run(self, images: int, defects: int = 0) -> None:
        """`images` more, of which every `defects`-th is bright."""
        numbers = range(self.sent + 1, self.sent + images + 1)
        self.sent += images
        bright = {number for number in numbers if defects and number % defects == 0}
        send(self.store, [(f"image-{n:04d}", png(200 if n in bright else 100, n)) for n in numbers])
        while sum([worker.step() for worker in self.workers]):
            pass
        for worker in self.workers:
            if worker.error is not None:
                raise worker.error

    def start(self, version: str, threshold: float = 150, expected: Expected = Expected.SAME, **rules: object) -> None:
        files = snapshot(version, threshold)
        store_snapshot(self.store.objects, LINE, version, files)
        defaults = {"shadow_share": 1, "shadow_images": 40, "canary_share": 0.5, "canary_images": 20}
        settings = set_line(self.store.objects, LINE, **(defaults | rules))
        begin_trial(self.store, LINE, version, "a test", expected, settings.trial_rules)

    @property
    def active(self) -> str:
        return active_snapshot(self.store.log, LINE).version

    @property
    def stage(self) -> Stage | None:
        trial = active_snapshot(self.store.log, LINE).trial
        return None if trial is None else trial.stage

    def alerts(self, kind: AlertKind) -> list[Alert]:
        found = [Alert.decode(record.value) for record in records(self.store.log, ALERTS)]
        return [each for each in found if each.kind is kind]

    def outcome(self) -> tuple[Outcome, str]:
        (report,) = trial_reports(self.store, LINE)
        return report.outcome, report.why


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "plant")


def test_a_candidate_goes_through_shadow_and_canary_and_takes_over(plant: Plant) -> None:
    plant.run(10)
    plant.start("better", 160)
    plant.run(40, defects=10)
    assert (plant.stage, plant.active) == (Stage.CANARY, "fit-1")
    assert {verdict.gauge_version for verdict in verdicts(plant.store.log)} == {"fit-1"}, "a shadow decides nothing"
    plant.run(80, defects=10)
    assert (plant.stage, plant.active) == (None, "better")
    found = verdicts(plant.store.log)
    by_candidate = [verdict for verdict in found if verdict.trial_id is not None]
    assert len(found) == 130
    assert {verdict.gauge_version for verdict in by_candidate} == {"better"}
    assert 20 <= len(by_candidate) < 80
    assert plant.outcome() == (Outcome.PROMOTED, "")
    assert len(plant.alerts(AlertKind.TRIAL_PROMOTED)) == 1
    assert [alert.detail["version"] for alert in plant.alerts(AlertKind.TRIAL_STAGE)] == ["better", "better"]


def test_the_same_images_are_the_canarys_in_a_replay(plant: Plant) -> None:
    plant.start("better", canary_share=0.3)
    plant.run(1)
    trial = active_snapshot(plant.store.log, LINE).trial
    assert trial is not None
    canary = trial.model_copy(update={"stage": Stage.CANARY})
    drawn = [canary.decides(f"image-{number}") for number in range(2000)]
    assert drawn == [canary.decides(f"image-{number}") for number in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.04)
    assert not any(trial.decides(f"image-{number}") for number in range(2000))


@pytest.mark.parametrize(
    ("version", "threshold", "why", "within"),
    [
        ("alarms-on-all", 10, "otherwise than the active gauge", 10),
        ("passes-all", 1000, "it passes", 50),
        ("slow", 150, "times as long as the active", 12),
        ("failing", 150, "out of memory", 1),
        ("nan", 150, "its score is nan", 1),
        ("no-standard", 150, "standardised nan", 1),
        ("unseeing", 150, "no such crop", 1),
        ("broken", 150, "does not load", 1),
        ("no-memory", 150, "does not load", 1),
        ("no-backbone", 150, "does not load", 1),
    ],
)
@pytest.mark.parametrize("stage", Stage)
def test_a_bad_candidate_is_stopped(
    plant: Plant, version: str, threshold: float, why: str, within: int, stage: Stage
) -> None:
    plant.start(version, threshold, shadow_images=1 if stage is Stage.CANARY else 1000, canary_images=1000)
    images = 0
    while plant.stage is not None and images < 60:
        plant.run(1, defects=4)
        images += 1
    assert images <= within + (stage is Stage.CANARY)
    assert plant.active == "fit-1"
    outcome, reasons = plant.outcome()
    assert (outcome, why in reasons) == (Outcome.STOPPED, True), reasons
    (alert,) = plant.alerts(AlertKind.TRIAL_STOPPED)
    assert why in alert.message
    plant.run(10)
    assert len(verdicts(plant.store.log)) == plant.sent, "no image lost its verdict to a candidate"
    assert all(verdict.score is not None for verdict in verdicts(plant.store.log))


def test_one_slow_pass_of_many_images_stops_nobody(plant: Plant) -> None:
    plant.start("cold", shadow_images=1000)
    plant.run(16)
    trial = active_snapshot(plant.store.log, LINE).trial
    assert trial is not None
    tally = tally_of(plant.store, LINE, trial)
    assert (tally.images, tally.passes, tally.slow) == (16, 1, 1)


def test_fewer_alarms_are_no_fault_where_they_are_expected(plant: Plant) -> None:
    plant.start("passes-all", 1000, Expected.FEWER)
    plant.run(120, defects=4)
    assert plant.active == "passes-all"


@pytest.mark.parametrize("expected", [Expected.FEWER, Expected.MORE])
def test_alarms_are_bounded_where_the_active_gauge_is_no_measure(plant: Plant, expected: Expected) -> None:
    plant.start("alarms-on-all", 10, expected, most_disagreement=0.99)
    plant.run(16)
    assert (plant.stage, plant.active) == (None, "fit-1")
    assert "alarms on" in plant.outcome()[1]


def test_what_both_gauges_reject_is_no_fault(plant: Plant) -> None:
    plant.start("better", 140)
    plant.run(150, defects=2)
    assert plant.active == "better"


def test_a_person_promotes_where_the_rules_say_so(plant: Plant) -> None:
    plant.start("better", canary_images=0, trial_promotion=Promotion.PERSON)
    plant.run(100)
    assert (plant.stage, plant.active) == (Stage.SHADOW, "fit-1")
    (waits,) = plant.alerts(AlertKind.TRIAL_WAITS)
    assert "flowgauge trials promote" in waits.message


@pytest.mark.parametrize("lost", [False, True], ids=["state kept", "state lost"])
@pytest.mark.parametrize("after", [0, 20, 39, 45, 90])
def test_a_restart_at_any_image_loses_no_stage(plant: Plant, after: int, lost: bool) -> None:
    plant.start("better")
    plant.run(after)
    plant.restart()
    if lost:
        plant.store.state.put(f"trial/{LINE}/0", b"", 1)
        plant.clock.advance(2)
    plant.run(200 - after)
    assert plant.active == "better"
    epochs = [(message.version, message.trial and message.trial.stage) for message in announcements(plant.store.log)]
    assert epochs == [("fit-1", None), ("fit-1", Stage.SHADOW), ("fit-1", Stage.CANARY), ("better", None)]
    ids = [verdict.verdict_id for verdict in verdicts(plant.store.log)]
    assert len(ids) == len(set(ids)) == 200


def test_shadow_verdicts_that_come_again_count_once(plant: Plant) -> None:
    plant.start("better", shadow_images=1000)
    plant.run(20)
    trial = active_snapshot(plant.store.log, LINE).trial
    assert trial is not None
    before = tally_of(plant.store, LINE, trial)
    again = [record for record in records(plant.store.log, SHADOW_VERDICTS)]
    plant.workers[1].processor.process(again)
    plant.workers[1].processor.checkpoint()
    assert tally_of(plant.store, LINE, trial) == before
    assert before.images == 20


def test_a_tally_that_another_version_wrote_is_counted_anew(plant: Plant) -> None:
    plant.start("better", shadow_images=1000)
    plant.run(20)
    plant.store.state.put(f"trial/{LINE}/0", b'{"tally": "in other words"}', 60)
    plant.restart()
    plant.run(20)
    trial = active_snapshot(plant.store.log, LINE).trial
    assert trial is not None
    assert tally_of(plant.store, LINE, trial).images == 20


def test_a_partition_that_is_lost_between_batch_and_checkpoint_is_let_go(plant: Plant) -> None:
    plant.start("better", shadow_images=1000)
    plant.workers[0].step()
    send(plant.store, [("image-1", png(100))])
    plant.workers[0].step()
    trials = plant.workers[1].processor
    trials.process(records(plant.store.log, SHADOW_VERDICTS))
    trials.start_offset(SHADOW_VERDICTS, 0, 0)
    trials.checkpoint()
    plant.run(1)
    trial = active_snapshot(plant.store.log, LINE).trial
    assert trial is not None
    assert tally_of(plant.store, LINE, trial).images == 2


@pytest.mark.parametrize(
    "rules", [{"shadow_hours": 1e12}, {"shadow_hours": float("inf")}, {"most_slowdown": float("inf")}]
)
def test_rules_that_no_trial_can_keep_to_are_refused(plant: Plant, rules: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(rules))):
        set_line(plant.store.objects, LINE, **rules)


def test_what_is_no_shadow_verdict_is_a_dead_letter(plant: Plant) -> None:
    from flowgauge.domain.dead_letters import REASON
    from flowgauge.domain.messages import DEAD_LETTERS
    from flowgauge.domain.ports import Outgoing

    plant.store.log.append([Outgoing(SHADOW_VERDICTS, LINE, b"{}", partition=0)])
    plant.run(1)
    (letter,) = records(plant.store.log, DEAD_LETTERS)
    assert "no shadow verdict" in letter.headers[REASON]


def test_a_candidate_with_which_workers_end_is_asked_three_times(plant: Plant) -> None:
    plant.start("crashing")
    for _ in range(3):
        with pytest.raises(Crash):
            plant.run(1)
        plant.restart()
    plant.run(1)
    assert plant.stage is None
    assert "ended 3 times" in plant.outcome()[1]
    assert len(verdicts(plant.store.log)) == plant.sent


def test_a_candidate_is_not_to_blame_for_the_end_of_a_pass_with_another_lines(plant: Plant) -> None:
    plant.start("crashing")
    fitted(plant.store, line="other")
    store_snapshot(plant.store.objects, "other", "better", snapshot("better", 160, "other"))
    rules = set_line(plant.store.objects, "other", shadow_share=1, shadow_images=1000).trial_rules
    begin_trial(plant.store, "other", "better", "a test", Expected.SAME, rules)
    for number in range(3):
        send(plant.store, [(f"first-{number}", png(100))])
        send(plant.store, [(f"other-{number}", png(100))], line="other")
        with pytest.raises(Crash):
            plant.run(0)
        plant.restart()
    plant.run(1)
    assert plant.stage is None
    trial = active_snapshot(plant.store.log, "other").trial
    assert trial is not None
    send(plant.store, [("other-more", png(100))], line="other")
    plant.run(0)
    tally = tally_of(plant.store, "other", trial)
    assert tally.images > 0
    assert not tally.failures


def test_a_candidate_that_a_worker_has_outlived_once_is_asked_after_any_number_of_ends(plant: Plant) -> None:
    plant.start("better", shadow_images=1000)
    for _ in range(5):
        plant.run(1)
        plant.restart()
    assert plant.stage is Stage.SHADOW
    trial = active_snapshot(plant.store.log, LINE).trial
    assert trial is not None
    assert tally_of(plant.store, LINE, trial).images == 5


def test_the_record_counts_the_images_of_all_partitions(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "plant", partitions=2)
    plant.start("alarms-on-all", 10, shadow_images=1000)
    sent = 0
    while plant.stage is not None:
        image = image_record(event(f"image-{sent}"), png(100, sent))
        plant.store.log.append([replace(image, partition=sent % 2)])
        plant.run(0)
        sent += 1
    (report,) = trial_reports(plant.store, LINE)
    assert report.tally.images == sent


def test_a_line_has_one_trial_at_a_time(plant: Plant) -> None:
    plant.start("better")
    with pytest.raises(UserError, match="one trial at a time"):
        plant.start("another")


def test_a_rollback_ends_the_trial(plant: Plant) -> None:
    plant.start("better")
    plant.run(10)
    record_end(plant.store, roll_back(plant.store, LINE, "fit-1"), Outcome.SUPERSEDED, "a test")
    plant.run(10)
    assert (plant.stage, plant.active) == (None, "fit-1")
    assert plant.outcome()[0] is Outcome.SUPERSEDED


def stopping(plant: Plant) -> tuple[list[Outgoing], str]:
    """What the worker appends to stop a trial that is under way until then, and the trial's id."""
    plant.start("dark", threshold=90, shadow_images=1000)
    send(plant.store, [(f"image-{number}", png(100, number)) for number in range(16)])
    plant.workers[1].step()
    plant.workers[0].step()
    late = plant.workers[1].processor.process(records(plant.store.log, SHADOW_VERDICTS))
    assert any(each.topic == SNAPSHOTS for each in late)
    trial = active_snapshot(plant.store.log, LINE).trial
    assert trial is not None
    return late, trial.short_id


def test_the_record_of_a_trial_tells_of_a_workers_announcement_that_came_before_a_persons(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, trial_id = stopping(plant)
    append = plant.store.log.append

    def overtaken(outgoing: Sequence[Outgoing]) -> None:
        monkeypatch.setattr(plant.store.log, "append", append)
        append(late)
        plant.workers[1].processor.checkpoint()
        append(outgoing)

    monkeypatch.setattr(plant.store.log, "append", overtaken)
    with pytest.raises(Conflict):
        promote(plant.store, LINE, trial_id, "a person")
    (report,) = trial_reports(plant.store, LINE)
    assert plant.active == "fit-1"
    assert (report.outcome, report.by) == (Outcome.STOPPED, "trials")


def test_the_record_of_a_trial_tells_of_a_persons_announcement_that_came_before_a_workers(plant: Plant) -> None:
    late, trial_id = stopping(plant)
    promote(plant.store, LINE, trial_id, "a person")
    plant.store.log.append(late)
    plant.workers[1].processor.checkpoint()
    (report,) = trial_reports(plant.store, LINE)
    assert plant.active == "dark"
    assert (report.outcome, report.by) == (Outcome.PROMOTED, "a person")


@pytest.mark.parametrize("outcome", [Outcome.PROMOTED, Outcome.STOPPED])
def test_a_record_that_a_crash_left_out_is_completed_at_the_next_start(plant: Plant, outcome: Outcome) -> None:
    plant.start("better")
    active = active_snapshot(plant.store.log, LINE)
    assert active.trial is not None
    plant.store.log.append([as_record(ended(plant.store, active, active.trial, outcome))])
    plant.restart()
    plant.run(0)
    assert plant.outcome()[0] is outcome
    assert "did not come to record it" in plant.outcome()[1]


def test_a_damaged_record_of_a_trial_ends_no_worker_and_hides_no_other(plant: Plant) -> None:
    plant.start("better")
    active = active_snapshot(plant.store.log, LINE)
    assert active.trial is not None
    plant.store.log.append([as_record(ended(plant.store, active, active.trial, Outcome.STOPPED))])
    plant.store.objects.put(trial_object(LINE, active.trial.trial_id), b"{")
    plant.store.objects.put(trials_folder(LINE) + "notes.txt", b"of a person")
    plant.restart()
    plant.run(0)
    assert plant.outcome()[0] is Outcome.STOPPED


class Overtaken:
    """`log`, on which another announces the gauge `version` of the line right after the first announcement."""

    def __init__(self, log: Log, version: str) -> None:
        self._log = log
        self._version: str | None = version

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, records: Sequence[Outgoing]) -> None:
        self._log.append(records)
        version, self._version = self._version, None
        if version is not None:
            active = active_snapshot(self._log, LINE)
            changes = {"epoch": active.epoch + 1, "version": version, "trial": None}
            self._log.append([as_record(active.model_copy(update=changes))])


def test_an_announcement_that_held_is_not_made_again_where_another_follows_at_once(plant: Plant) -> None:
    store_snapshot(plant.store.objects, LINE, "dark", snapshot("dark"))
    overtaken = replace(plant.store, log=cast(Log, Overtaken(plant.store.log, "better")))
    roll_back(overtaken, LINE, "dark")
    assert [message.version for message in announcements(plant.store.log, LINE)][-2:] == ["dark", "better"]
    assert plant.active == "better"


def test_a_promotion_is_recorded_as_done_though_another_announcement_follows_at_once(plant: Plant) -> None:
    plant.start("better")
    trial = active_snapshot(plant.store.log, LINE).trial
    assert trial is not None
    overtaken = replace(plant.store, log=cast(Log, Overtaken(plant.store.log, "dark")))
    assert promote(overtaken, LINE, trial.short_id, "mara").outcome is Outcome.PROMOTED
    assert [each.state for each in latest_changes(plant.store, 1)] == [ChangeState.DONE]


def test_the_announcement_that_holds_survives_compaction(plant: Plant) -> None:
    plant.start("better", shadow_images=5)
    send(plant.store, [(f"image-{number}", png(100, number)) for number in range(5)])
    plant.workers[0].step()
    trials = plant.workers[1].processor
    late = trials.process(records(plant.store.log, SHADOW_VERDICTS))
    roll_back(plant.store, LINE, "fit-1")
    plant.store.log.append(late)
    trials.checkpoint()
    plant.restart()
    for worker in [*plant.workers, Worker(Trials(plant.store), plant.store.log, plant.clock, 16)] * 2:
        worker.step()
    *_, last = announcements(plant.store.log, LINE)
    assert (last.version, last.trial) == ("fit-1", None), "compaction keeps this one"
    assert active_snapshot(plant.store.log, LINE) == last
    assert last.epoch == 4


def test_a_new_gauge_goes_through_a_trial_where_the_policy_says_so(plant: Plant) -> None:
    for version in ("fit-2", "fit-3"):
        store_snapshot(plant.store.objects, LINE, version, snapshot(version))
    sha256 = {version: snapshot(version).sha256 for version in ("fit-2", "fit-3")}
    assert introduce(plant.store, LINE, "fit-2", sha256["fit-2"], None, "a test", Expected.SAME) is None
    assert plant.active == "fit-2"
    set_line(plant.store.objects, LINE, policy="shadow")
    trial = introduce(plant.store, LINE, "fit-3", sha256["fit-3"], None, "a test", Expected.SAME)
    assert trial is not None
    assert (trial.version, plant.active, plant.stage) == ("fit-3", "fit-2", Stage.SHADOW)


@pytest.mark.parametrize("policy", ["auto", "shadow"])
def test_a_gauge_that_was_made_of_one_that_is_active_no_more_is_refused(plant: Plant, policy: str) -> None:
    set_line(plant.store.objects, LINE, policy=policy)
    moved = snapshot("moved")
    store_snapshot(plant.store.objects, LINE, "moved", moved)
    fitted(plant.store, "adapted-1")
    with pytest.raises(Conflict, match=r"has the gauge adapted-1 now, and moved was made of fit-1"):
        introduce(plant.store, LINE, "moved", moved.sha256, "fit-1", "a test", Expected.SAME)
    assert (plant.active, plant.stage) == ("adapted-1", None)
    introduce(plant.store, LINE, "moved", moved.sha256, "adapted-1", "a test", Expected.SAME)
    assert (plant.active, plant.stage) != ("adapted-1", None)


def test_errors_are_counted_by_the_labels_that_came_meanwhile(plant: Plant) -> None:
    from flowgauge.domain.golden import Label
    from flowgauge.registry.golden_sets import add_golden

    plant.start("blind", 1000, Expected.FEWER, shadow_images=1000)
    plant.run(12, defects=4)
    for number, label in ((4, Label.DEFECT), (8, Label.DEFECT), (1, Label.GOOD)):
        data = png(200 if number % 4 == 0 else 100, number)
        add_golden(plant.store.objects, LINE, label, f"image-{number:04d}", data)
    trial = active_snapshot(plant.store.log, LINE).trial
    assert trial is not None
    found = labelled(plant.store, LINE, trial.trial_id)
    assert (found.good, found.defects) == (1, 2)
    assert (found.active_misses, found.candidate_misses) == (0, 2)
    assert (found.active_false_alarms, found.candidate_false_alarms) == (0, 0)


def test_both_gauges_are_in_the_shadow_verdict(plant: Plant) -> None:
    plant.start("better", 250)
    plant.run(4, defects=4)
    seen = [ShadowVerdict.decode(record.value) for record in records(plant.store.log, SHADOW_VERDICTS)]
    assert [each.image_id for each in seen] == [verdict.image_id for verdict in verdicts(plant.store.log)]
    assert [each.active.decision for each in seen] == [Decision.PASS] * 3 + [Decision.REJECT]
    assert all(each.candidate is not None and each.candidate.decision is Decision.PASS for each in seen)


def _ever_broken(candidate: np.ndarray, active: np.ndarray) -> np.ndarray:
    """(T,) the first image, from 1 on, at which one of T trials leaves a bound; 0 where none does. Alarms (T, N)."""
    images = np.arange(1, candidate.shape[1] + 1)
    alone = (candidate != active).cumsum(1)
    tested = [
        log_evidence(alone, images, 0.1),
        log_evidence((candidate & ~active).cumsum(1), alone, 0.5),
        log_evidence((active & ~candidate).cumsum(1), alone, 0.5),
        log_evidence(np.zeros_like(alone), images, 0.5),
    ]
    over = np.max(tested, axis=0) >= np.log(len(tested) / ERROR)
    return np.where(over.any(1), over.argmax(1) + 1, 0)


def test_a_thousand_candidates_without_a_difference_are_rarely_stopped() -> None:
    random = np.random.default_rng(0)
    # alarms of independent chance: two gauges of one line agree more than this
    active, candidate = random.random((2, 1000, 2000)) < 0.04
    assert np.mean(_ever_broken(candidate, active) > 0) <= 0.05


def test_a_candidate_with_twice_the_alarms_is_always_stopped() -> None:
    random = np.random.default_rng(0)
    chance = random.random((1000, 2000))
    first = _ever_broken(chance < 0.1, chance < 0.05)
    assert (first > 0).all()
    assert np.median(first) < 200


def test_bounds_are_tested_as_the_simulation_does() -> None:
    bounds = [Bound("a", 12, 40, 0.1, ""), Bound("b", 2, 40, 0.1, "")]
    assert broken(bounds) == bounds[:1]
    assert log_evidence(0, 0, 0.3) == pytest.approx(0)
