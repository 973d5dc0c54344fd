"""Alerting: what a person must see of verdicts and dead letters, many of a kind as one alert with a count."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from flowgauge.domain.dead_letters import REASON
from flowgauge.domain.errors import InvalidName
from flowgauge.domain.messages import DEAD_LETTERS, VERDICTS, AlertKind, Decision
from flowgauge.domain.object_keys import line_name
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.processors.scoring import NO_GAUGE
from flowgauge.registry.lines import SettingsCache
from flowgauge.runtime.alerts import NO_LINE, alert, window_start
from flowgauge.runtime.backend import Store
from flowgauge.runtime.fencing import Counted, VerdictReader

Key = tuple[str, AlertKind, str, int]
"""Line, kind, and the topic and partition that it was seen in."""

# between a record's time and the moment at which a broker shows it: shorter, and a window is told before its last
# records are there; longer, and people wait for the count
_LATE = timedelta(seconds=5)
# characters of an example: what cannot be an id may be as long as a message
_LONGEST_EXAMPLE = 1024
# image ids that an alert names: fewer are not enough to look at, more not read
_EXAMPLES = 10


@dataclass
class Tally:
    """What is known of one kind of alert of one line in one window. `first` is the record it began with."""

    line: str
    kind: AlertKind
    start: datetime
    end: datetime
    first: Record
    count: int = 0
    examples: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    reported: int = 0

    def add(self, example: str, **detail: Any) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example[:_LONGEST_EXAMPLE])
        self.detail = detail | self.detail

    def report(self) -> Outgoing:
        self.reported = self.count
        return alert(
            self.line,
            self.kind,
            self.start.isoformat(),
            self.start,
            _MESSAGES[self.kind].format(line=self.line, count=self.count, example=self.examples[0], **self.detail),
            self.count,
            examples=self.examples,
            **self.detail,
        )


_MESSAGES = {
    AlertKind.REJECT: "{line}: {count} rejected, the first is {example}.",
    AlertKind.NO_GAUGE: "{line} has no gauge: {count} images are for review. "
    "Make one with `flowgauge fit --line {line} --from-buffer`.",
    AlertKind.CLOCK_OFF: "{line}: the camera's clock is {off} {side}: {count} images, the first is {example}, captured "
    "at {captured_at} by that clock. They are filed by when they arrived. Set the clock; where images are meant to "
    "come so late, run `flowgauge lines set {line} clock_tolerance_seconds=SECONDS`.",
    AlertKind.DEAD_LETTER: "{line}: {count} messages could not be processed, the first is {example}. {reason}",
}


class Alerting(VerdictReader):
    """Tells of the first of a kind at once, and of the whole count when the window has passed.

    Windows go by the time at which records were appended, so a replay finds the same ones; all alerts of a window carry
    one id, and the highest count holds. Our own clock says only when to tell: a window stays open until a record
    of a later one comes, however slowly its records are read. Nothing beyond the start of an open one is committed.
    """

    name = "alerting"
    inputs = (VERDICTS, DEAD_LETTERS)

    def __init__(self, store: Store) -> None:
        super().__init__(store.log)
        self._settings = SettingsCache(store)
        self._open: dict[Key, Tally] = {}

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        last = records[-1]
        reported = super().process(records) if last.topic == VERDICTS else self._dead_letters(records)
        # windows of this partition that no later record can fall into
        passed = [
            key for key, tally in self._open.items() if key[2:] == (last.topic, last.partition) and tally.end <= last.at
        ]
        return [*reported, *self._closed(passed)]

    def receive(self, counted: Sequence[Counted]) -> list[Outgoing]:
        reported: list[Outgoing] = []
        for record, verdict in ((item.record, item.verdict) for item in counted):
            if verdict.clock_off and verdict.arrived_at is not None:
                ahead = verdict.captured_at - verdict.arrived_at
                reported += self._add(
                    AlertKind.CLOCK_OFF,
                    verdict.line,
                    record,
                    verdict.image_id,
                    off=str(timedelta(seconds=round(abs(ahead.total_seconds())))),
                    side="ahead" if ahead > timedelta() else "behind",
                    off_seconds=ahead.total_seconds(),
                    captured_at=verdict.captured_at.isoformat(),
                    arrived_at=verdict.arrived_at.isoformat(),
                )
            if verdict.decision is Decision.REJECT:
                artifacts = {"image_uri": verdict.image_uri, "heatmap_uri": verdict.heatmap_uri}
                reported += self._add(AlertKind.REJECT, verdict.line, record, verdict.image_id, **artifacts)
            elif NO_GAUGE in verdict.reasons:
                reported += self._add(AlertKind.NO_GAUGE, verdict.line, record, verdict.image_id)
        return reported

    def committable_offset(self, topic: str, partition: int, read: int) -> int:
        # a restart counts an open window again from its first record, so that its last alert tells the whole count
        firsts = [tally.first for tally in self._open.values()]
        return min([read, *(first.offset for first in firsts if (first.topic, first.partition) == (topic, partition))])

    def punctuate(self, now: datetime) -> list[Outgoing]:
        due = [tally for tally in self._open.values() if tally.end + _LATE <= now]
        return [tally.report() for tally in due if tally.reported < tally.count]

    def flush(self) -> list[Outgoing]:
        """The counts so far; the windows stay open."""
        return [tally.report() for tally in self._open.values() if tally.reported < tally.count]

    def _dead_letters(self, records: Sequence[Record]) -> list[Outgoing]:
        reported: list[Outgoing] = []
        for record in records:
            try:
                line = line_name(record.key)
            except InvalidName:  # which may be why it is a dead letter; it must be told all the same
                line = NO_LINE
            example, reason = record.headers.get("ce_id", "without an id"), record.headers.get(REASON, "")
            reported += self._add(AlertKind.DEAD_LETTER, line, record, example, reason=reason)
        return reported

    def _add(self, kind: AlertKind, line: str, record: Record, example: str, **detail: Any) -> list[Outgoing]:
        """The alert that a new window begins with; nothing while it goes on."""
        seconds = self._settings.of(line).alert_window_seconds
        start = window_start(record.at, seconds)
        key = (line, kind, record.topic, record.partition)
        before = list(self._closed([key])) if key in self._open and self._open[key].start != start else []
        new = key not in self._open
        tally = self._open.setdefault(key, Tally(line, kind, start, start + timedelta(seconds=seconds), record))
        tally.add(example, **detail)
        return [*before, tally.report()] if new else before

    def _closed(self, keys: Iterable[Key]) -> Iterator[Outgoing]:
        for key in keys:
            tally = self._open.pop(key)
            if tally.reported < tally.count:
                yield tally.report()
