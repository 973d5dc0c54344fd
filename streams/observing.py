"""Observing: fills each line's buffer, watches for drift, and says when it is time to adapt."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from pydantic import Field

from core.buffer import leaving
from core.drift import NOTHING_SEEN, Drift, DriftMonitor, MonitorState, Observation
from core.lines import LineSettings, Policy
from core.messages import ADAPTATIONS, AdaptationRequest, AlertKind, Instant, Message, Reason, Verdict
from core.ports import Buffered, Outgoing
from streams.alerts import alert
from streams.counting import Counted, VerdictReader
from streams.meter import Meter, Unmetered
from streams.settings import SettingsCache
from streams.store import Store

_TTL_SECONDS = 30 * 86_400
_DIGITS = 5
_UNMETERED = Unmetered()


class LineState(Message):
    """All that observing knows of a line. `seen` is the last verdict offset in it, by partition: what a replay brings
    again is not observed again. `asked_at` is when an adaptation was last requested or proposed, `told_at` when people
    were last told of a drift from this gauge."""

    seen: dict[int, int] = Field(default_factory=dict)
    gauge_version: str | None = None
    monitor: MonitorState = NOTHING_SEEN
    images_since: int = 0
    asked_at: Instant | None = None
    told_at: Instant | None = None


class Observing(VerdictReader):
    """Learns from verdicts with `teaches` alone. What it learned is stored after its requests and alerts are durable;
    a crash in between repeats them with the ids that they had."""

    name = "observing"

    def __init__(self, store: Store, meter: Meter = _UNMETERED) -> None:
        super().__init__(store.log)
        self._meter = meter
        self._state = store.state
        self._settings = SettingsCache(store)
        self._watches: dict[str, _Watch] = {}
        self._touched: set[str] = set()

    def receive(self, counted: Sequence[Counted]) -> list[Outgoing]:
        of_line: defaultdict[str, list[Counted]] = defaultdict(list)
        for item in counted:
            if item.verdict.teaches:
                of_line[item.verdict.line].append(item)
        for line, items in of_line.items():
            self._fill(line, [item.verdict for item in items])
            self._restore(line)
        self._touched |= of_line.keys()
        return [outgoing for line, items in of_line.items() for outgoing in self._watch(line, items)]

    def checkpoint(self) -> None:
        for line in sorted(self._touched):
            self._state.put(_key(line), self._watches[line].state.encode(), _TTL_SECONDS)
        self._touched = set()

    def _fill(self, line: str, verdicts: Sequence[Verdict]) -> None:
        settings = self._settings.of(line)
        entries = [entry for verdict in verdicts if (entry := _buffered(verdict)) is not None]
        if entries:
            self._state.buffer_add(line, entries, settings.buffer_size)
            held = self._state.buffer(line)
            gone = leaving(held, settings)
            self._state.buffer_remove(line, gone)
            self._meter.buffered(line, len(held) - len(gone), settings.buffer_size)

    def _watch(self, line: str, items: Sequence[Counted]) -> list[Outgoing]:
        settings = self._settings.of(line)
        return [outgoing for item in items for outgoing in self._watches[line].see(item, settings)]

    def _restore(self, line: str) -> None:
        if line not in self._watches:
            stored = self._state.get(_key(line))
            self._watches[line] = _Watch(line, LineState.decode(stored) if stored else LineState())


class _Watch:
    """Watches one line, from the state that was stored of it."""

    def __init__(self, line: str, state: LineState) -> None:
        self._line = line
        self._settings = LineSettings()
        self._seen = dict(state.seen)
        self._gauge_version = state.gauge_version
        self._monitor = DriftMonitor(state.monitor)
        self._images_since = state.images_since
        self._asked_at = state.asked_at
        self._told_at = state.told_at

    @property
    def state(self) -> LineState:
        return LineState(
            seen=self._seen,
            gauge_version=self._gauge_version,
            monitor=self._monitor.state,
            images_since=self._images_since,
            asked_at=self._asked_at,
            told_at=self._told_at,
        )

    def see(self, item: Counted, settings: LineSettings) -> Iterator[Outgoing]:
        self._settings = settings
        partition, offset = item.record.partition, item.record.offset
        if offset <= self._seen.get(partition, -1):
            return
        self._seen[partition] = offset
        verdict = item.verdict
        if verdict.gauge_version != self._gauge_version:
            self._gauge_version = verdict.gauge_version
            self._monitor = DriftMonitor()
            self._images_since = 0
            self._told_at = None
        self._images_since += 1
        if (observation := _observation(verdict)) is not None:
            yield from self._on_drift(self._monitor.observe(observation, settings.settle_images), verdict)
            yield from self._on_count(verdict)

    def _on_drift(self, drift: Drift | None, verdict: Verdict) -> Iterator[Outgoing]:
        if drift is None:
            return
        if drift.defects is None:
            yield from self._tell(drift, verdict)
        elif drift.causes:
            yield from self._ask(Reason.DRIFT, verdict, drift.sentence, drift.defects, drift.since)

    def _tell(self, drift: Drift, verdict: Verdict) -> Iterator[Outgoing]:
        """Once per cool-down: a line that stays off is found to be so again and again."""
        if self._cooling(self._told_at, verdict.scored_at):
            return
        self._told_at = verdict.scored_at
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

    def _on_count(self, verdict: Verdict) -> Iterator[Outgoing]:
        every = self._settings.adapt_every
        if every is not None and self._images_since >= every:
            yield from self._ask(Reason.COUNT, verdict, f"{self._images_since} images since the last time", False)

    def _ask(
        self, reason: Reason, verdict: Verdict, why: str, defects: bool, since: datetime | None = None
    ) -> Iterator[Outgoing]:
        """Request an adaptation, or propose it to a person; neither while the line cools down or must not adapt."""
        if self._settings.policy is Policy.OFF or self._cooling(self._asked_at, verdict.scored_at):
            return
        self._asked_at, self._images_since = verdict.scored_at, 0
        if self._settings.policy is Policy.AUTO and not defects:
            yield _request(reason, verdict, since)
        else:
            yield self._proposal(verdict, why, defects)

    def _cooling(self, last: datetime | None, now: datetime) -> bool:
        return last is not None and (now - last).total_seconds() < self._settings.cool_down_seconds

    def _proposal(self, verdict: Verdict, why: str, defects: bool) -> Outgoing:
        doubt = " This looks like a wave of defects, which must not be learned." if defects else ""
        remedy = f"If the line is as it should be, run `flowgauge adapt --line {self._line}`."
        message = f"{self._line}: {why}.{doubt} {remedy}"
        occasion = str(verdict.verdict_id)
        return alert(
            self._line, AlertKind.ADAPTATION_PROPOSED, occasion, verdict.scored_at, message, defects=defects, why=why
        )


def _request(reason: Reason, verdict: Verdict, since: datetime | None) -> Outgoing:
    """Of one verdict there is one request per reason, however often it is observed."""
    request = AdaptationRequest(
        request_id=uuid5(NAMESPACE_URL, f"adaptation:{verdict.line}:{reason}:{verdict.verdict_id}"),
        line=verdict.line,
        reason=reason,
        requested_at=verdict.scored_at,
        requested_by="observing",
        since=since,
    )
    return Outgoing(ADAPTATIONS, verdict.line, request.encode())


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
        at=verdict.captured_at,
    )


def _buffered(verdict: Verdict) -> Buffered | None:
    """None for an image that was not kept: there is nothing to learn from."""
    if verdict.image_uri is None:
        return None
    return Buffered(
        image_id=verdict.image_id,
        image_uri=verdict.image_uri,
        image_sha256=verdict.image_sha256,
        captured_at=verdict.captured_at,
        score=verdict.score,
        decision=verdict.decision,
        fingerprint=verdict.statistics.fingerprint,
        subject=verdict.subject,
    )


def _key(line: str) -> str:
    return f"observing/{line}"
