"""What a plant is doing: how far behind its groups are, and what each line has."""

import time
from collections.abc import Iterator
from datetime import datetime

from flowgauge.domain.messages import ALERTS, Alert, FrozenModel
from flowgauge.domain.ports import Log
from flowgauge.processors.adaptation import Adaptation, audits
from flowgauge.processors.alerting import Alerting
from flowgauge.processors.archive import Archive
from flowgauge.processors.notifying import Notifying
from flowgauge.processors.observing import Observing
from flowgauge.processors.parts import Parts
from flowgauge.processors.scoring import Scoring
from flowgauge.registry.snapshots import active_snapshots
from flowgauge.runtime.backend import Store, records_from
from flowgauge.runtime.processor import decoded

# between two looks for new alerts: less asks the brokers for nothing, more shows an alert later than a person expects
_FOLLOW_SECONDS = 0.5

GROUPS = (Scoring, Alerting, Observing, Archive, Parts, Adaptation, Notifying)


class GroupStatus(FrozenModel):
    """`lag`: records of `topic` that are there and beyond what the group has committed; all of them where that lies
    beyond the end, as in a topic that was made anew. Alerting commits the start of a window that is open, archive that
    of a file that is being filled, parts that of a part that is open, notify that of what an address has not taken:
    their lag is what a restart would read again.
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
            lag, began = 0, processor is not Notifying
            for partition, (begin, end) in enumerate(store.log.bounds(topic)):
                committed = store.log.position(processor.name, topic, partition)
                began |= committed > 0
                lag += end - (begin if committed > end else max(committed, begin))
            # most plants tell nobody, and a group that was never there is not behind
            if began:
                yield GroupStatus(group=processor.name, topic=topic, lag=lag)


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


def latest_alerts(log: Log, limit: int, line: str | None = None, *, follow: bool = False) -> Iterator[Alert]:
    """Of the last `limit` alerts those (of `line`), in order of time; then, with `follow`, each new one as it comes."""
    offsets = [max(0, log.end(ALERTS, partition) - limit) for partition in range(log.partitions(ALERTS))]

    def read() -> list[Alert]:
        found = []
        for partition, offset in enumerate(offsets):
            # a foreign record, of which whoever tells people makes a dead letter, hides none of ours
            for record, message in decoded(records_from(log, ALERTS, partition, offset), Alert, "alert", []):
                found.append(message)
                offsets[partition] = record.offset + 1
        return sorted(found, key=lambda alert: alert.at)

    found = read()[-limit:]
    while True:
        yield from (alert for alert in found if line in (None, alert.line))
        if not follow:
            return
        time.sleep(_FOLLOW_SECONDS)
        found = read()
