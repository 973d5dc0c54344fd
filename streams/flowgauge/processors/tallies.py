"""Alerts of a kind counted in windows of time, many as one alert with a count."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from flowgauge.domain.messages import PART_VERDICTS, AlertKind
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.registry.lines import SettingsCache
from flowgauge.runtime.alerts import alert, window_start

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
    formatted with line, count, the first example and the detail."""

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

    def add(self, example: str, **detail: Any) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example[:_LONGEST_EXAMPLE])
        self.detail = detail | self.detail

    def report(self) -> Outgoing:
        self.reported = self.count
        # one id for one count: rejects of parts are not those of images that belong to no part
        of_parts = "/parts" if self.first.topic == PART_VERDICTS else ""
        return alert(
            self.line,
            self.kind,
            self.start.isoformat() + of_parts,
            self.start,
            self.message.format(line=self.line, count=self.count, example=self.examples[0], **self.detail),
            self.count,
            examples=self.examples,
            **self.detail,
        )


class Tallies:
    """The first of a kind is told at once, and the whole count when the window has passed.

    Windows go by the time at which records were appended, so a replay finds the same ones; all alerts of a window carry
    one id, and the highest count holds. Our own clock says only when to tell: a window stays open until a record
    of a later one comes, however slowly its records are read. Nothing beyond the start of an open one is committed.
    """

    def __init__(self, settings: SettingsCache) -> None:
        self._settings = settings
        self._open: dict[Key, Tally] = {}

    def add(
        self, kind: AlertKind, line: str, record: Record, message: str, example: str, **detail: Any
    ) -> list[Outgoing]:
        """The alert that a new window begins with; nothing while it goes on."""
        seconds = self._settings.of(line).alert_window_seconds
        start = window_start(record.at, seconds)
        key = (line, kind, record.topic, record.partition)
        before = list(self._closed([key])) if key in self._open and self._open[key].start != start else []
        new = key not in self._open
        tally = self._open.setdefault(
            key, Tally(line, kind, message, start, start + timedelta(seconds=seconds), record)
        )
        tally.add(example, **detail)
        return [*before, tally.report()] if new else before

    def passed(self, last: Record) -> list[Outgoing]:
        """Of the windows that no later record of its partition than `last` can fall into."""
        partition = last.topic, last.partition
        return list(
            self._closed([key for key, tally in self._open.items() if key[2:] == partition and tally.end <= last.at])
        )

    def committable_offset(self, topic: str, partition: int, read: int) -> int:
        # a restart counts an open window again from its first record, so that its last alert tells the whole count
        firsts = [tally.first for tally in self._open.values()]
        return min([read, *(first.offset for first in firsts if (first.topic, first.partition) == (topic, partition))])

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
