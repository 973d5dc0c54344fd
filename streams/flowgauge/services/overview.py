"""What every line is doing, followed as it happens: the verdicts, alerts and gauges that a person looks at.

It reads the topics from their ends on and keeps a bounded part of each line in memory, so that a page about two hundred
lines asks no server. What lies further back is in the archive: see `flowgauge.services.history`.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from itertools import islice
from math import inf
from threading import Lock
from typing import NamedTuple
from uuid import UUID

from pydantic import ValidationError

from flowgauge.domain.alert_kinds import ABOUT, DECIDED, Ending, Severity
from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import (
    ADAPTATIONS,
    ALERTS,
    PART_VERDICTS,
    SNAPSHOTS,
    VERDICTS,
    AdaptationRequest,
    Alert,
    AlertKind,
    Decision,
    PartVerdict,
    SnapshotAnnouncement,
    Trial,
    Verdict,
)
from flowgauge.domain.ports import Record
from flowgauge.runtime.alerts import NO_LINE, alert_id
from flowgauge.runtime.backend import Store
from flowgauge.runtime.fencing import NOTHING_COUNTED, Rank, count, fenced

# verdicts that are read at the start, over all partitions: fewer leave the sparklines of a busy plant empty for an
# hour, more make its start take longer (some 20,000 a second)
_VERDICTS_AT_START = 40_000
# part verdicts, likewise: fewer show no part beside a verdict that is looked at
_PARTS_AT_START = 20_000
# alerts, and requests to adapt, that are read at the start: fewer forget proposals that nobody has answered, more make
# its start take longer
_ALERTS_AT_START = 50_000
# what is followed, and how much of it is read at the start; None: all
_FOLLOWED = {
    SNAPSHOTS: None,
    ADAPTATIONS: _ALERTS_AT_START,
    ALERTS: _ALERTS_AT_START,
    VERDICTS: _VERDICTS_AT_START,
    PART_VERDICTS: _PARTS_AT_START,
}
# between two looks at which topics and partitions there are: less asks the brokers for nothing, more leaves a partition
# that was added unread for longer
_TOPICS_SECONDS = 5.0
# records of one read; with fewer a backlog takes more calls, with more one call holds up whoever waits for the lock
_PAGE = 1_000
# verdicts in brief that are kept of a line: some 400 bytes each, and 200 lines must fit into a small machine
_RECENT = 600
# rejects and reviews that are kept of a line, encoded, some 1 kB each, for decoded they take five: the longest queue of
# one sitting
_FLAGGED = 200
# of each kind and line: fewer show less of what has happened, and a line that rejects all the time must not push out
# what it told of its store
_ALERTS_OF_A_KIND = 20
# an hour: with fewer, what happened leaves the sparkline before anybody looks; more are narrower than a pixel
_MINUTES = 60
# a fast line's image is shown for so long before the next: less, and nobody sees what it shows while each browser asks
# for another picture of each line each second; more, and it is no longer the last one
_SHOWN_SECONDS = 5.0
# verdicts of so many minutes make the rate that is shown: fewer, and it jumps; more, and a stop shows late
_RATE_MINUTES = 3


class Sample(NamedTuple):
    """A verdict in brief: `at` is its event's time, in seconds since 1970."""

    at: float
    score: float | None
    threshold: float | None
    decision: Decision
    verdict_id: UUID
    brightness: float
    contrast: float
    focus: float

    @classmethod
    def of(cls, verdict: Verdict) -> "Sample":
        taken = verdict.statistics
        at = verdict.event_time.timestamp()
        light = taken.brightness, taken.contrast, taken.focus
        return cls(at, verdict.score, verdict.threshold, verdict.decision, verdict.verdict_id, *light)


@dataclass
class Minute:
    """Verdicts of one minute, by when they were scored, and those on parts by when they were decided."""

    number: int
    passed: int = 0
    rejected: int = 0
    reviewed: int = 0
    late: int = 0
    parts: Counter[Decision] | None = None

    @property
    def images(self) -> int:
        return self.passed + self.rejected + self.reviewed


_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_NOTHING = Minute(0)  # stands for every minute without a verdict


