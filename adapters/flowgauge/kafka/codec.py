"""Between the port's records and the client library's: UTF-8 keys and headers, times in whole milliseconds."""

from datetime import datetime
from typing import Any, Protocol

from flowgauge.domain.messages import from_epoch, header_text
from flowgauge.domain.ports import Outgoing, Record

Headers = list[tuple[str, bytes]]


class Received(Protocol):
    """What kafka-python's `ConsumerRecord` has of a record."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def sent(record: Outgoing, at: datetime) -> dict[str, Any]:
    """The arguments of `KafkaProducer.send`, without the topic."""
    return {
        "key": record.key.encode(),
        "value": record.value,
        "headers": [(name, text.encode()) for name, text in record.headers.items()],
        "partition": record.partition,
        "timestamp_ms": int(at.timestamp() * 1000),
    }


def received(topic: str, record: Received) -> Record:
    """What others sent may be no UTF-8: such bytes are spelled, so that different ids stay different."""
    return Record(
        topic=topic,
        partition=record.partition,
        offset=record.offset,
        key=header_text(record.key or b""),
        value=record.value or b"",
        headers={name: header_text(value or b"") for name, value in record.headers},
        at=from_epoch(record.timestamp / 1000),
    )
