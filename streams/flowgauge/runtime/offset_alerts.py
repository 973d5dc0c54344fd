"""What people should know when a topic does not hold any more what a group was about to read."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flowgauge.domain.messages import AlertKind
from flowgauge.domain.ports import Outgoing
from flowgauge.runtime.alerts import NO_LINE, alert


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
