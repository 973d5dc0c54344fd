"""Where scoring begins in a partition of images, and what people should know of it.

Verdicts tell how far scoring has come, for as long as offsets mean the same images. A topic that is deleted and made
anew counts from 0 again: then another generation of offsets begins, and verdicts of the former one say nothing of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flowgauge.domain.errors import SettingsError
from flowgauge.domain.messages import DEAD_LETTERS, IMAGES, VERDICTS, Verdict
from flowgauge.domain.ports import Log, Outgoing
from flowgauge.runtime.alerts import NO_LINE
from flowgauge.runtime.offset_alerts import expired_alerts, reset_alerts


@dataclass(frozen=True)
class Start:
    """`offset` is the first image to score; `generation` and `topic_id` are those of `Source`."""

    offset: int
    generation: int
    topic_id: str
    alerts: tuple[Outgoing, ...] = ()


def find_start(log: Log, partition: int, tail: Sequence[Verdict], committed: int, now: datetime) -> Start:
    """The start after `tail`, the last verdicts of `partition`; after `committed` where verdicts are gone.

    Offsets begin anew where the topic has another id than in the last verdict, or ends before it. Then everything that
    is there is scored: what was sent before is known by its id.
    """
    topic_id = log.topic_id(IMAGES)
    begin, end = log.begin(IMAGES, partition), log.end(IMAGES, partition)
    last = max((verdict.source for verdict in tail), key=lambda source: source.rank, default=None)
    lines = sorted({verdict.line for verdict in tail}) or [NO_LINE]
    if last is None:
        return _without_verdicts(log, partition, committed, now, Start(begin, 0, topic_id), end)
    if (last.topic_id and topic_id and last.topic_id != topic_id) or last.offset >= end:
        generation = max(last.generation + 1, int(now.timestamp()))
        return Start(
            begin, generation, topic_id, reset_alerts(IMAGES, partition, last.offset + 1, begin, end, now, lines)
        )
    known = last.offset + 1
    expired = expired_alerts(IMAGES, partition, known, begin, now, lines)
    return Start(max(known, begin), last.generation, topic_id, expired)


def ensure_companions(log: Log) -> None:
    """Raises `SettingsError` unless verdicts and dead letters have every partition that images have."""
    log.topic_id(IMAGES)
    ensure_partition(log, log.partitions(IMAGES) - 1)


def ensure_partition(log: Log, partition: int) -> None:
    """Raises `SettingsError` where verdicts or dead letters lack the partition."""
    for topic in (VERDICTS, DEAD_LETTERS):
        if log.partitions(topic) <= partition:
            log.topic_id(topic)  # partitions may have been added since it was asked
        if log.partitions(topic) <= partition:
            raise SettingsError(
                f"Topic {topic} has {log.partitions(topic)} partitions and {IMAGES} {log.partitions(IMAGES)}: what"
                " comes of an image lies in the partition of the same number.",
                "Run `flowgauge topics create`, which adds those that are missing.",
            )


def _without_verdicts(log: Log, partition: int, committed: int, now: datetime, first: Start, end: int) -> Start:
    """Before the first verdict the whole topic is due. Once verdicts have expired, the group's commits tell how far
    scoring has come; those of a topic that is gone lie beyond its end."""
    never_scored = log.end(VERDICTS, partition) == 0
    generation = 0 if never_scored else int(now.timestamp())
    if committed > end:
        alerts = reset_alerts(IMAGES, partition, committed, first.offset, end, now)
        return Start(first.offset, generation, first.topic_id, alerts)
    if not committed and not never_scored:
        return Start(first.offset, generation, first.topic_id)
    expired = expired_alerts(IMAGES, partition, committed, first.offset, now)
    return Start(max(committed, first.offset), generation, first.topic_id, expired)
