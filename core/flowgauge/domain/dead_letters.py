"""Messages that could not be processed: kept with their reason, for repair and replay."""

from collections.abc import Mapping
from dataclasses import dataclass

from flowgauge.domain.messages import DEAD_LETTERS
from flowgauge.domain.ports import Outgoing, Record

REASON = "flowgauge_reason"
TOPIC, PARTITION, OFFSET = "flowgauge_topic", "flowgauge_partition", "flowgauge_offset"
GENERATION = "flowgauge_generation"
REPLAYED_FROM = "flowgauge_replayed_from"
# characters; a reason may quote what was sent, and a letter must not outgrow its topic
_LONGEST_REASON = 1_000

_OURS = (REASON, TOPIC, PARTITION, OFFSET, GENERATION, REPLAYED_FROM)


@dataclass(frozen=True)
class Origin:
    """Where a record lay that became a dead letter."""

    topic: str
    partition: int
    offset: int


def dead_letter(line: str, value: bytes, headers: Mapping[str, str], reason: str) -> Outgoing:
    """One that never reached a topic."""
    return Outgoing(DEAD_LETTERS, line, value, {**headers, REASON: reason[:_LONGEST_REASON]})


def dead_lettered(record: Record, reason: str, generation: int = 0) -> Outgoing:
    """`record` as a dead letter in the partition of the same number, with its headers, and where it lay: `generation`
    is that of its topic's offsets (see `Source`)."""
    origin = {
        TOPIC: record.topic,
        PARTITION: str(record.partition),
        OFFSET: str(record.offset),
        GENERATION: str(generation),
        REASON: reason[:_LONGEST_REASON],
    }
    return Outgoing(DEAD_LETTERS, record.key, record.value, {**record.headers, **origin}, record.partition)


def origin_of(letter: Record) -> Origin | None:
    """Where the original of `letter` lay; None where it never reached a topic."""
    if TOPIC not in letter.headers:
        return None
    return Origin(letter.headers[TOPIC], int(letter.headers[PARTITION]), int(letter.headers[OFFSET]))


def replayed(letter: Record, origin: Origin) -> Outgoing:
    """The original of `letter` again, for the topic and partition of `origin`, marked with where the letter lies."""
    headers = {name: text for name, text in letter.headers.items() if name not in _OURS}
    mark = {REPLAYED_FROM: f"{letter.partition}/{letter.offset}"}
    return Outgoing(origin.topic, letter.key, letter.value, headers | mark, origin.partition)
