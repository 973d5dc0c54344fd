"""Messages that could not be processed: kept with their reason, for repair and replay."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flowgauge.domain.messages import DEAD_LETTERS
from flowgauge.domain.ports import Outgoing, Record

REASON = "flowgauge_reason"
TOPIC, PARTITION, OFFSET = "flowgauge_topic", "flowgauge_partition", "flowgauge_offset"
GENERATION = "flowgauge_generation"
REPLAYED_FROM = "flowgauge_replayed_from"
# a letter must not outgrow its topic, or it can never be written: bytes that are no text become four times as long
LONGEST_REASON = 1_000  # characters; it may quote what was sent
_LONGEST_HEADER = 4_096  # characters; shorter, and what replays an image is cut
_MOST_HEADERS = 32 * 1024  # bytes, half of what a topic of dead letters takes beyond the largest image

# digits that fit in 64 bits; more, and Python refuses to read some as a number
_NUMBER = re.compile("[0-9]{1,18}")
_OURS = (REASON, TOPIC, PARTITION, OFFSET, GENERATION, REPLAYED_FROM)


@dataclass(frozen=True)
class Origin:
    """Where a record lay that became a dead letter."""

    topic: str
    partition: int
    offset: int


def dead_letter(line: str, value: bytes, headers: Mapping[str, str], reason: str) -> Outgoing:
    """One that never reached a topic."""
    return Outgoing(DEAD_LETTERS, line, value, {**_within_bounds(headers), REASON: reason[:LONGEST_REASON]})


def dead_lettered(record: Record, reason: str, generation: int = 0) -> Outgoing:
    """`record` as a dead letter in the partition of the same number, with its headers, and where it lay: `generation`
    is that of its topic's offsets (see `Source`)."""
    origin = {
        TOPIC: record.topic,
        PARTITION: str(record.partition),
        OFFSET: str(record.offset),
        GENERATION: str(generation),
        REASON: reason[:LONGEST_REASON],
    }
    headers = _within_bounds(record.headers) | origin
    return Outgoing(DEAD_LETTERS, record.key[:_LONGEST_HEADER], record.value, headers, record.partition)


def _within_bounds(headers: Mapping[str, str]) -> dict[str, str]:
    """Without those for which there is no room, and long ones cut."""
    kept, left = {}, _MOST_HEADERS
    for name, text in headers.items():
        text = text[:_LONGEST_HEADER]
        size = len(name.encode()) + len(text.encode())
        if size <= left:
            kept[name] = text
            left -= size
    return kept


def origin_of(letter: Record) -> Origin | None:
    """Where the original of `letter` lay; None where it never reached a topic, or does not say where in it."""
    topic, partition, offset = (letter.headers.get(name, "") for name in (TOPIC, PARTITION, OFFSET))
    if not topic or not _NUMBER.fullmatch(partition) or not _NUMBER.fullmatch(offset):
        return None
    return Origin(topic, int(partition), int(offset))


def replayed(letter: Record, origin: Origin) -> Outgoing:
    """The original of `letter` again, for the topic and partition of `origin`, marked with where the letter lies."""
    headers = {name: text for name, text in letter.headers.items() if name not in _OURS}
    mark = {REPLAYED_FROM: f"{letter.partition}/{letter.offset}"}
    return Outgoing(origin.topic, letter.key, letter.value, headers | mark, origin.partition)
