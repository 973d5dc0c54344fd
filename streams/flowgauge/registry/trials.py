"""Trials of candidates: begun, taken further and ended by announcements of the line, the records of those that have
ended, and how a new gauge of a line is introduced.
"""

from collections.abc import Callable
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import Field

from flowgauge.domain.errors import Conflict
from flowgauge.domain.lines import Policy
from flowgauge.domain.messages import SHADOW_VERDICTS, Expected, Message, SnapshotAnnouncement, Stage, Trial, TrialRules
from flowgauge.domain.object_keys import snapshot_prefix, trial_object, trials_folder
from flowgauge.registry.lines import line_settings
from flowgauge.registry.snapshots import (
    MANIFEST,
    active_snapshot,
    active_snapshots,
    announce,
    announcement,
    fetch_snapshot,
    replaced,
)
from flowgauge.runtime.backend import Store, kept_record, kept_state
from flowgauge.trials.tally import Outcome, Tally, TrialReport, merged

# what a trial may pause without being counted from the start again; longer only keeps what nobody asks for any more
_TTL_SECONDS = 30 * 86_400


class TrialState(Message):
    """What was counted of a trial in one partition. `rank` is that of the last image in it (see `Source.rank`): a
    replay is not counted again. `reported`: what alerts have said of it.
    """

    trial_id: UUID
    rank: tuple[int, int] = (0, -1)
    tally: Tally = Field(default_factory=Tally)
    reported: tuple[str, ...] = ()


def begun(
    store: Store,
    active: SnapshotAnnouncement,
    version: str,
    sha256: str,
    by: str,
    expected: Expected,
    rules: TrialRules,
) -> SnapshotAnnouncement:
    """What puts the stored `version`, whose manifest has that `sha256`, on trial beside the active gauge."""
    line, epoch, now = active.line, active.epoch + 1, store.clock.now()
    trial = Trial(
        trial_id=uuid5(NAMESPACE_URL, f"trial:{line}:{version}:{epoch}"),
        version=version,
        uri=store.objects.uri(f"{snapshot_prefix(line, version)}/{MANIFEST}"),
        sha256=sha256,
        stage=Stage.SHADOW,
        began_at=now,
        by=by,
        expected=expected,
        rules=rules,
    )
    return _next(store, active, trial=trial)


def as_canary(store: Store, active: SnapshotAnnouncement, trial: Trial) -> SnapshotAnnouncement:
    """What lets the candidate decide for a share of the images."""
    return _next(store, active, trial=trial.model_copy(update={"stage": Stage.CANARY}))


def report_of(
    store: Store, active: SnapshotAnnouncement, trial: Trial, outcome: Outcome, tally: Tally, by: str, why: str = ""
) -> TrialReport:
    """The record of a trial that ends. To be kept once the announcement that ends it holds: of two who end a trial at
    the same moment one alone does, and the record tells of that one.
    """
    return TrialReport(
        line=active.line,
        trial=trial,
        active=active.version,
        outcome=outcome,
        at=store.clock.now(),
        by=by,
        why=why,
        tally=tally,
    )


def keep_report(store: Store, report: TrialReport) -> None:
    store.objects.put(trial_object(report.line, report.trial.trial_id), report.encode())


def record_end(
    store: Store, announced: SnapshotAnnouncement, outcome: Outcome, by: str, why: str = ""
) -> TrialReport | None:
    """Keep the record of the trial that `announced`, which holds, has ended; None where none was under way."""
    before = replaced(store.log, announced)
    if before is None or before.trial is None:
        return None
    report = report_of(store, before, before.trial, outcome, tally_of(store, before.line, before.trial), by, why)
    keep_report(store, report)
    return report


def complete_record(store: Store, before: SnapshotAnnouncement, after: SnapshotAnnouncement, by: str) -> None:
    """Keep a record of the trial of `before`, which `after` has ended, where whoever ended it did not come to that."""
    assert before.trial is not None
    if trial_report(store, before.line, before.trial.trial_id) is None:
        kept = {before.trial.version: Outcome.PROMOTED, before.version: Outcome.STOPPED}
        outcome = kept.get(after.version, Outcome.SUPERSEDED)
        record_end(store, after, outcome, by, "Whoever ended it did not come to record it; the changes tell who.")


def ended(store: Store, active: SnapshotAnnouncement, trial: Trial, outcome: Outcome) -> SnapshotAnnouncement:
    """What ends the trial, with the candidate as the active gauge or with the one that was."""
    if outcome is Outcome.PROMOTED:
        return _next(
            store, active, version=trial.version, uri=trial.uri, sha256=trial.sha256, parent=active.version, trial=None
        )
    return _next(store, active, trial=None)


