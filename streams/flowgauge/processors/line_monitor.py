"""One line as observing watches it: drift, a frozen camera, images since the last adaptation, and its schedule."""

from collections.abc import Callable, Iterator
from datetime import datetime

import numpy as np
from pydantic import Field

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.lines import LineSettings, Policy
from flowgauge.domain.messages import AlertKind, Instant, Message, Reason, Verdict
from flowgauge.domain.ports import Outgoing
from flowgauge.domain.schedule import last_tick, next_tick
from flowgauge.drift.statistics import NOTHING_SEEN, Drift, DriftMonitor, MonitorState, Observation
from flowgauge.processors.frozen_camera import FrozenRun
from flowgauge.processors.triggers import Trigger, punctuated, seen_in
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.fencing import Counted
from flowgauge.training.threshold_check import Disagreement, disagreement
from flowgauge.training.thresholds import Threshold

_DIGITS = 5

ThresholdOf = Callable[[str, str], Threshold | None]
"""Line and gauge version -> the gauge's threshold, None for one that cannot be read. Raises `Unavailable`."""


class LineState(Message):
    """All that observing knows of a line. `seen` is the last verdict offset in it, by partition: what a replay brings
    again is not observed again. `asked_at` is when an adaptation was last requested or proposed, `reported_at` when
    people were last told of a drift from this gauge. `punctuated_at` is the last tick of `schedule` that has been dealt
    with, or when that schedule was first seen.

    `scores` are the first ones of this gauge's images, one for each part, until its threshold has been checked against
    them (`threshold_checked`); `subject` is the part that the last of them shows."""

    seen: dict[int, int] = Field(default_factory=dict)
    gauge_version: str | None = None
    monitor: MonitorState = NOTHING_SEEN
    images_since: int = 0
    asked_at: Instant | None = None
    reported_at: Instant | None = None
    schedule: str | None = None
    punctuated_at: Instant | None = None
    scores: list[float] = Field(default_factory=list)
    subject: str | None = None
    threshold_checked: bool = False
    frozen: FrozenRun = FrozenRun()


