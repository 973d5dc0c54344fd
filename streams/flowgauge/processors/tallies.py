"""Alerts of a kind counted in windows of time, many as one alert with a count."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

from flowgauge.domain.messages import PART_VERDICTS, AlertKind
from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.registry.lines import SettingsCache
from flowgauge.runtime.alerts import alert, alert_id, window_start

Key = tuple[str, AlertKind, str, int]
"""Line, kind, and the topic and partition that it was seen in."""

LATE = timedelta(seconds=5)
"""Between a record's time and the moment at which a broker shows it. Shorter, and a window is told before its last
records are there; longer, and people wait for the count."""

# characters of an example: what cannot be an id may be as long as a message
_LONGEST_EXAMPLE = 1024
# ids that an alert names: fewer are not enough to look at, more not read
_EXAMPLES = 10


@dataclass
class Tally:
    """What is known of one kind of alert of one line in one window. `first` is the record it began with; `message` is
    formatted with line, count, the first example and the detail. `complete`: the window has passed, and all that
    was there then is counted."""

    line: str
    kind: AlertKind
    message: str
    start: datetime
    end: datetime
    first: Record
    count: int = 0
    examples: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    reported: int = 0
    complete: bool = False

    @property
    def trigger(self) -> str:
        # one id for one count: rejects of parts are not those of images that belong to no part, and of two partitions,
        # which are counted apart, readers would take the higher count for all
        parts = "/parts" if self.first.topic == PART_VERDICTS else ""
        partition = f"/{self.first.partition}" if self.first.partition else ""
        return f"{self.start.isoformat()}{parts}{partition}"

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
            self.trigger,
            self.start,
            self.message.format(line=self.line, count=self.count, example=self.examples[0], **self.detail),
            self.count,
            examples=self.examples,
            **self.detail,
        )


class Tallies:
    """The first of a kind is told at once, and the whole count when the window has passed.

    Windows go by the time at which records were appended, so a replay finds the same ones; all alerts of a window of a
    partition carry one id, and the highest count holds. Our own clock says only when to tell: a window stays open until
    a record of a later one comes, however slowly its records are read. Nothing beyond the start of an open one is
    committed, unless `find_complete` found that it is, and its whole count is reported.

    `reported` are the counts of earlier alerts, by their ids: none of them is reported again.
    """

    def __init__(self, settings: SettingsCache, log: Log, reported: Mapping[UUID, int] = MappingProxyType({})) -> None:
        self._settings = settings
        self._log = log
        self._reported = reported
        self._open: dict[Key, Tally] = {}
        self._read: dict[tuple[str, int], int] = {}

    def add(
        self, kind: AlertKind, line: str, record: Record, message: str, example: str, **detail: Any
    ) -> list[Outgoing]:
        """The alert that a new window begins with; nothing while it goes on."""
        seconds = self._settings.of(line).alert_window_seconds
        start = window_start(record.at, seconds)
        key = (line, kind, record.topic, record.partition)
        before = list(self._closed([key])) if key in self._open and self._open[key].start != start else []
        new = key not in self._open
        if new:
            tally = Tally(line, kind, message, start, start + timedelta(seconds=seconds), record)
            tally.reported = self._reported.get(alert_id(line, kind, tally.trigger), 0)
            self._open[key] = tally
        self._open[key].add(example, **detail)
        return [*before, self._open[key].report()] if new and not self._open[key].reported else before

    def passed(self, last: Record) -> list[Outgoing]:
        """Of the windows that no later record of its partition than `last` can fall into. To be called with the last
        record of each batch."""
        partition = last.topic, last.partition
        self._read[partition] = last.offset + 1
        return list(
            self._closed([key for key, tally in self._open.items() if key[2:] == partition and tally.end <= last.at])
        )

    def committable_offset(self, topic: str, partition: int, read: int) -> int:
        # a restart counts an open window again from its first record, so that its last alert tells the whole count
        firsts = [tally.first for tally in self._open.values() if not tally.complete or tally.reported < tally.count]
        return min([read, *(first.offset for first in firsts if (first.topic, first.partition) == (topic, partition))])

    def find_complete(self, now: datetime) -> None:
        """Mark the windows that are: else the last of a partition that falls silent would be reported at each start.
        To be called before `due`. Raises `Unavailable`; it may be repeated."""
        passed = [
            (key[2:], tally) for key, tally in self._open.items() if tally.end + LATE <= now and not tally.complete
        ]
        ends = {partition: self._log.end(*partition) for partition in {partition for partition, _ in passed}}
        for partition, tally in passed:
            tally.complete = self._read.get(partition, 0) >= ends[partition]

    def due(self, now: datetime) -> list[Outgoing]:
        due = [tally for tally in self._open.values() if tally.end + LATE <= now]
        return [tally.report() for tally in due if tally.reported < tally.count]

    def so_far(self) -> list[Outgoing]:
        """The counts that have not been told; the windows stay open."""
        return [tally.report() for tally in self._open.values() if tally.reported < tally.count]

    def _closed(self, keys: Iterable[Key]) -> Iterator[Outgoing]:
        for key in keys:
            tally = self._open.pop(key)
            if tally.reported < tally.count:
                yield tally.report()