class Attention(IntEnum):
    """How much a line needs a person; higher needs one sooner."""

    NONE = 0
    LATE = 1
    DRIFT = 2
    NO_GAUGE = 3
    PROBLEM = 4
    PROPOSAL = 5


# what a line's page says by itself, and what asks for nothing, is no problem besides
_PROBLEMS = frozenset(kind for kind, about in ABOUT.items() if about.severity is not Severity.INFO) - {
    AlertKind.DRIFT,
    AlertKind.NO_GAUGE,
    AlertKind.ADAPTATION_PROPOSED,
    AlertKind.ADAPTATION_REFUSED,
}
# an alert counts as a problem for so long after it was raised: less, and a night's is gone in the morning
_PROBLEM_LASTS = timedelta(hours=12)


@dataclass(frozen=True)
class Proposal:
    """An adaptation that waits for a person: the request, and the alert that proposed it."""

    request: AdaptationRequest
    alert: Alert


@dataclass(frozen=True)
class LineSummary:
    """One line at a glance. `minutes` are the last sixty, the oldest first, or the last sixty in which a line ran that
    has stopped since; `images` and the shares `rejected` and `reviewed`, in [0, 1], are of their verdicts. `late` is of
    the last hour, and `rate` in images a minute, now. `parts` counts the verdicts on parts of the same minutes.
    `drift` is the alert of one that no gauge has followed yet.
    """

    line: str
    active: SnapshotAnnouncement | None
    trial: Trial | None
    shown: Verdict | None
    rate: float
    images: int
    rejected: float
    reviewed: float
    late: int
    minutes: Sequence[Minute]
    parts: Counter[Decision]
    proposals: Sequence[Proposal]
    drift: Alert | None
    last_alert: Alert | None
    attention: Attention
    reason: str


