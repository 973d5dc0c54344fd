"""The log on Kafka: what the processors read and append beside what a worker's consumer group brings them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from kafka.structs import OffsetAndMetadata, TopicPartition

from adapters.kafka.codec import received, sent
from adapters.kafka.faults import kafka_faults
from adapters.kafka.settings import KafkaSettings
from core.ports import Clock, Outgoing, Record

LARGEST_MESSAGE = 10 * 1024 * 1024
"""Bytes; what our topics are created with, and twice what JSON and inline images need."""

LARGEST_LETTER = LARGEST_MESSAGE + 64 * 1024
"""Bytes; a dead letter is the largest message, where it lay, and why it could not be processed."""

_POLL_MS = 200
_POLLS = 50  # a read that has been promised records gives up after ten seconds


class KafkaLog:
    """`append` returns once all in-sync replicas have the records. When it raises, a part of them may have been
    appended, of each partition the first ones; appending all of them again repeats those, which the rules of delivery
    make harmless.

    Connects at the first use. Every partition that is read has a connection of its own.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._lock = Lock()
        self._appending = Lock()
        self._producer: Any = None
        self._readers: dict[TopicPartition, _Reader] = {}
        self._groups: dict[str, _Group] = {}
        self._partitions: dict[str, int] = {}

    def partitions(self, topic: str) -> int:
        if topic not in self._partitions:
            with self._faults():
                numbers = self._opened_producer().partitions_for(self.settings.topic(topic))
                if not numbers:
                    raise UnknownTopicOrPartitionError(self.settings.topic(topic))
            self._partitions[topic] = len(numbers)
        return self._partitions[topic]

    def append(self, records: Sequence[Outgoing]) -> None:
        at = self._clock.now()
        with self._appending, self._faults(), self._renewing_producer():
            producer = self._opened_producer()
            futures = [producer.send(self.settings.topic(record.topic), **sent(record, at)) for record in records]
            producer.flush(timeout=_POLLS * _POLL_MS / 1000)
            for future in futures:
                future.get(timeout=1)

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        with self._faults(), self._reading(topic, partition) as reader:
            found = reader.read(offset, limit)
        return [received(topic, record) for record in found]

    def end(self, topic: str, partition: int) -> int:
        with self._faults(), self._reading(topic, partition) as reader:
            return reader.end()

    def position(self, group: str, topic: str, partition: int) -> int:
        with self._faults():
            return self._group(group).committed(self._place(topic, partition))

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        with self._faults():
            self._group(group).commit(self._place(topic, partition), offset)

    def close(self) -> None:
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            for group in self._groups.values():
                group.close()
            if self._producer is not None:
                with suppress(KafkaError):  # what was owed has been flushed by whoever appended it
                    self._producer.close(timeout=5)

    def _place(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self.settings.topic(topic), partition)

    def _faults(self) -> Any:
        return kafka_faults(self.settings.bootstrap)

    def _opened_producer(self) -> Any:
        with self._lock:
            if self._producer is None:
                self._producer = KafkaProducer(
                    **self.settings.client_options(),
                    acks="all",
                    enable_idempotence=True,
                    allow_auto_create_topics=False,
                    max_request_size=LARGEST_LETTER,
                    max_block_ms=10_000,
                    request_timeout_ms=5_000,
                    delivery_timeout_ms=10_000,
                )
            return self._producer

    @contextmanager
    def _renewing_producer(self) -> Iterator[None]:
        """After a failure the next append gets a new one: an idempotent producer that gave a record up is stuck."""
        try:
            yield
        except KafkaError:
            with self._lock:
                stuck, self._producer = self._producer, None
            if stuck is not None:
                stuck.close(timeout=0)
            raise

    @contextmanager
    def _reading(self, topic: str, partition: int) -> Iterator["_Reader"]:
        """The partition's connection; after a failure the next read makes a new one."""
        place = self._place(topic, partition)
        with self._lock:
            if place not in self._readers:
                self._readers[place] = _Reader(_consumer(self.settings), place)
            reader = self._readers[place]
        try:
            yield reader
        except KafkaError:
            with self._lock:
                if self._readers.get(place) is reader:
                    del self._readers[place]
            reader.close()
            raise

    def _group(self, name: str) -> "_Group":
        with self._lock:
            if name not in self._groups:
                self._groups[name] = _Group(_consumer(self.settings, group_id=self.settings.topic(name)))
            return self._groups[name]


def _consumer(settings: KafkaSettings, **options: Any) -> Any:
    return KafkaConsumer(
        **settings.client_options(),
        **options,
        enable_auto_commit=False,
        auto_offset_reset="none",
        allow_auto_create_topics=False,
        max_partition_fetch_bytes=LARGEST_LETTER,
        request_timeout_ms=10_000,
    )


class _Reader:
    """One partition, one connection; calls are one at a time. Once closed it raises `KafkaConnectionError`: whoever
    shares it with the one that closed it tries again with a new one."""

    def __init__(self, consumer: Any, place: TopicPartition) -> None:
        self._consumer = consumer
        self._place = place
        self._lock = Lock()
        self._next = -1
        self._closed = False
        consumer.assign([place])

    def read(self, offset: int, limit: int) -> list[Any]:
        with self._open():
            end = self._end()
            if offset >= end or limit < 1:
                return []
            self._seek(offset)
            return self._poll(end, limit)

    def end(self) -> int:
        with self._open():
            return self._end()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._consumer.close(autocommit=False)

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise KafkaConnectionError("another reader's failure closed the connection")
            yield

    def _end(self) -> int:
        return int(self._consumer.end_offsets([self._place])[self._place])

    def _seek(self, offset: int) -> None:
        """Going on where the last read ended keeps what has been fetched ahead."""
        if offset != self._next:
            self._consumer.seek(self._place, offset)
            self._next = offset

    def _poll(self, end: int, limit: int) -> list[Any]:
        """There are offsets up to `end`; what compaction removed of them leaves nothing to return."""
        for _ in range(_POLLS):
            records = self._polled(limit)
            if records:
                self._next = records[-1].offset + 1
                return records
            self._next = int(self._consumer.position(self._place))
            if self._next >= end:
                return []
        raise KafkaTimeoutError(f"no records of {self._place.topic} came within {_POLLS * _POLL_MS / 1000:.0f} s")

    def _polled(self, limit: int) -> list[Any]:
        try:
            return list(self._consumer.poll(timeout_ms=_POLL_MS, max_records=limit).get(self._place, []))
        except OffsetOutOfRangeError:
            # retention has taken them: the oldest that is left comes next
            self._consumer.seek(self._place, self._consumer.beginning_offsets([self._place])[self._place])
            return []


class _Group:
    """What a consumer group has committed; no member of it, so only for groups whose members are not alive."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._lock = Lock()

    def committed(self, place: TopicPartition) -> int:
        with self._lock:
            return int(self._consumer.committed(place) or 0)

    def commit(self, place: TopicPartition, offset: int) -> None:
        with self._lock:
            self._consumer.assign([place])
            self._consumer.commit({place: OffsetAndMetadata(offset, "", -1)})

    def close(self) -> None:
        self._consumer.close(autocommit=False)
