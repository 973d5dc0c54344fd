"""Trials: counts what two gauges predict of a line's images, and stops, advances or promotes the candidate."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeGuard

from flowgauge.domain.messages import (
    SHADOW_VERDICTS,
    SNAPSHOTS,
    AlertKind,
    ShadowVerdict,
    SnapshotAnnouncement,
    Stage,
    Trial,
)
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.registry.snapshots import announcements_since, as_record, holds
from flowgauge.registry.trials import (
    TrialState,
    as_canary,
    complete_record,
    ended,
    keep_report,
    keep_state,
    report_of,
    state_of,
)
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.backend import Store
from flowgauge.runtime.processor import Processor, decoded
from flowgauge.trials.tally import NextStep, Outcome, Tally, TrialReport, merged, next_step

_BY = "trials"


class Trials(Processor):
    """The announcements of a line are the state of its trial; what was counted is stored after each batch, and whatever
    is lost of it is counted anew, which only makes a trial longer.

    A shadow verdict counts if the trial that it names is the line's now, and if its rank rises in its partition: an
    image that was scored again counts once. An announcement is made at most once for each stage of a trial: whoever
    comes to the same result after a crash finds the line in the next stage, or makes the announcement again because it
    was lost. The record of a trial that has ended is kept once the announcement that ended it holds; a worker that
    starts completes those that a crash left out.

    Of two announcements with one epoch the first holds, and compaction keeps the last: where the last one of a line
    does not hold, the one that does is repeated with the next epoch. All workers repeat it alike.
    """

    name = "trials"
    inputs = (SHADOW_VERDICTS,)

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[int, int] = {}
        self._announced: dict[str, SnapshotAnnouncement] = {}
        self._states: dict[tuple[str, int], TrialState] = {}
        self._touched: set[tuple[str, int]] = set()
        self._ending: dict[str, tuple[SnapshotAnnouncement, TrialReport]] = {}
        self._unrecorded: list[tuple[SnapshotAnnouncement, SnapshotAnnouncement]] = []
        self._repeated: list[Outgoing] = []
        self._uncertain = True

    def start_offset(self, topic: str, partition: int, committed: int) -> int:
        # another worker may have counted since this one had the partition
        self._states = {key: state for key, state in self._states.items() if key[1] != partition}
        self._touched &= self._states.keys()
        return committed

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        self._refresh()
        outgoing: list[Outgoing] = []
        # kept aside until nothing raises `Unavailable` any more: a batch that comes again must count again
        states: dict[tuple[str, int], TrialState] = {}
        moved: set[str] = set()
        for record, seen in decoded(records, ShadowVerdict, "shadow verdict", outgoing):
            active = self._announced.get(seen.line)
            if active is None or active.trial is None or active.trial.trial_id != seen.trial_id:
                continue  # of a trial that is over
            key = seen.line, record.partition
            state = states.get(key) or self._state(*key, active.trial)
            if seen.source.rank <= state.rank:
                continue
            tally = state.tally.with_verdict(active.trial, seen)
            states[key] = state.model_copy(update={"rank": seen.source.rank, "tally": tally})
            if seen.line not in moved:
                followed, states[key] = self._followed(active, active.trial, states[key], record.partition)
                outgoing += followed
                if any(each.topic == SNAPSHOTS for each in followed):
                    moved.add(seen.line)
        self._states |= states
        self._touched |= states.keys()
        self._uncertain = bool(moved)
        return self._due() + outgoing

    def punctuate(self, now: datetime) -> list[Outgoing]:
        """Whether what was announced holds, also where no image comes any more."""
        if self._uncertain:
            self._refresh()
            self._uncertain = False
        return self._due()

    def checkpoint(self) -> None:
        for line, partition in sorted(self._touched):
            keep_state(self._store, line, partition, self._states[line, partition])
        self._touched = set()
        for announced, report in self._ending.values():
            if holds(self._store.log, announced):
                keep_report(self._store, report)
        self._ending = {}

    def _due(self) -> list[Outgoing]:
        due, self._repeated = self._repeated, []
        return due

    def _refresh(self) -> None:
        last, starting = dict[str, SnapshotAnnouncement](), not self._read
        for message in self._unread():
            last[message.line] = message
            known = self._announced.get(message.line)
            if known is None or message.epoch > known.epoch:
                self._announced[message.line] = message
                if starting and _has_ended(known, message):
                    self._unrecorded.append((known, message))
        for line, message in last.items():
            valid = self._announced[line]
            if message != valid:
                self._announced[line] = valid.model_copy(update={"epoch": valid.epoch + 1})
                self._repeated.append(as_record(self._announced[line]))
        while self._unrecorded:
            complete_record(self._store, *self._unrecorded[-1], _BY)
            self._unrecorded.pop()

    def _unread(self) -> Iterator[SnapshotAnnouncement]:
        log = self._store.log
        for partition in range(log.partitions(SNAPSHOTS)):
            for record, message in announcements_since(log, partition, self._read.get(partition, 0)):
                self._read[partition] = record.offset + 1
                if message is not None:
                    yield message

    def _state(self, line: str, partition: int, trial: Trial) -> TrialState:
        known = self._states.get((line, partition))
        if known is not None and known.trial_id == trial.trial_id:
            return known
        return state_of(self._store, line, trial, partition)

    def _followed(
        self, active: SnapshotAnnouncement, trial: Trial, state: TrialState, partition: int
    ) -> tuple[list[Outgoing], TrialState]:
        """What follows from the tally of one partition, an announcement last, and the state after it."""
        tally, rules = state.tally, trial.rules
        step, why = next_step(trial, tally)
        outgoing: list[Outgoing] = []
        if trial.stage is Stage.SHADOW and Stage.SHADOW not in state.reported:
            message = (
                f"{active.line}: {trial.version} predicts {rules.shadow_share:.0%} of the images beside"
                f" {active.version}, {rules.shadow_images} at least, and decides none."
            )
            outgoing.append(self._alert(active, trial, AlertKind.TRIAL_STAGE, message, Stage.SHADOW))
            state = state.model_copy(update={"reported": (*state.reported, Stage.SHADOW)})
        if step is NextStep.WAIT and NextStep.WAIT not in state.reported:
            message = (
                f"{active.line}: {trial.version} has passed its trial, {_shown(tally)}. Run"
                f" `flowgauge trials promote {active.line} {trial.short_id}` to let it take over, or `flowgauge trials"
                f" stop {active.line} {trial.short_id}`."
            )
            outgoing.append(self._alert(active, trial, AlertKind.TRIAL_WAITS, message))
            state = state.model_copy(update={"reported": (*state.reported, NextStep.WAIT)})
        elif step is NextStep.CANARY:
            message = (
                f"{active.line}: {trial.version} decides {rules.canary_share:.0%} of the images from now on,"
                f" {rules.canary_images} at least; before, {_shown(tally)}."
            )
            outgoing.append(self._alert(active, trial, AlertKind.TRIAL_STAGE, message, Stage.CANARY))
            outgoing.append(as_record(as_canary(self._store, active, trial)))
        elif step is NextStep.STOP:
            where = "as canary" if trial.stage is Stage.CANARY else "in shadow"
            message = f"{active.line} keeps {active.version}: {trial.version} was stopped {where}, for {why}."
            outgoing.append(self._alert(active, trial, AlertKind.TRIAL_STOPPED, message, images=tally.images, why=why))
            outgoing.append(self._end(active, trial, Outcome.STOPPED, tally, partition, why))
        elif step is NextStep.PROMOTE:
            message = f"{active.line} has a new gauge {trial.version}, which has passed its trial: {_shown(tally)}."
            outgoing.append(self._alert(active, trial, AlertKind.TRIAL_PROMOTED, message, images=tally.images))
            outgoing.append(self._end(active, trial, Outcome.PROMOTED, tally, partition))
        return outgoing, state

    def _end(
        self,
        active: SnapshotAnnouncement,
        trial: Trial,
        outcome: Outcome,
        tally: Tally,
        partition: int,
        why: str = "",
    ) -> Outgoing:
        """The announcement. Its record has what was counted in the line's other partitions too."""
        others = set(range(self._store.log.partitions(SHADOW_VERDICTS))) - {partition}
        tallies = [state_of(self._store, active.line, trial, number).tally for number in sorted(others)]
        announced = ended(self._store, active, trial, outcome)
        report = report_of(self._store, active, trial, outcome, merged([tally, *tallies]), _BY, why)
        self._ending[active.line] = announced, report
        return as_record(announced)

    def _alert(
        self,
        active: SnapshotAnnouncement,
        trial: Trial,
        kind: AlertKind,
        message: str,
        stage: str = "",
        **detail: Any,
    ) -> Outgoing:
        trigger, now = f"{trial.trial_id}{stage}", self._store.clock.now()
        facts = {"trial_id": str(trial.trial_id), "version": trial.version, "active": active.version} | detail
        return alert(active.line, kind, trigger, now, message, **facts)


def _has_ended(before: SnapshotAnnouncement | None, after: SnapshotAnnouncement) -> TypeGuard[SnapshotAnnouncement]:
    """Whether a trial was under way in `before` that is not in `after`."""
    return (
        before is not None
        and before.trial is not None
        and (after.trial is None or after.trial.trial_id != before.trial.trial_id)
    )


def _shown(tally: Tally) -> str:
    return (
        f"{tally.images} images with {tally.candidate_alarms} alarms, where the active gauge has"
        f" {tally.active_alarms}, and {tally.disagreements} decided differently"
    )
