"""Messages that could not be processed: kept with their reason, for repair and replay."""

from collections.abc import Mapping

from core.messages import DEAD_LETTERS
from core.ports import Outgoing, Record

REASON = "flowgauge_reason"
TOPIC, PARTITION, OFFSET = "flowgauge_topic", "flowgauge_partition", "flowgauge_offset"
_LONGEST_REASON = 1_000  # characters; it may quote what was sent, and a letter must not outgrow its topic


def dead_letter(line: str, value: bytes, headers: Mapping[str, str], reason: str) -> Outgoing:
    """One that never reached a topic."""
    return Outgoing(DEAD_LETTERS, line, value, {**headers, REASON: reason[:_LONGEST_REASON]})


def buried(record: Record, reason: str) -> Outgoing:
    """`record` as a dead letter in the partition of the same number, with its headers, and where it lay."""
    place = {
        TOPIC: record.topic,
        PARTITION: str(record.partition),
        OFFSET: str(record.offset),
        REASON: reason[:_LONGEST_REASON],
    }
    return Outgoing(DEAD_LETTERS, record.key, record.value, {**record.headers, **place}, record.partition)
