"""How alerts are made: ids that a replay makes again, and one alert for many of a kind."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from flowgauge.domain.messages import ALERTS, Alert, AlertKind
from flowgauge.domain.ports import Log, Outgoing

_PAGE = 1_000
NO_LINE = "no-line"
"""Stands in alerts of what belongs to no line, or names none."""


def alert_id(line: str, kind: AlertKind, trigger: str) -> UUID:
    """`trigger` is what makes two alerts of a kind two: a verdict, a request, a version, a window."""
    return uuid5(NAMESPACE_URL, f"alert:{line}:{kind}:{trigger}")


def alert(
    line: str, kind: AlertKind, trigger: str, at: datetime, message: str, count: int = 1, **detail: Any
) -> Outgoing:
    """The record of an alert. The same line, kind and occasion make the same alert, whatever its count."""
    made = Alert(
        alert_id=alert_id(line, kind, trigger),
        line=line,
        at=at,
        kind=kind,
        count=count,
        message=message,
        detail=detail,
    )
    return Outgoing(ALERTS, line, made.encode())


def window_start(at: datetime, seconds: float) -> datetime:
    """The start of the window of `seconds` that `at` falls into; windows are aligned to the epoch."""
    return datetime.fromtimestamp(at.timestamp() // seconds * seconds, UTC)


class OncePerWindow:
    """Lets one alert of a line and kind through per window, for kinds that would repeat with every batch."""

    def __init__(self, seconds: Callable[[str], float]) -> None:
        self._seconds = seconds
        self._last: dict[tuple[str, AlertKind], datetime] = {}

    def alert(self, line: str, kind: AlertKind, at: datetime, message: str, **detail: Any) -> list[Outgoing]:
        window = window_start(at, self._seconds(line))
        if self._last.get((line, kind)) == window:
            return []
        self._last[line, kind] = window
        return [alert(line, kind, window.isoformat(), at, message, **detail)]


def alerts(log: Log, line: str | None = None) -> list[Alert]:
    """What people should see, in the order of first occurrence. Of records with one id the highest count holds: a
    worker that starts anew tells of an open window from its beginning."""
    latest: dict[UUID, Alert] = {}
    for partition in range(log.partitions(ALERTS)):
        offset = 0
        while records := log.read(ALERTS, partition, offset, _PAGE):
            for message in (Alert.decode(record.value) for record in records):
                if line in (None, message.line) and message.count >= latest.get(message.alert_id, message).count:
                    latest[message.alert_id] = message
            offset = records[-1].offset + 1
    return list(latest.values())
