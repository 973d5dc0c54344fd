"""Trials that people ask for: begun, looked into, stopped and promoted."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from flowgauge.domain.errors import Conflict, SettingsError
from flowgauge.domain.golden import Label
from flowgauge.domain.messages import SHADOW_VERDICTS, Expected, ShadowVerdict, SnapshotAnnouncement, Trial, TrialRules
from flowgauge.domain.problems import problems
from flowgauge.registry.golden_sets import GoldenIndex, golden_set
from flowgauge.registry.lines import line_settings
from flowgauge.registry.snapshots import active_snapshot, active_snapshots, announce
from flowgauge.registry.trials import (
    begin_trial,
    ended,
    record_end,
    require_startable,
    tally_of,
    trial_report,
    trial_reports,
)
from flowgauge.runtime.backend import Store, records_from
from flowgauge.services.changes import recorded
from flowgauge.trials.tally import Outcome, Tally, TrialReport


@dataclass(frozen=True)
class Labelled:
    """Images that people have labelled, of those that both gauges predicted, and the errors of each gauge on them: a
    false alarm rejects or reviews a good one, a miss passes a defect.
    """

    good: int
    defects: int
    active_false_alarms: int
    active_misses: int
    candidate_false_alarms: int
    candidate_misses: int


@dataclass(frozen=True)
class TrialView:
    """A trial under way, or one that has ended: then `report` is its record."""

    line: str
    active: str
    trial: Trial
    tally: Tally
    report: TrialReport | None

    @property
    def agreement(self) -> tuple[float, tuple[float, float]] | None:
        """The share of images with one decision, in [0, 1], and its 95 % interval; None before the first image."""
        from flowgauge.evaluation.intervals import binomial_interval  # scikit-learn, which takes seconds

        images = self.tally.images
        if not images:
            return None
        same = images - self.tally.disagreements
        return same / images, binomial_interval(same, images)


def trials_under_way(store: Store) -> list[TrialView]:
    """Of all lines, by name."""
    found = sorted(active_snapshots(store.log).items())
    return [_under_way(store, active, active.trial) for _, active in found if active.trial is not None]


def trials_ended(store: Store, line: str) -> list[TrialView]:
    """Those of `line`, the last one first."""
    reports = reversed(trial_reports(store, line))
    return [TrialView(each.line, each.active, each.trial, each.tally, each) for each in reports]


def all_trials(store: Store, line: str) -> list[TrialView]:
    """The trial of `line` that is under way, and those that have ended, the last one first."""
    active = active_snapshots(store.log).get(line)
    now = [] if active is None or active.trial is None else [_under_way(store, active, active.trial)]
    return now + trials_ended(store, line)


def trial_of(store: Store, line: str, trial_id: UUID) -> TrialView | None:
    """The trial of `line` with that id; None where there is none."""
    if (report := trial_report(store, line, trial_id)) is not None:
        return TrialView(line, report.active, report.trial, report.tally, report)
    active = active_snapshots(store.log).get(line)
    if active is None or active.trial is None or active.trial.trial_id != trial_id:
        return None
    return _under_way(store, active, active.trial)


def labelled(store: Store, line: str, trial_id: UUID) -> Labelled:
    """What people's labels say of the images of a trial, as far as the topic still holds them."""
    golden = list(golden_set(store.objects, line))
    index = GoldenIndex(store.objects, golden)
    errors: dict[Label, list[tuple[bool, bool]]] = {Label.GOOD: [], Label.DEFECT: []}
    for seen in _shadow_verdicts(store, line, trial_id) if golden else ():
        found = index.of(seen.image_id, seen.image_sha256)
        if found is not None and seen.candidate is not None:
            wrong = found.label is Label.GOOD
            errors[found.label].append((seen.active.alarm is wrong, seen.candidate.alarm is wrong))
    good, defects = errors[Label.GOOD], errors[Label.DEFECT]
    return Labelled(
        len(good),
        len(defects),
        sum(active for active, _ in good),
        sum(active for active, _ in defects),
        sum(candidate for _, candidate in good),
        sum(candidate for _, candidate in defects),
    )


