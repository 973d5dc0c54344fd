"""Where scoring begins in a partition of images, what it knows of the images before, and what people should know of it.

Verdicts tell how far scoring has come, for as long as offsets mean the same images. A topic that is deleted and made
anew counts from 0 again: then another generation of offsets begins, and verdicts of the former one say nothing of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flowgauge.domain.dead_letters import GENERATION, origin_of
from flowgauge.domain.errors import SettingsError
from flowgauge.domain.messages import DEAD_LETTERS, IMAGES, SHADOW_VERDICTS, VERDICTS, Verdict
from flowgauge.domain.ports import Log, Outgoing
from flowgauge.runtime.alerts import NO_LINE, expired_alerts, reset_alerts
from flowgauge.runtime.backend import records_from
from flowgauge.runtime.processor import decoded

# recent events per partition among which a second delivery is noticed: fewer, and a camera that sends its last hour
# again is scored twice; more only take memory and time at a start
WINDOW = 10_000
# dead letters in memory at once: each may hold a large image; with fewer a start takes more round trips
_PAGE = 16


@dataclass(frozen=True)
class Start:
    """`offset` is the first image to score; `generation` and `topic_id` are those of `Source`; `dead_lettered` are the
    offsets from `offset` on that are dead letters already.
    """

    offset: int
    generation: int
    topic_id: str
    alerts: tuple[Outgoing, ...] = ()
    dead_lettered: frozenset[int] = frozenset()


def find_start(log: Log, partition: int, committed: int, now: datetime) -> tuple[Start, list[Verdict]]:
    """The start after the last verdict of `partition`, or after `committed` where verdicts are gone; and the last
    `WINDOW` verdicts, of whatever generation.

    Offsets begin anew where the topic has another id than in the last verdict, or ends before it. Then everything that
    is there is scored: what was sent before is known by its id.
    """
    topic_id = log.topic_id(IMAGES)
    begin, end = log.begin(IMAGES, partition), log.end(IMAGES, partition)
    records = list(records_from(log, VERDICTS, partition, max(0, log.end(VERDICTS, partition) - WINDOW)))
    # what is no verdict is a dead letter of those who read them: it must not keep images from being scored
    tail = [verdict for _, verdict in decoded(records, Verdict, "verdict", [])]
    lines = sorted({verdict.line for verdict in tail}) or [NO_LINE]
    # the highest, not the last: a worker that had lost the partition may have written after its successor
    last = max((verdict.source for verdict in tail), key=lambda source: source.rank, default=None)
    if last is None:
        offset, generation, alerts = _without_verdicts(log, partition, committed, now)
    elif (last.topic_id and topic_id and last.topic_id != topic_id) or last.offset >= end:
        # the time rather than the next number: verdicts that expired may have told of later generations
        offset, generation = begin, max(last.generation + 1, int(now.timestamp()))
        alerts = reset_alerts(IMAGES, partition, last.offset + 1, begin, end, now, lines)
    else:
        # never what was committed: a crash between a verdict and its commit would score the image again
        offset, generation = max(last.offset + 1, begin), last.generation
        # dead letters and images sent twice leave no verdict, and only the commit tells that they were read; one beyond
        # the end is of a topic that is gone
        read = max(last.offset + 1, committed if committed <= end else 0)
        alerts = expired_alerts(IMAGES, partition, read, begin, now, lines)
    dead_lettered = _dead_lettered(log, partition, offset, generation)
    return Start(offset, generation, topic_id, alerts, dead_lettered), tail


def ensure_companions(log: Log) -> None:
    """Raises `SettingsError` unless what comes of images has every partition that they have."""
    log.topic_id(IMAGES)
    ensure_partition(log, log.partitions(IMAGES) - 1)


def ensure_partition(
    log: Log, partition: int, topics: Sequence[str] = (VERDICTS, DEAD_LETTERS, SHADOW_VERDICTS)
) -> None:
    """Raises `SettingsError` where one of `topics` lacks the partition."""
    for topic in topics:
        if log.partitions(topic) <= partition:
            log.topic_id(topic)  # partitions may have been added since it was asked
        if log.partitions(topic) <= partition:
            raise SettingsError(
                f"Topic {topic} has {log.partitions(topic)} partitions and {IMAGES} {log.partitions(IMAGES)}: what"
                " comes of an image lies in the partition of the same number.",
                "Run `flowgauge topics create`, which adds those that are missing.",
            )


def _without_verdicts(log: Log, partition: int, committed: int, now: datetime) -> tuple[int, int, tuple[Outgoing, ...]]:
    """Offset, generation and alerts. Before the first verdict the whole topic is due. Once verdicts have expired, the
    group's commits tell how far scoring has come; those of a topic that is gone lie beyond its end."""
    begin, end = log.begin(IMAGES, partition), log.end(IMAGES, partition)
    never_scored = log.end(VERDICTS, partition) == 0
    generation = 0 if never_scored else int(now.timestamp())
    if committed > end:
        return begin, generation, reset_alerts(IMAGES, partition, committed, begin, end, now)
    if not committed and not never_scored:
        return begin, generation, ()
    return max(committed, begin), generation, expired_alerts(IMAGES, partition, committed, begin, now)


def _dead_lettered(log: Log, partition: int, start: int, generation: int) -> frozenset[int]:
    """Image offsets, from `start` on, that are dead letters already. Read backwards: each may hold a large image."""
    found: set[int] = set()
    end = log.end(DEAD_LETTERS, partition)
    while end > 0:
        first = max(0, end - _PAGE)
        dead_letters = list(records_from(log, DEAD_LETTERS, partition, first, end))
        origins = [(letter.headers.get(GENERATION, "0"), origin_of(letter)) for letter in dead_letters]
        of_images = [(of, origin.offset) for of, origin in origins if origin is not None and origin.topic == IMAGES]
        ours = [offset for of, offset in of_images if of == str(generation)]
        found |= {offset for offset in ours if offset >= start}
        # what lies before is of images before the start, or of another generation
        if not dead_letters or len(ours) < len(of_images) or any(offset < start for offset in ours):
            break
        end = first
    return frozenset(found)
