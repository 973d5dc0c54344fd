"""One line as observing monitors it: drift, a frozen camera, images since the last adaptation, its schedule, and what
of these asks for an adaptation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from pydantic import ConfigDict, Field

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.lines import LineSettings, Policy
from flowgauge.domain.messages import ADAPTATIONS, AdaptationRequest, AlertKind, Instant, Message, Reason, Verdict
from flowgauge.domain.ports import Outgoing
from flowgauge.domain.schedule import last_tick, next_tick
from flowgauge.drift.statistics import NOTHING_SEEN, Drift, DriftMonitor, MonitorState, Observation
from flowgauge.processors.frozen_camera import FrozenRun
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.fencing import Counted
from flowgauge.training.threshold_check import Disagreement, disagreement
from flowgauge.training.thresholds import Threshold

# decimals of what the drift monitor keeps: fewer hide a slow drift, more only make the stored state longer
_DIGITS = 5
# By so much the clocks of two workers may differ: less, and a tick that a verdict brought by the clock of scoring is
# asked for again; more, and a schedule stands still for as long when a clock was ahead.
_CLOCKS_DIFFER = timedelta(minutes=1)

ThresholdOf = Callable[[str, str], Threshold | None]
"""Line and gauge version -> the gauge's threshold, None for one that cannot be read. Raises `Unavailable`."""


@dataclass(frozen=True)
class Trigger:
    """Why `line` should be adapted. `mark` tells two triggers of one reason apart, so whoever notices one, and however
    often, makes the same request. `defects`: it may be a wave of defects, which must not train.
    """

    line: str
    reason: Reason
    mark: str
    at: datetime
    why: str
    defects: bool = False
    since: datetime | None = None

    @property
    def request(self) -> AdaptationRequest:
        return AdaptationRequest(
            request_id=uuid5(NAMESPACE_URL, f"adaptation:{self.line}:{self.reason}:{self.mark}"),
            line=self.line,
            reason=self.reason,
            requested_at=self.at,
            requested_by="observing",
            since=self.since,
        )

    def proposed(self) -> Outgoing:
        """The alert that asks a person. Its detail holds the request, for whoever approves it."""
        request = self.request
        doubt = " This looks like a wave of defects, which must not be learned." if self.defects else ""
        remedy = f"If the line is as it should be, run `flowgauge adapt --approve {request.request_id}`."
        return alert(
            self.line,
            AlertKind.ADAPTATION_PROPOSED,
            str(request.request_id),
            self.at,
            f"{self.line}: {self.why}.{doubt} {remedy}",
            defects=self.defects,
            why=self.why,
            request=request.model_dump(mode="json"),
        )


class LineState(Message):
    """All that observing knows of a line. `seen` is the last verdict offset in it, by partition: what a replay brings
    again is not observed again. `asked_at` is when an adaptation was last requested or proposed, `reported_at` when
    people were last told of a drift from this gauge. `punctuated_at` is the last tick of `schedule` that has been dealt
    with, or when that schedule was first seen.

    `scores` are the first ones of this gauge's images, one for each part, until its threshold has been checked against
    them (`threshold_checked`); `subject` is the part that the last of them shows."""

    # the monitor works on it: a copy for each verdict would cost more than all else that is done with one
    model_config = ConfigDict(frozen=False)

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


