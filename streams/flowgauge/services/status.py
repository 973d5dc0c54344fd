"""What a plant is doing: how far behind its groups are, and what each line has."""

from collections.abc import Iterator
from datetime import datetime

from flowgauge.domain.messages import ALERTS, Alert, FrozenModel
from flowgauge.domain.ports import Log, Record
from flowgauge.processors.adaptation import Adaptation, audits
from flowgauge.processors.alerting import Alerting
from flowgauge.processors.archive import Archive
from flowgauge.processors.observing import Observing
from flowgauge.processors.scoring import Scoring
from flowgauge.registry.snapshots import active_snapshots
from flowgauge.runtime.backend import Store

GROUPS = (Scoring, Alerting, Observing, Archive, Adaptation)


class GroupStatus(FrozenModel):
    """`lag`: records of `topic` that are there and beyond what the group has committed; all of them where that lies
    beyond the end, as in a topic that was made anew. Alerting commits the start of a window that is
    open, archive that of a file that is being filled: their lag is what a restart would read again.
    """

    group: str
    topic: str
    lag: int


class LineStatus(FrozenModel):
    """`buffered` images; `adapted_at` and `accepted` of the last adaptation that was decided, None before the first."""

    line: str
    version: str
    epoch: int
    active_since: datetime
    buffered: int
    adapted_at: datetime | None
    accepted: bool | None


def group_statuses(store: Store) -> Iterator[GroupStatus]:
    for processor in GROUPS:
        for topic in processor.inputs:
            yield GroupStatus(group=processor.name, topic=topic, lag=_lag(store.log, processor.name, topic))


def line_statuses(store: Store) -> Iterator[LineStatus]:
    for line, active in sorted(active_snapshots(store.log).items()):
        last = next(reversed(audits(store, line)), None)
        yield LineStatus(
            line=line,
            version=active.version,
            epoch=active.epoch,
            active_since=active.at,
            buffered=len(store.state.buffer(line)),
            adapted_at=last.at if last else None,
            accepted=last.accepted if last else None,
        )


def latest_alerts(log: Log, limit: int) -> tuple[list[Alert], list[int]]:
    """The last `limit` alerts in order of time, and the offset after them in each partition."""
    ends = [log.end(ALERTS, number) for number in range(log.partitions(ALERTS))]
    found = [
        alert
        for number, end in enumerate(ends)
        for alert in decoded(log.read(ALERTS, number, max(0, end - limit), limit))
    ]
    return sorted(found, key=lambda alert: alert.at)[-limit:], ends


def decoded(records: list[Record]) -> list[Alert]:
    return [Alert.decode(record.value) for record in records]


def _lag(log: Log, group: str, topic: str) -> int:
    return sum(_waiting(log, group, topic, number) for number in range(log.partitions(topic)))


def _waiting(log: Log, group: str, topic: str, partition: int) -> int:
    begin, end = log.begin(topic, partition), log.end(topic, partition)
    position = log.position(group, topic, partition)
    return end - (begin if position > end else max(position, begin))