def start_trial(
    store: Store, line: str, version: str, by: str, expected: Expected, changes: Mapping[str, Any] | None = None
) -> Trial:
    """Put a stored snapshot on trial beside the active gauge; `changes` are rules other than the line's settings.

    Raises `UserError` where a trial is under way or the snapshot is the active one, `SettingsError` for rules that do
    not hold, `GaugeMissing`, and `SnapshotInvalid` for a snapshot that does not load.
    """
    # torch, which takes seconds and 800 MiB: whoever only looks at trials does without
    from flowgauge.services.snapshots import stored_gauge

    stored_gauge(store, line, version)
    try:
        rules = TrialRules.model_validate(line_settings(store.objects, line).model_dump() | dict(changes or {}))
    except ValidationError as error:
        raise SettingsError(f"{problems(error)}.", "See `flowgauge trials start --help`.") from error
    require_startable(active_snapshot(store.log, line), version)
    with recorded(store, by, "start trial", line, version) as found:
        trial = begin_trial(store, line, version, by, expected, rules)
        found["after"] = {"trial_id": str(trial.trial_id)}
    return trial


def stop_trial(store: Store, line: str, trial_id: str, by: str, why: str) -> TrialReport:
    """End the trial of `line`; the active gauge stays. `trial_id` is the one that the person `by` was shown, or its
    first digits, eight at least. Raises `Conflict` where it is not under way.
    """
    return _end(store, line, trial_id, Outcome.STOPPED, by, why)


def promote(store: Store, line: str, trial_id: str, by: str, why: str = "") -> TrialReport:
    """The same; the candidate is the active gauge from now on."""
    return _end(store, line, trial_id, Outcome.PROMOTED, by, why)


def _end(store: Store, line: str, trial_id: str, outcome: Outcome, by: str, why: str) -> TrialReport:
    def under_way(active: SnapshotAnnouncement | None) -> tuple[SnapshotAnnouncement, Trial]:
        remedy = f"`flowgauge trials list --line {line}` shows what is, and what came of the others."
        if active is None or active.trial is None:
            raise Conflict(f"No trial is under way on line {line}.", remedy)
        if trial_id != str(active.trial.trial_id)[: max(len(trial_id), len(active.trial.short_id))]:
            raise Conflict(
                f"Trial {trial_id!r} is not under way on line {line}, but {active.trial.short_id} is.", remedy
            )
        return active, active.trial

    def made(last: SnapshotAnnouncement | None) -> SnapshotAnnouncement:
        return ended(store, *under_way(last), outcome)

    active, trial = under_way(active_snapshots(store.log).get(line))
    action = "promote" if outcome is Outcome.PROMOTED else "stop trial"
    before, after = {"version": active.version}, {"trial_id": str(trial.trial_id), "why": why}
    with recorded(store, by, action, line, trial.version, before, after) as found:
        report = record_end(store, announce(store, line, made), outcome, by, why)
        assert report is not None
        found["after"] = after | {"images": report.tally.images}
    return report


def _under_way(store: Store, active: SnapshotAnnouncement, trial: Trial) -> TrialView:
    return TrialView(active.line, active.version, trial, tally_of(store, active.line, trial), None)


def _shadow_verdicts(store: Store, line: str, trial_id: UUID) -> Iterator[ShadowVerdict]:
    ranks: dict[int, tuple[int, int]] = {}
    for partition in range(store.log.partitions(SHADOW_VERDICTS)):
        for record in records_from(store.log, SHADOW_VERDICTS, partition, store.log.begin(SHADOW_VERDICTS, partition)):
            with suppress(ValidationError):  # a foreign record, of which the processor makes a dead letter
                seen = ShadowVerdict.decode(record.value)
                if (
                    record.key == line
                    and seen.trial_id == trial_id
                    and seen.source.rank > ranks.get(partition, (0, -1))
                ):
                    ranks[partition] = seen.source.rank
                    yield seen