class LineMonitor:
    """Goes on from the state that was stored of a line, which is its own from then on."""

    def __init__(self, line: str, state: LineState, threshold_of: ThresholdOf) -> None:
        self._line = line
        self._state = state
        self._threshold_of = threshold_of
        self._settings = LineSettings()
        self._drift = DriftMonitor(state.monitor)
        self._due_at = _after(state.schedule, state.punctuated_at)

    @property
    def state(self) -> LineState:
        """As it is now, to be stored."""
        self._state.monitor = self._drift.state
        return self._state

    @property
    def partitions(self) -> set[int]:
        """Where the line's verdicts lie."""
        return set(self._state.seen)

    def see(self, item: Counted, settings: LineSettings) -> Iterator[Outgoing]:
        """What follows from one verdict more."""
        state, verdict = self._state, item.verdict
        partition, offset = item.record.partition, item.record.offset
        if offset <= state.seen.get(partition, -1):
            return
        self._settings = settings
        state.seen[partition] = offset
        if verdict.trial_id is not None:
            # a canary's score is on another scale; the drift of the line shows in the images that the others decide
            state.frozen = state.frozen.followed_by(verdict)
            yield from state.frozen.alerts(verdict, settings.frozen_images)
            return
        if verdict.gauge_version != state.gauge_version:
            # scores of two gauges do not compare: what was seen of the former one ends with it
            state.gauge_version = verdict.gauge_version
            self._drift = DriftMonitor()
            state.images_since, state.reported_at = 0, None
            state.scores, state.subject, state.threshold_checked = [], None, False
        state.images_since += 1
        state.frozen = state.frozen.followed_by(verdict)
        yield from state.frozen.alerts(verdict, settings.frozen_images)
        yield from self._on_drift(verdict)
        yield from self._check_threshold(verdict)
        yield from self.tick(verdict.scored_at, settings)

    def schedule(self, expression: str | None, now: datetime) -> bool:
        """Keep to `expression` from `now` on: its ticks in the past mean nothing. False where it was so before.

        A schedule whose last tick lies in the future, by a clock that was ahead, begins anew.
        """
        state = self._state
        ahead = state.punctuated_at is not None and state.punctuated_at - now > _CLOCKS_DIFFER
        if expression == state.schedule and not ahead:
            return False
        state.schedule, state.punctuated_at = expression, None if expression is None else now
        self._due_at = _after(state.schedule, state.punctuated_at)
        return True

    def due(self, now: datetime) -> bool:
        """Whether a tick has passed that was not dealt with."""
        return self._due_at is not None and self._due_at <= now

    def tick(self, now: datetime, settings: LineSettings) -> Iterator[Outgoing]:
        """What the schedule asks for by `now`. Of ticks that were missed, the last; none for a line without a gauge, or
        without an image since."""
        state = self._state
        self._settings = settings
        if state.schedule is None or not self.due(now):
            return
        tick = last_tick(state.schedule, now)
        state.punctuated_at, self._due_at = tick, next_tick(state.schedule, tick)
        if state.images_since and state.gauge_version is not None:
            why = f"its schedule names {tick:%Y-%m-%d %H:%M} UTC"
            yield from self._ask(Trigger(self._line, Reason.SCHEDULE, tick.isoformat(), tick, why), now)

    def _on_drift(self, verdict: Verdict) -> Iterator[Outgoing]:
        """Drift of scores and statistics, and the count of images; nothing while there are no scores to compare."""
        if verdict.standard_score is None or verdict.peak is None:
            return
        x, y = verdict.peak
        observation = Observation(
            score=round(verdict.standard_score, _DIGITS),
            # every number of `Statistics`, so that one which is added there is monitored too
            statistics={name: round(value, _DIGITS) for name, value in verdict.statistics if isinstance(value, float)},
            # the monitor asks for the third of the image alone
            peak=(round(x, 3), round(y, 3)),
            at=verdict.event_time,
        )
        drift = self._drift.observe(observation, self._settings.warmup_images)
        mark, at = str(verdict.verdict_id), verdict.scored_at
        if drift is not None and drift.defects is None:
            yield from self._report(drift, verdict)
        elif drift is not None and drift.causes:
            trigger = Trigger(self._line, Reason.DRIFT, mark, at, drift.sentence, drift.defects is True, drift.since)
            yield from self._ask(trigger, at)
        every = self._settings.adapt_every
        if every is not None and self._state.images_since >= every:
            why = f"{self._state.images_since} images since the last time"
            yield from self._ask(Trigger(self._line, Reason.COUNT, mark, at, why), at)

    def _report(self, drift: Drift, verdict: Verdict) -> Iterator[Outgoing]:
        """Once per cool-down: a line that stays off is found to be so again and again."""
        if self._cooling(self._state.reported_at, verdict.scored_at):
            return
        self._state.reported_at = verdict.scored_at
        yield alert(
            self._line,
            AlertKind.DRIFT,
            str(verdict.verdict_id),
            verdict.scored_at,
            f"{self._line} is drifting: {drift.sentence}.",
            causes=[cause.model_dump() for cause in drift.causes],
            image_id=verdict.image_id,
        )

    def _check_threshold(self, verdict: Verdict) -> Iterator[Outgoing]:
        """Once for each gauge, on its first images. While the store is away the check waits for the next image."""
        state, wanted = self._state, self._settings.threshold_check_images
        if not wanted or state.threshold_checked or verdict.score is None or verdict.gauge_version is None:
            return
        # one score a part: several images of one part would count as so many agreeing witnesses
        if len(state.scores) < wanted and (verdict.subject is None or verdict.subject != state.subject):
            state.scores.append(verdict.score)
            state.subject = verdict.subject
        if len(state.scores) < wanted:
            return
        try:
            threshold = self._threshold_of(self._line, verdict.gauge_version)
        except Unavailable:
            return
        scores = np.array(state.scores[:wanted])
        state.scores, state.threshold_checked = [], True
        found = None if threshold is None else disagreement(threshold, scores, seed=0)
        if threshold is not None and found is not None:
            yield _contradicted(verdict, verdict.gauge_version, threshold, found, len(scores))

    def _ask(self, trigger: Trigger, now: datetime) -> Iterator[Outgoing]:
        """Request an adaptation, or propose it to a person; neither while the line cools down or must not adapt."""
        if self._settings.policy is Policy.OFF or self._cooling(self._state.asked_at, now):
            return
        self._state.asked_at, self._state.images_since = now, 0
        # on what may be a wave of defects a person decides, whatever the policy: a gauge that they trained passes them
        if self._settings.policy in (Policy.AUTO, Policy.SHADOW) and not trigger.defects:
            yield Outgoing(ADAPTATIONS, self._line, trigger.request.encode())
        else:
            yield trigger.proposed()

    def _cooling(self, last: datetime | None, now: datetime) -> bool:
        # looked at from both sides: verdicts are read later than they were scored, and a clock that was ahead once must
        # not hold adaptations up for as long
        return last is not None and abs((now - last).total_seconds()) < self._settings.cool_down_seconds


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
        f" `flowgauge threshold set {verdict.line} {found.proposed:.6g} --keep-promise`.",
        version=version,
        threshold=threshold.value,
        proposed=found.proposed,
        low=found.low,
        high=found.high,
        promised=threshold.promised,
        false_alarms=found.false_alarms,
        images=images,
    )