def _next(store: Store, active: SnapshotAnnouncement, **changes: Any) -> SnapshotAnnouncement:
    return active.model_copy(update={"epoch": active.epoch + 1, "at": store.clock.now(), **changes})


def state_of(store: Store, line: str, trial: Trial, partition: int) -> TrialState:
    """What was counted of `trial` in that partition."""
    state = kept_state(store.state, _key(line, partition), TrialState)
    return state if state is not None and state.trial_id == trial.trial_id else TrialState(trial_id=trial.trial_id)


def keep_state(store: Store, line: str, partition: int, state: TrialState) -> None:
    store.state.put(_key(line, partition), state.encode(), _TTL_SECONDS)


def tally_of(store: Store, line: str, trial: Trial) -> Tally:
    """What was counted of `trial` in all partitions."""
    partitions = range(store.log.partitions(SHADOW_VERDICTS))
    return merged([state_of(store, line, trial, partition).tally for partition in partitions])


def trial_report(store: Store, line: str, trial_id: UUID) -> TrialReport | None:
    """The record of a trial that has ended; None for any other."""
    return kept_record(store.objects, trial_object(line, trial_id), TrialReport)


def trial_reports(store: Store, line: str) -> list[TrialReport]:
    """The trials of `line` that have ended, in order of time."""
    names = store.objects.names(trials_folder(line))
    found = (kept_record(store.objects, name, TrialReport) for name in names)
    return sorted((report for report in found if report is not None), key=lambda report: report.at)


def introduce(
    store: Store, line: str, version: str, sha256: str, parent: str | None, by: str, expected: Expected
) -> Trial | None:
    """Make a stored gauge, whose manifest has that `sha256`, the active one. Where the line's policy is `shadow` and it
    has a gauge, put it on trial instead, which is returned; raises `UserError` where a trial is under way then, and
    where it was made of a `parent` that is not the active one any more.
    """

    def require_parent(active: SnapshotAnnouncement | None) -> None:
        if parent is not None and (active is None or active.version != parent):
            now = "has no gauge" if active is None else f"has the gauge {active.version} now"
            raise Conflict(f"Line {line} {now}, and {version} was made of {parent}.", "Make it anew of the active one.")

    def made(active: SnapshotAnnouncement | None) -> SnapshotAnnouncement:
        require_parent(active)
        return announcement(store, line, version, sha256, parent, active)

    settings = line_settings(store.objects, line)
    if settings.policy is Policy.SHADOW and line in active_snapshots(store.log):
        return begin_trial(store, line, version, by, expected, settings.trial_rules, require_parent)
    announced = announce(store, line, made)
    record_end(store, announced, Outcome.SUPERSEDED, by, f"{version} became active")
    return None


def require_no_trial(store: Store, line: str) -> None:
    """Raises `UserError` where a gauge of `line` would have to wait for another's trial: before one is made."""
    active = active_snapshots(store.log).get(line)
    if active is not None and line_settings(store.objects, line).policy is Policy.SHADOW:
        _require_none(active)


def begin_trial(
    store: Store,
    line: str,
    version: str,
    by: str,
    expected: Expected,
    rules: TrialRules,
    check: Callable[[SnapshotAnnouncement], None] = lambda active: None,
) -> Trial:
    """Put a stored snapshot on trial; `check` may raise for the gauge that is active then. Raises `UserError` where a
    trial is under way or it is the active one, and `GaugeMissing` for one not stored, or a line without a gauge.
    """
    sha256 = fetch_snapshot(store.objects, line, version).sha256

    def made(active: SnapshotAnnouncement | None) -> SnapshotAnnouncement:
        active = active or active_snapshot(store.log, line)
        check(active)
        require_startable(active, version)
        return begun(store, active, version, sha256, by, expected, rules)

    trial = announce(store, line, made).trial
    assert trial is not None
    return trial


def require_startable(active: SnapshotAnnouncement, version: str) -> None:
    """Raises `UserError` where a trial is under way or `version` is the active one."""
    _require_none(active)
    if active.version == version:
        raise Conflict(f"{version} is the active gauge of {active.line}.", "Try another of `flowgauge snapshots list`.")


def _require_none(active: SnapshotAnnouncement) -> None:
    if active.trial is not None:
        raise Conflict(
            f"{active.trial.version} is on trial on line {active.line}, and a line has one trial at a time.",
            f"Wait for its end, or end it with `flowgauge trials stop {active.line} {active.trial.short_id}`.",
        )


def _key(line: str, partition: int) -> str:
    return f"trial/{line}/{partition}"
