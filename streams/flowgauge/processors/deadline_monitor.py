"""Takt: says when images wait longer to be scored than their line allows."""

from collections.abc import Sequence
from datetime import datetime

from flowgauge.domain.messages import IMAGES, AlertKind
from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.registry.line_settings import SettingsCache
from flowgauge.runtime.alerts import OncePerWindow


class DeadlineMonitor:
    """Compares how long images lay in their topic with their lines' `deadline_seconds`; alerts once per window."""

    def __init__(self, log: Log, settings: SettingsCache, once: OncePerWindow) -> None:
        self._log = log
        self._settings = settings
        self._once = once

    def overdue(self, records: Sequence[Record], now: datetime) -> list[Outgoing]:
        """What to tell of images of one partition, in order, that have been scored by `now`. Raises `Unavailable`;
        nothing has changed then."""
        late = [record for record in records if self._is_late(record, now)]
        if not late:
            return []
        last = records[-1]
        behind = self._log.end(IMAGES, last.partition) - last.offset - 1
        remedy = _remedy(self._log.partitions(IMAGES))
        first_of_line = {record.key: record for record in reversed(late)}
        return [out for record in first_of_line.values() for out in self._alert(record, now, behind, remedy)]

    def _is_late(self, record: Record, now: datetime) -> bool:
        deadline = self._settings.of(record.key).deadline_seconds
        return deadline is not None and _waited(record, now) > deadline

    def _alert(self, record: Record, now: datetime, behind: int, remedy: str) -> list[Outgoing]:
        deadline, waited = self._settings.of(record.key).deadline_seconds, round(_waited(record, now), 1)
        message = (
            f"{record.key}: images wait {waited:g} s to be scored, longer than the line's deadline of {deadline:g} s, "
            f"and {behind} more wait behind. {remedy}"
        )
        detail = {"waited_seconds": waited, "deadline_seconds": deadline, "behind": behind}
        return self._once.alert(record.key, AlertKind.BACKLOG, now, message, **detail)


def _waited(record: Record, now: datetime) -> float:
    return (now - record.at).total_seconds()


def _remedy(partitions: int) -> str:
    if partitions > 1:
        return f"Start more scoring workers: {partitions} partitions of images can keep as many busy."
    return "Score on a faster device, or spread the lines over more partitions and workers."
