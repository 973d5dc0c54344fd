"""Connections that read: one to a partition, one to what a group has committed."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from flowgauge.kafka.limits import LARGEST_LETTER
from flowgauge.kafka.settings import KafkaSettings
from kafka import KafkaConsumer
from kafka.errors import KafkaConnectionError, KafkaTimeoutError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata, TopicPartition

_POLL_MS = 200
_POLLS = 50  # a read that has been promised records gives up after ten seconds


def open_consumer(settings: KafkaSettings, **options: Any) -> Any:
    return KafkaConsumer(
        **settings.client_options(),
        **options,
        enable_auto_commit=False,
        auto_offset_reset="none",
        allow_auto_create_topics=False,
        max_partition_fetch_bytes=LARGEST_LETTER,
        request_timeout_ms=10_000,
    )


class Reader:
    """One partition, one connection; calls are one at a time, and those that wait for a closed one raise."""

    def __init__(self, consumer: Any, topic_partition: TopicPartition) -> None:
        self._consumer = consumer
        self._topic_partition = topic_partition
        self._lock = Lock()
        self._next = -1
        self._closed = False
        consumer.assign([topic_partition])

    def read(self, offset: int, limit: int) -> list[Any]:
        with self._alone():
            end = self._end()
            if offset >= end or limit < 1:
                return []
            self._seek(offset)
            return self._poll(end, limit)

    def end(self) -> int:
        with self._alone():
            return self._end()

    def begin(self) -> int:
        with self._alone():
            return int(self._consumer.beginning_offsets([self._topic_partition])[self._topic_partition])

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._consumer.close(autocommit=False)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise KafkaConnectionError("another call failed on this connection meanwhile")
            yield

    def _end(self) -> int:
        return int(self._consumer.end_offsets([self._topic_partition])[self._topic_partition])

    def _seek(self, offset: int) -> None:
        """Going on where the last read ended keeps what has been fetched ahead."""
        if offset != self._next:
            self._consumer.seek(self._topic_partition, offset)
            self._next = offset

    def _poll(self, end: int, limit: int) -> list[Any]:
        """There are offsets up to `end`; what compaction removed of them leaves nothing to return."""
        for _ in range(_POLLS):
            records = self._polled(limit)
            if records:
                self._next = records[-1].offset + 1
                return records
            self._next = int(self._consumer.position(self._topic_partition))
            if self._next >= end:
                return []
        raise KafkaTimeoutError(
            f"no records of {self._topic_partition.topic} came within {_POLLS * _POLL_MS / 1000:.0f} s"
        )

    def _polled(self, limit: int) -> list[Any]:
        try:
            return list(self._consumer.poll(timeout_ms=_POLL_MS, max_records=limit).get(self._topic_partition, []))
        except OffsetOutOfRangeError:
            # retention has taken them: the oldest that is left comes next
            self._consumer.seek(
                self._topic_partition, self._consumer.beginning_offsets([self._topic_partition])[self._topic_partition]
            )
            return []


class Group:
    """What a consumer group has committed; no member of it, so only for groups whose members are not alive."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._lock = Lock()

    def committed(self, topic_partition: TopicPartition) -> int:
        with self._lock:
            return int(self._consumer.committed(topic_partition) or 0)

    def commit(self, topic_partition: TopicPartition, offset: int) -> None:
        with self._lock:
            self._consumer.assign([topic_partition])
            self._consumer.commit({topic_partition: OffsetAndMetadata(offset, "", -1)})

    def close(self) -> None:
        self._consumer.close(autocommit=False)