class Watch:
    """Goes on from the state that was stored of a line."""

    def __init__(self, line: str, state: LineState, threshold_of: ThresholdOf) -> None:
        self._line = line
        self._threshold_of = threshold_of
        self._settings = LineSettings()
        self._seen = dict(state.seen)
        self._gauge_version = state.gauge_version
        self._monitor = DriftMonitor(state.monitor)
        self._images_since = state.images_since
        self._asked_at = state.asked_at
        self._reported_at = state.reported_at
        self._schedule = state.schedule
        self._punctuated_at = state.punctuated_at
        self._due_at = _after(state.schedule, state.punctuated_at)
        self._scores = list(state.scores)
        self._subject = state.subject
        self._threshold_checked = state.threshold_checked
        self._frozen = state.frozen

    @property
    def state(self) -> LineState:
        return LineState(
            seen=self._seen,
            gauge_version=self._gauge_version,
            monitor=self._monitor.state,
            images_since=self._images_since,
            asked_at=self._asked_at,
            reported_at=self._reported_at,
            schedule=self._schedule,
            punctuated_at=self._punctuated_at,
            scores=self._scores,
            subject=self._subject,
            threshold_checked=self._threshold_checked,
            frozen=self._frozen,
        )

    @property
    def partitions(self) -> set[int]:
        """Where the line's verdicts lie."""
        return set(self._seen)

    def see(self, item: Counted, settings: LineSettings) -> Iterator[Outgoing]:
        partition, offset = item.record.partition, item.record.offset
        if offset <= self._seen.get(partition, -1):
            return
        self._settings = settings
        self._seen[partition] = offset
        verdict = item.verdict
        if verdict.gauge_version != self._gauge_version:
            self._gauge_version = verdict.gauge_version
            self._monitor = DriftMonitor()
            self._images_since = 0
            self._reported_at = None
            self._scores, self._subject, self._threshold_checked = [], None, False
        self._images_since += 1
        self._frozen = self._frozen.followed_by(verdict)
        yield from self._frozen.alerts(verdict, settings.frozen_images)
        if (observation := _observation(verdict)) is not None:
            yield from self._on_drift(self._monitor.observe(observation, settings.warmup_images), verdict)
            yield from self._on_count(verdict)
        yield from self._check_threshold(verdict)
        yield from self._on_schedule(verdict.scored_at)

    def schedule(self, expression: str | None, now: datetime) -> bool:
        """Keep to `expression` from `now` on: its ticks in the past mean nothing. False where it was so before."""
        if expression == self._schedule:
            return False
        self._schedule, self._punctuated_at = expression, None if expression is None else now
        self._due_at = _after(self._schedule, self._punctuated_at)
        return True

    def due(self, now: datetime) -> bool:
        """Whether a tick has passed that was not dealt with."""
        return self._due_at is not None and self._due_at <= now

    def tick(self, now: datetime, settings: LineSettings) -> Iterator[Outgoing]:
        """What the schedule asks for by `now`, without any verdict."""
        self._settings = settings
        yield from self._on_schedule(now)

    def _on_schedule(self, now: datetime) -> Iterator[Outgoing]:
        """Of ticks that were missed, the last; none for a line without a gauge, or without an image since."""
        if self._schedule is None or not self.due(now):
            return
        tick = last_tick(self._schedule, now)
        self._punctuated_at, self._due_at = tick, next_tick(self._schedule, tick)
        if self._images_since and self._gauge_version is not None:
            yield from self._ask(punctuated(self._line, tick), now)

    def _on_drift(self, drift: Drift | None, verdict: Verdict) -> Iterator[Outgoing]:
        if drift is None:
            return
        if drift.defects is None:
            yield from self._tell(drift, verdict)
        elif drift.causes:
            trigger = seen_in(verdict, Reason.DRIFT, drift.sentence, drift.defects, drift.since)
            yield from self._ask(trigger, verdict.scored_at)

    def _tell(self, drift: Drift, verdict: Verdict) -> Iterator[Outgoing]:
        """Once per cool-down: a line that stays off is found to be so again and again."""
        if self._cooling(self._reported_at, verdict.scored_at):
            return
        self._reported_at = verdict.scored_at
        causes = [cause.model_dump() for cause in drift.causes]
        message = f"{self._line} is drifting: {drift.sentence}."
        yield alert(
            self._line,
            AlertKind.DRIFT,
            str(verdict.verdict_id),
            verdict.scored_at,
            message,
            causes=causes,
            image_id=verdict.image_id,
        )

    def _check_threshold(self, verdict: Verdict) -> Iterator[Outgoing]:
        """Once for each gauge, on its first images. While the store is away the check waits for the next image."""
        wanted = self._settings.threshold_check_images
        if not wanted or self._threshold_checked or verdict.score is None or verdict.gauge_version is None:
            return
        if len(self._scores) < wanted and (verdict.subject is None or verdict.subject != self._subject):
            self._scores.append(verdict.score)
            self._subject = verdict.subject
        if len(self._scores) < wanted:
            return
        try:
            threshold = self._threshold_of(self._line, verdict.gauge_version)
        except Unavailable:
            return
        scores, self._scores, self._threshold_checked = np.array(self._scores[:wanted]), [], True
        found = None if threshold is None else disagreement(threshold, scores, seed=0)
        if threshold is not None and found is not None:
            yield _contradicted(verdict, verdict.gauge_version, threshold, found, len(scores))

    def _on_count(self, verdict: Verdict) -> Iterator[Outgoing]:
        every = self._settings.adapt_every
        if every is not None and self._images_since >= every:
            why = f"{self._images_since} images since the last time"
            yield from self._ask(seen_in(verdict, Reason.COUNT, why), verdict.scored_at)

    def _ask(self, trigger: Trigger, now: datetime) -> Iterator[Outgoing]:
        """Request an adaptation, or propose it to a person; neither while the line cools down or must not adapt."""
        if self._settings.policy is Policy.OFF or self._cooling(self._asked_at, now):
            return
        self._asked_at, self._images_since = now, 0
        automatic = self._settings.policy is Policy.AUTO and not trigger.defects
        yield trigger.requested() if automatic else trigger.proposed()

    def _cooling(self, last: datetime | None, now: datetime) -> bool:
        return last is not None and (now - last).total_seconds() < self._settings.cool_down_seconds


def _after(schedule: str | None, punctuated_at: datetime | None) -> datetime | None:
    return None if schedule is None or punctuated_at is None else next_tick(schedule, punctuated_at)


def _contradicted(verdict: Verdict, version: str, threshold: Threshold, found: Disagreement, images: int) -> Outgoing:
    """The alert that proposes another threshold. Nothing changes until a person runs its command."""
    side = "below" if threshold.value < found.proposed else "above"
    return alert(
        verdict.line,
        AlertKind.THRESHOLD_DISAGREES,
        version,
        verdict.scored_at,
        f"{verdict.line}: the threshold {threshold.value:.4g} lies {side} {found.low:.4g} to {found.high:.4g}, which"
        f" its first {images} images suggest for {threshold.promised:.2g} false alarms; it gives about"
        f" {found.false_alarms:.2g}. If the line is as it should be, run"
        f" `flowgauge snapshots threshold {verdict.line} --value {found.proposed:.6g}`.",
        version=version,
        threshold=threshold.value,
        proposed=found.proposed,
        low=found.low,
        high=found.high,
        promised=threshold.promised,
        false_alarms=found.false_alarms,
        images=images,
    )


def _observation(verdict: Verdict) -> Observation | None:
    """None while there is no gauge whose scores could be compared."""
    if verdict.standard_score is None or verdict.peak is None:
        return None
    x, y = verdict.peak
    seen = verdict.statistics
    return Observation(
        score=round(verdict.standard_score, _DIGITS),
        statistics={
            "brightness": round(seen.brightness, _DIGITS),
            "contrast": round(seen.contrast, _DIGITS),
            "focus": round(seen.focus, _DIGITS),
        },
        peak=(round(x, 3), round(y, 3)),
        at=verdict.event_time,
    )
