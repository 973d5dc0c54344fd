"""How alerts are made: ids that a replay makes again, one alert for many of a kind, and what offsets tell people."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import ValidationError

from flowgauge.domain.messages import ALERTS, Alert, AlertKind
from flowgauge.domain.ports import Log, Outgoing
from flowgauge.runtime.backend import newest_first, records_from

NO_LINE = "no-line"
"""Stands in alerts of what belongs to no line, or names none."""

# of a partition's alerts: fewer than come in one alert window, and a start reports some again; more only take time
_NEWEST = 1_000


def alert_id(line: str, kind: AlertKind, trigger: str) -> UUID:
    """`trigger` is what makes two alerts of a kind two: a verdict, a request, a version, a window."""
    return uuid5(NAMESPACE_URL, f"alert:{line}:{kind}:{trigger}")


def alert(
    line: str, kind: AlertKind, trigger: str, at: datetime, message: str, count: int = 1, **detail: Any
) -> Outgoing:
    """The record of an alert. The same line, kind and trigger make the same alert, whatever its count."""
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
    """What people should see (of `line`), in the order of first occurrence."""
    latest: dict[UUID, Alert] = {}
    for partition in range(log.partitions(ALERTS)):
        for record in records_from(log, ALERTS, partition):
            try:
                message = Alert.decode(record.value)
            except ValidationError:
                continue  # a foreign record hides none of ours
            # a worker that starts anew tells of an open window from its beginning: the highest count holds
            if line in (None, message.line) and message.count >= latest.get(message.alert_id, message).count:
                latest[message.alert_id] = message
    return list(latest.values())


def reported_counts(log: Log) -> dict[UUID, int]:
    """The highest counts of the newest alerts, by their ids."""
    counts: dict[UUID, int] = {}
    for partition in range(log.partitions(ALERTS)):
        for record in islice(newest_first(log, ALERTS, partition), _NEWEST):
            try:
                message = Alert.decode(record.value)
            except ValidationError:
                continue
            counts[message.alert_id] = max(message.count, counts.get(message.alert_id, 0))
    return counts


def reset_alerts(
    topic: str, partition: int, known: int, begin: int, end: int, now: datetime, lines: Sequence[str] = (NO_LINE,)
) -> tuple[Outgoing, ...]:
    """That `topic` holds other records than those that were read up to offset `known`."""
    message = (
        f"Offsets of {topic}, partition {partition}, have begun anew: they were read up to {known}, and now reach from"
        f" {begin} to {end}. All {end - begin} records that are there are read. What the former topic held unread is"
        " gone with it: send it again."
    )
    detail: dict[str, Any] = {"topic": topic, "partition": partition, "known": known, "waiting": end - begin}
    trigger = f"{topic}/{partition}/{known}/{begin}"
    return tuple(alert(line, AlertKind.OFFSETS_RESET, trigger, now, message, **detail) for line in lines)


def expired_alerts(
    topic: str, partition: int, known: int, begin: int, now: datetime, lines: Sequence[str] = (NO_LINE,)
) -> tuple[Outgoing, ...]:
    """That the records from `known` to `begin` left `topic` before they were read; none where all are there."""
    if begin <= known:
        return ()
    message = (
        f"{begin - known} records of {topic}, partition {partition}, expired before they were read: offsets {known} to"
        f" {begin - 1}. Send them again, and raise the topic's retention.ms or start more workers (`flowgauge status`"
        " shows who lags)."
    )
    detail: dict[str, Any] = {"topic": topic, "partition": partition, "first": known, "expired": begin - known}
    trigger = f"{topic}/{partition}/{known}"
    return tuple(alert(line, AlertKind.RECORDS_EXPIRED, trigger, now, message, **detail) for line in lines)
