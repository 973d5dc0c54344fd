"""Trials of good candidates and of bad ones, while workers of every role are killed."""

from datetime import UTC, datetime
from functools import partial

from flowgauge.domain.lines import Policy
from flowgauge.domain.messages import AlertKind, Expected, SnapshotAnnouncement, Stage, Trial
from flowgauge.registry.lines import line_settings, set_line
from flowgauge.registry.snapshots import active_snapshot, announcements, store_snapshot
from flowgauge.registry.trials import begin_trial, trial_reports
from flowgauge.runtime.roles import Role
from flowgauge.trials.tally import Outcome
from tests.support.clusters import LINES
from tests.support.counts import latest_alerts
from tests.support.faults.scene import Scene
from tests.support.streaming import snapshot

_BAD = {"alarms-on-all": 1.0, "passes-all": 1000.0, "slow": 150.0}
_WITHIN = 50
_RULES = {"shadow_share": 1.0, "canary_share": 0.5}


def bad_candidates_are_stopped(scene: Scene) -> datetime:
    """One of each kind on a line of its own, in shadow and then as canary: within 50 images."""
    scene.cameras.reject_every = 4
    before = scene.cameras.sent
    # those of before have fewer defects, by which a candidate that passes everything is found out
    scene.cluster.wait("the images of before", lambda: sum(map(len, scene.verdicts.read().images().values())) > before)
    for stage in Stage:
        lines = scene.dice.sample(LINES, len(_BAD))
        began = {}
        for line, (kind, threshold) in zip(lines, _BAD.items(), strict=True):
            version = f"{kind}-{scene.dice.getrandbits(32):08x}"
            shadow_images = 1 if stage is Stage.CANARY else 10_000
            began[line] = _start(scene, line, version, threshold, shadow_images, 10_000)
        for line, trial in began.items():
            scene.cluster.wait(f"the end of {trial.version}", partial(_is_over, scene, line, trial))
            scene.checks.append(partial(_stopped_in_time, scene, line, trial))
    scene.cameras.reject_every = 10
    return datetime.now(UTC)


def workers_are_killed_in_a_trial(scene: Scene) -> datetime:
    """Of every role, in shadow and as canary, with two for scoring: the candidate passes both, and no stage comes
    twice.
    """
    second = scene.with_second_worker()
    line = scene.dice.choice(LINES)
    version = f"better-{scene.dice.getrandbits(32):08x}"
    trial = _start(scene, line, version, 155.0, 100, 50)
    adaptation = scene.cluster.start(Role.ADAPTATION)
    for stage in Stage:
        scene.cluster.wait(f"{stage} of {version}", partial(_is_in, scene, line, stage))
        for role in scene.dice.sample([Role.SCORING, Role.DOWNSTREAM, Role.ADAPTATION], 3 if scene.long else 1):
            scene.hesitate()
            if role is Role.SCORING:
                scene.cluster.kill(scene.scoring)
                scene.scoring = scene.cluster.start(role)
            elif role is Role.DOWNSTREAM:
                scene.cluster.kill(scene.downstream)
                scene.downstream = scene.cluster.start(role)
            else:
                scene.cluster.kill(adaptation)
                adaptation = scene.cluster.start(role)
    scene.cluster.wait(f"the end of {version}", partial(_is_over, scene, line, trial))
    scene.cluster.stop([adaptation, second])
    scene.checks.append(partial(_promoted_once, scene, line, trial))
    return datetime.now(UTC)


def drift_leads_to_another_gauge(scene: Scene) -> datetime:
    """The light of a line changes: its gauge is adapted, tried in shadow and as canary, and takes over."""
    line, store = scene.dice.choice(LINES), scene.cluster.store
    before = active_snapshot(store.log, line).version
    rules = {**_RULES, "shadow_images": 40, "canary_images": 20}
    set_line(store.objects, line, policy=Policy.SHADOW, warmup_images=32, **rules)
    adaptation = scene.cluster.start(Role.ADAPTATION)
    scene.cameras.brighter[line] = 60
    scene.cluster.wait("another gauge", lambda: active_snapshot(store.log, line).version != before)
    adapted = active_snapshot(store.log, line)
    scene.cluster.wait("its verdicts", lambda: _last_version(scene, line) == adapted.version)
    scene.cluster.stop([adaptation])
    set_line(store.objects, line, policy=Policy.OFF)
    (report,) = (each for each in trial_reports(store, line) if each.trial.version == adapted.version)
    scene.checks.append(partial(_promoted_once, scene, line, report.trial))
    return datetime.now(UTC)


def _start(scene: Scene, line: str, version: str, threshold: float, shadow_images: int, canary_images: int) -> Trial:
    store = scene.cluster.store
    # higher, where the light of the line has changed before
    files = snapshot(version, threshold + scene.cameras.brighter[line], line)
    store_snapshot(store.objects, line, version, files)
    rules = {**_RULES, "shadow_images": shadow_images, "canary_images": canary_images}
    settings = line_settings(store.objects, line).changed(**rules)
    return begin_trial(store, line, version, "a test", Expected.SAME, settings.trial_rules)


def _of_trial(scene: Scene, line: str, trial: Trial) -> list[SnapshotAnnouncement]:
    """The announcements that hold while the trial is under way, in order."""
    found: dict[int, SnapshotAnnouncement] = {}
    for message in announcements(scene.cluster.store.log, line):
        if message.trial is not None and message.trial.trial_id == trial.trial_id:
            found.setdefault(message.epoch, message)
    return list(found.values())


def _is_in(scene: Scene, line: str, stage: Stage) -> bool:
    trial = active_snapshot(scene.cluster.store.log, line).trial
    return trial is not None and trial.stage is stage


def _is_over(scene: Scene, line: str, trial: Trial) -> bool:
    now = active_snapshot(scene.cluster.store.log, line).trial
    return now is None or now.trial_id != trial.trial_id


def _last_version(scene: Scene, line: str) -> str | None:
    return scene.verdicts.read().counted[line][-1].verdict.gauge_version


def _stopped_in_time(scene: Scene, line: str, trial: Trial) -> None:
    (report,) = (each for each in trial_reports(scene.cluster.store, line) if each.trial.trial_id == trial.trial_id)
    assert report.outcome is Outcome.STOPPED, report
    if trial.version.startswith("slow"):  # its time counts once in a pass, of however many images
        assert report.tally.passes <= _WITHIN, report
    else:
        assert report.tally.images <= _WITHIN, report
        by_it = [item for item in scene.verdicts.counted[line] if item.verdict.gauge_version == trial.version]
        assert len(by_it) <= _WITHIN
    stopped = latest_alerts(scene.cluster, AlertKind.TRIAL_STOPPED)
    assert [alert.detail["version"] for alert in stopped].count(trial.version) == 1


def _promoted_once(scene: Scene, line: str, trial: Trial) -> None:
    assert [message.trial.stage for message in _of_trial(scene, line, trial) if message.trial] == list(Stage)
    (report,) = (each for each in trial_reports(scene.cluster.store, line) if each.trial.trial_id == trial.trial_id)
    assert report.outcome is Outcome.PROMOTED, report
    promoted = latest_alerts(scene.cluster, AlertKind.TRIAL_PROMOTED)
    assert [alert.detail["version"] for alert in promoted].count(trial.version) == 1