@dataclass
class _Line:
    name: str
    active: SnapshotAnnouncement | None = None
    announced: list[SnapshotAnnouncement] = field(default_factory=list)
    epoch: int = 0
    trial: Trial | None = None
    last: Verdict | None = None
    shown: Verdict | None = None
    shown_at: datetime = _LONG_AGO
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_RECENT))
    parts: deque[tuple[UUID, ...]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    flagged: deque[tuple[UUID, bytes]] = field(default_factory=lambda: deque(maxlen=_FLAGGED))
    minutes: deque[Minute] = field(default_factory=lambda: deque(maxlen=_MINUTES))
    alerts: dict[AlertKind, dict[UUID, Alert]] = field(default_factory=lambda: defaultdict(dict))
    proposals: dict[UUID, Proposal] = field(default_factory=dict)


class Overview:
    """Follows a store's topics; `refresh` reads on, and everything else tells what has been read.

    All methods may be called from several threads. Verdicts count as every reader of them counts (see
    `flowgauge.runtime.fencing`).
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reading, self._lock = Lock(), Lock()
        self._topic_ids: dict[str, str] = {}
        self._asked_at = -inf
        self._forget()

    def _forget(self) -> None:
        """As before the first record."""
        self._lines: dict[str, _Line] = {}
        self._flagged: dict[UUID, bytes] = {}
        self._by_id: dict[UUID, tuple[int, int]] = {}
        self._part_of: dict[UUID, tuple[int, int]] = {}
        self._ranks: dict[tuple[str, int], Rank] = {}
        self._next: dict[tuple[str, int], int] = {}
        self._decided: set[UUID] = set()
        self._requested: set[UUID] = set()
        self._undecided: dict[UUID, AdaptationRequest] = {}
        # where earlier alerts are gone or were passed over, nobody can say what they decided
        self._heard_since = _LONG_AGO

    def refresh(self) -> None:
        """Read what has come since the last time; what was read before can be asked for meanwhile. Raises `Unavailable`
        while the brokers are away.
        """
        log = self._store.log
        with self._reading:
            self._look_at_topics()
            for topic, at_start in _FOLLOWED.items():
                bounds = log.bounds(topic)
                for partition, (_, end) in enumerate(bounds):
                    start = 0 if at_start is None else max(0, end - at_start // len(bounds))
                    offset = self._next.get((topic, partition), start)
                    if offset > end:  # the topic was made anew, which its id tells too, where it has one
                        offset = 0
                    while offset < end and (page := log.read(topic, partition, offset, _PAGE)):
                        with self._lock:
                            self._take(topic, page)
                        offset = self._next[topic, partition] = page[-1].offset + 1

    def _look_at_topics(self) -> None:
        """Find partitions that were added. Where a topic was made anew, start over: what was read of the former one may
        contradict it, and by its offsets alone a topic that has outgrown the former looks like it.
        """
        if time.monotonic() - self._asked_at < _TOPICS_SECONDS:
            return
        ids = {topic: self._store.log.topic_id(topic) for topic in _FOLLOWED}
        if any(ids[topic] != known for topic, known in self._topic_ids.items()):
            with self._lock:
                self._forget()
        self._topic_ids, self._asked_at = ids, time.monotonic()

    def _take(self, topic: str, page: Sequence[Record]) -> None:
        partition = page[0].partition
        if topic == ALERTS and (topic, partition) not in self._next and page[0].offset > 0:
            self._heard_since = max(self._heard_since, page[0].at)
        if topic in (VERDICTS, PART_VERDICTS):
            self._take_counted(topic, partition, page)
            return
        for record in page:
            try:
                if topic == ALERTS:
                    self._hear(Alert.decode(record.value))
                elif topic == ADAPTATIONS:
                    request = AdaptationRequest.decode(record.value)
                    self._requested.add(request.request_id)
                    self._undecided[request.request_id] = request
                else:
                    self._announce(SnapshotAnnouncement.decode(record.value))
            except ValidationError:
                continue  # of another schema; whoever acts on the topic reports it

    def _take_counted(self, topic: str, partition: int, page: Sequence[Record]) -> None:
        highest = self._ranks.get((topic, partition), NOTHING_COUNTED)
        if topic == VERDICTS:
            found = count(page, highest)
            self._ranks[topic, partition] = found.highest
            for item in found.counted:
                self._see(item.verdict, (partition, item.record.offset))
        else:
            counted, _, self._ranks[topic, partition] = fenced(page, highest, PartVerdict)
            for record, part in counted:
                self._see_part(part, (partition, record.offset))

    def _of(self, line: str) -> _Line:
        if line not in self._lines:
            self._lines[line] = _Line(line)
        return self._lines[line]

    def _see(self, verdict: Verdict, location: tuple[int, int]) -> None:
        line = self._of(verdict.line)
        line.last = verdict
        if len(line.samples) == _RECENT:
            self._by_id.pop(line.samples[0].verdict_id, None)
        line.samples.append(Sample.of(verdict))
        self._by_id[verdict.verdict_id] = location
        if verdict.decision is not Decision.PASS:
            if len(line.flagged) == _FLAGGED:
                self._flagged.pop(line.flagged[0][0], None)
            line.flagged.append((verdict.verdict_id, verdict.encode()))
            self._flagged.update([line.flagged[-1]])
        minute = self._minute(line, verdict.scored_at)
        minute.passed += verdict.decision is Decision.PASS
        minute.rejected += verdict.decision is Decision.REJECT
        minute.reviewed += verdict.decision is Decision.REVIEW
        minute.late += verdict.late

    def _see_part(self, part: PartVerdict, location: tuple[int, int]) -> None:
        line = self._of(part.line)
        minute = self._minute(line, part.decided_at)
        minute.parts = minute.parts or Counter()
        minute.parts[part.decision] += 1
        if len(line.parts) == _RECENT:
            for verdict_id in line.parts[0]:
                self._part_of.pop(verdict_id, None)
        line.parts.append(tuple(view.verdict_id for view in part.views))
        self._part_of |= dict.fromkeys(line.parts[-1], location)

    def _minute(self, line: _Line, at: datetime) -> Minute:
        number = int(min(at, self._store.clock.now()).timestamp() // 60)
        # of workers' clocks one may be behind or ahead: such a verdict counts in the minute that is there
        if not line.minutes or line.minutes[-1].number < number:
            line.minutes.append(Minute(number))
        return line.minutes[-1]

    def _hear(self, alert: Alert) -> None:
        line = self._of(alert.line)
        of_kind = line.alerts[alert.kind]
        known = of_kind.pop(alert.alert_id, None)
        of_kind[alert.alert_id] = alert if known is None or alert.count >= known.count else known
        if len(of_kind) > _ALERTS_OF_A_KIND:
            del of_kind[next(iter(of_kind))]
        if alert.kind is AlertKind.ADAPTATION_PROPOSED:
            try:
                request = AdaptationRequest.model_validate(alert.detail.get("request"))
            except ValidationError:
                return
            line.proposals[request.request_id] = Proposal(request, alert)
        elif alert.kind in DECIDED:
            # an accepted one names no request: its alert's id is made from it, as `alert_id` tells
            self._decided.add(alert.alert_id)

    def _announce(self, announcement: SnapshotAnnouncement) -> None:
        line = self._of(announcement.line)
        # a trial's announcements say of the active gauge what was said before
        another = line.active is None or announcement.version != line.active.version
        if another:
            line.announced.append(announcement)
        if announcement.epoch > line.epoch:
            line.epoch, line.trial = announcement.epoch, announcement.trial
            line.active = announcement if another else line.active

    def summaries(self) -> list[LineSummary]:
        """Every line, those first that need a person most."""
        now = self._store.clock.now()
        with self._lock:
            found = [self._summary(line, now) for line in self._lines.values() if line.name != NO_LINE]
        return sorted(found, key=lambda each: (-each.attention, -each.rejected, each.line))

    def summary(self, line: str) -> LineSummary:
        """Raises `UserError` for a line that nothing was heard of."""
        with self._lock:
            return self._summary(self._known(line), self._store.clock.now())

    def samples(self, line: str) -> list[Sample]:
        """The last verdicts of `line`, the oldest first. Raises `UserError`."""
        with self._lock:
            return list(self._known(line).samples)

    def flagged(self, line: str, limit: int = _FLAGGED) -> list[Verdict]:
        """The last rejects and reviews of `line`, the newest first. Raises `UserError`."""
        with self._lock:
            found = list(islice(reversed(self._known(line).flagged), limit))
        return [Verdict.decode(encoded) for _, encoded in found]

    def alerts(self, line: str | None = None) -> list[Alert]:
        """The last alerts (of `line`), the newest first. Raises `UserError`."""
        with self._lock:
            of = self._lines.values() if line is None else [self._known(line)]
            found = [alert for each in of for kind in each.alerts.values() for alert in kind.values()]
        return sorted(found, key=lambda each: each.at, reverse=True)

    def plant_problems(self) -> list[Alert]:
        """What belongs to no line and happened lately: records that expired, topics that were made anew."""
        now = self._store.clock.now()
        with self._lock:
            line = self._lines.get(NO_LINE, _Line(NO_LINE))
            found = [alert for kind in line.alerts.values() for alert in kind.values()]
        return [alert for alert in found if alert.kind in _PROBLEMS and now - alert.at < _PROBLEM_LASTS]

    def gauges(self, line: str) -> list[SnapshotAnnouncement]:
        """All gauges of `line` that were announced as active, the newest first. Raises `UserError`."""
        with self._lock:
            return list(reversed(self._known(line).announced))

    def proposals(self) -> list[Proposal]:
        """All that wait for a person, the oldest first."""
        with self._lock:
            found = [each for line in self._lines.values() for each in self._open(line)]
        return sorted(found, key=lambda each: each.alert.at)

    def waiting(self) -> list[AdaptationRequest]:
        """Requests that are made and not decided yet, the oldest first."""
        with self._lock:
            for each in list(self._undecided.values()):
                if self._is_decided(each) or each.requested_at < self._heard_since:
                    del self._undecided[each.request_id]
            return sorted(self._undecided.values(), key=lambda request: request.requested_at)

    def verdict(self, verdict_id: UUID) -> Verdict | None:
        """One of the last verdicts; None for one that is no longer in memory."""
        with self._lock:
            flagged, location = self._flagged.get(verdict_id), self._by_id.get(verdict_id)
        if flagged is not None:
            return Verdict.decode(flagged)
        if location is None:
            return None
        records = self._store.log.read(VERDICTS, location[0], location[1], 1)
        verdict = Verdict.decode(records[0].value) if records else None
        return verdict if verdict is not None and verdict.verdict_id == verdict_id else None

    def part_of(self, verdict_id: UUID) -> PartVerdict | None:
        """The verdict on the part that the image of `verdict_id` shows; None where none of the last ones has it."""
        with self._lock:
            location = self._part_of.get(verdict_id)
        records = [] if location is None else self._store.log.read(PART_VERDICTS, location[0], location[1], 1)
        part = PartVerdict.decode(records[0].value) if records else None
        return part if part is not None and verdict_id in {view.verdict_id for view in part.views} else None

    def _known(self, line: str) -> _Line:
        if line not in self._lines:
            raise UserError(f"Nothing is known of a line {line}.", "`flowgauge lines list` names those that there are.")
        return self._lines[line]

    def _is_decided(self, request: AdaptationRequest) -> bool:
        trigger = str(request.request_id)
        return not self._decided.isdisjoint(alert_id(request.line, kind, trigger) for kind in DECIDED)

    def _open(self, line: _Line) -> Iterator[Proposal]:
        for request_id, proposal in list(line.proposals.items()):
            # a gauge that came since is the answer too: what was proposed to the one before it says nothing of it
            superseded = line.active is not None and line.active.at > proposal.alert.at
            if superseded or self._is_decided(proposal.request):
                del line.proposals[request_id]
            elif request_id not in self._requested:
                yield proposal

    def _summary(self, line: _Line, now: datetime) -> LineSummary:
        this_minute = last_minute = int(now.timestamp() // 60)
        if line.minutes and line.minutes[-1].number <= this_minute - _MINUTES:
            last_minute = line.minutes[-1].number
        of_minute = {minute.number: minute for minute in line.minutes}
        numbers = range(last_minute - _MINUTES + 1, last_minute + 1)
        minutes = [of_minute.get(number, _NOTHING) for number in numbers]
        images = sum(minute.images for minute in minutes)
        if line.shown is None or not 0 <= (now - line.shown_at).total_seconds() < _SHOWN_SECONDS:
            line.shown, line.shown_at = line.last, now
        alerts = sorted((each for kind in line.alerts.values() for each in kind.values()), key=lambda alert: alert.at)
        since = line.active.at if line.active else None
        drifts = [each for each in alerts if each.kind is AlertKind.DRIFT and (since is None or each.at > since)]
        proposals = list(self._open(line))
        late = sum(each.late for each in line.minutes if each.number > this_minute - _MINUTES)
        attention, reason = Attention.NONE, ""
        problems = [
            each
            for each in alerts
            if each.kind in _PROBLEMS
            and now - each.at < _PROBLEM_LASTS
            and (ABOUT[each.kind].ending is not Ending.GAUGE or since is None or each.at > since)
        ]
        if proposals:
            attention, reason = Attention.PROPOSAL, "An adaptation waits for approval."
        elif problems:
            attention, reason = Attention.PROBLEM, problems[-1].message
        elif line.active is None:
            attention, reason = Attention.NO_GAUGE, "The line has no gauge yet."
        elif drifts:
            attention, reason = Attention.DRIFT, drifts[-1].message
        elif late:
            attention, reason = Attention.LATE, f"{late} verdicts were late within an hour."
        return LineSummary(
            line=line.name,
            active=line.active,
            trial=line.trial,
            shown=line.shown,
            rate=sum(each.images for each in line.minutes if each.number > this_minute - _RATE_MINUTES) / _RATE_MINUTES,
            images=images,
            rejected=sum(minute.rejected for minute in minutes) / images if images else 0.0,
            reviewed=sum(minute.reviewed for minute in minutes) / images if images else 0.0,
            late=late,
            minutes=minutes,
            parts=sum((minute.parts for minute in minutes if minute.parts), Counter()),
            proposals=proposals,
            drift=drifts[-1] if drifts else None,
            last_alert=alerts[-1] if alerts else None,
            attention=attention,
            reason=reason,
        )
