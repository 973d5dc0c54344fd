"""The log on Kafka: what the processors read and append beside what a worker's consumer group brings them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from flowgauge.domain.messages import from_epoch, header_text
from flowgauge.domain.ports import Clock, Outgoing, Record
from flowgauge.kafka.auth_probe import ensure_admitted
from flowgauge.kafka.faults import kafka_faults
from flowgauge.kafka.header_names import any_names_in_logs
from flowgauge.kafka.settings import LARGEST_DEAD_LETTER, KafkaSettings
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, OffsetOutOfRangeError, for_code
from kafka.structs import OffsetAndMetadata, TopicPartition

# Longer holds a batch up for brokers that are away; shorter gives those up that are busy.
_SECONDS = 10
# A read that has been promised records gives up after polls of ten seconds together: fewer give up a broker that is
# busy, more hold up a batch. Longer polls would keep others waiting for the connection.
_POLL_MS = 200
_POLLS = 50


@dataclass
class _Reader:
    """A connection to one partition, for one call at a time. `next` is the offset that it would fetch."""

    consumer: Any
    alone: Lock = field(default_factory=Lock)
    next: int = -1
    closed: bool = False


class KafkaLog:
    """`append` returns once all in-sync replicas have the records.

    Connects at the first use. Every partition that is read has a connection of its own.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        any_names_in_logs()
        self.settings = settings
        self._clock = clock
        self._lock = Lock()
        self._appending = Lock()
        self._describing = Lock()
        self._producer: Any = None
        self._admin: Any = None
        self._readers: dict[TopicPartition, _Reader] = {}
        self._groups: dict[str, tuple[Lock, Any]] = {}
        self._partitions: dict[str, int] = {}
        self._admitted = False

    def partitions(self, topic: str) -> int:
        """As of the last `topic_id`, which asks the brokers, as the first call does."""
        if topic not in self._partitions:
            self.topic_id(topic)
        return self._partitions[topic]

    def topic_id(self, topic: str) -> str:
        name = self.settings.topic(topic)
        with kafka_faults(self.settings, f"Describe on the topic {name}"), self._describing:
            try:
                if self._admin is None:
                    self._ensure_admitted()
                    self._admin = KafkaAdminClient(**self.settings.client_options(), request_timeout_ms=_SECONDS * 1000)
                (found,) = self._admin.describe_topics([name])
                if found["error_code"]:
                    raise for_code(found["error_code"])(name)
            except KafkaError:
                # The next call makes a new connection.
                stuck, self._admin = self._admin, None
                if stuck is not None:
                    stuck.close()
                raise
        self._partitions[topic] = len(found["partitions"])
        return str(found.get("topic_id") or "")

    def append(self, records: Sequence[Outgoing]) -> None:
        timestamp_ms = int(self._clock.now().timestamp() * 1000)
        topics = sorted({self.settings.topic(record.topic) for record in records})
        right = f"Write on {', '.join(f'the topic {topic}' for topic in topics)}"
        with self._appending, kafka_faults(self.settings, right):
            try:
                producer = self._opened_producer()
                futures = [
                    producer.send(
                        self.settings.topic(record.topic),
                        key=record.key.encode(),
                        value=record.value,
                        headers=[(name, text.encode()) for name, text in record.headers.items()],
                        partition=record.partition,
                        timestamp_ms=timestamp_ms,
                    )
                    for record in records
                ]
                producer.flush(timeout=_SECONDS)
                for future in futures:
                    future.get(timeout=1)
            except KafkaError:
                # An idempotent producer that gave a record up is stuck: the next append gets a new one.
                with self._lock:
                    stuck, self._producer = self._producer, None
                if stuck is not None:
                    stuck.close(timeout=0)
                raise

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        with self._reading(topic, partition) as reader:
            found = _fetched(reader, TopicPartition(self.settings.topic(topic), partition), offset, limit)
        return [
            Record(
                topic=topic,
                partition=record.partition,
                offset=record.offset,
                # What others sent may be no UTF-8: such bytes are escaped, so that different ids stay different.
                key=header_text(record.key or b""),
                value=record.value or b"",
                headers={name: header_text(value or b"") for name, value in record.headers},
                at=from_epoch(record.timestamp / 1000),
            )
            for record in found
        ]

    def end(self, topic: str, partition: int) -> int:
        topic_partition = TopicPartition(self.settings.topic(topic), partition)
        with self._reading(topic, partition) as reader:
            return int(reader.consumer.end_offsets([topic_partition])[topic_partition])

    def begin(self, topic: str, partition: int) -> int:
        topic_partition = TopicPartition(self.settings.topic(topic), partition)
        with self._reading(topic, partition) as reader:
            return int(reader.consumer.beginning_offsets([topic_partition])[topic_partition])

    def bounds(self, topic: str) -> list[tuple[int, int]]:
        name = self.settings.topic(topic)
        partitions = [TopicPartition(name, number) for number in range(self.partitions(topic))]
        with self._reading(topic, None) as reader:
            begins = _offsets(reader.consumer.beginning_offsets, partitions)
            ends = _offsets(reader.consumer.end_offsets, partitions)
        return list(zip(begins, ends, strict=True))

    def position(self, group: str, topic: str, partition: int) -> int:
        with self._consumer_of(group, topic) as consumer:
            return int(consumer.committed(TopicPartition(self.settings.topic(topic), partition)) or 0)

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        topic_partition = TopicPartition(self.settings.topic(topic), partition)
        with self._consumer_of(group, topic) as consumer:
            consumer.assign([topic_partition])
            consumer.commit({topic_partition: OffsetAndMetadata(offset, "", -1)})

    def close(self) -> None:
        with self._lock:
            readers = list(self._readers.values())
            for _, consumer in self._groups.values():
                consumer.close(autocommit=False)
            if self._admin is not None:
                self._admin.close()
            if self._producer is not None:
                # What was to be sent has been flushed by whoever appended it.
                with suppress(KafkaError):
                    self._producer.close(timeout=5)
        for reader in readers:
            with reader.alone:
                if not reader.closed:
                    reader.closed = True
                    reader.consumer.close(autocommit=False)

    def _opened_producer(self) -> Any:
        with self._lock:
            if self._producer is None:
                self._ensure_admitted()
                self._producer = KafkaProducer(
                    **self.settings.client_options(),
                    acks="all",
                    enable_idempotence=True,
                    allow_auto_create_topics=False,
                    max_request_size=LARGEST_DEAD_LETTER,
                    max_block_ms=_SECONDS * 1000,
                    # A broker that has just died leaves time for a second try with another.
                    request_timeout_ms=_SECONDS * 500,
                    delivery_timeout_ms=_SECONDS * 1000,
                )
            return self._producer

    def _opened_consumer(self, **options: Any) -> Any:
        self._ensure_admitted()
        return KafkaConsumer(
            **self.settings.client_options(),
            **options,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            max_partition_fetch_bytes=LARGEST_DEAD_LETTER,
            request_timeout_ms=_SECONDS * 1000,
        )

    def _ensure_admitted(self) -> None:
        """Before the first connection: a client that is refused would only seem to wait."""
        if not self._admitted:
            ensure_admitted(self.settings)
            self._admitted = True

    @contextmanager
    def _reading(self, topic: str, partition: int | None) -> Iterator[_Reader]:
        """The partition's connection, or one for questions about the topic; after a failure the next read makes a new
        one, and those that wait raise.
        """
        topic_partition = TopicPartition(self.settings.topic(topic), -1 if partition is None else partition)
        with kafka_faults(self.settings, f"Read on the topic {topic_partition.topic}"):
            with self._lock:
                if topic_partition not in self._readers:
                    consumer = self._opened_consumer()
                    if partition is not None:
                        consumer.assign([topic_partition])
                    self._readers[topic_partition] = _Reader(consumer)
                reader = self._readers[topic_partition]
            with reader.alone:
                if reader.closed:
                    raise KafkaConnectionError("another call failed on this connection meanwhile")
                try:
                    yield reader
                except KafkaError:
                    with self._lock:
                        if self._readers.get(topic_partition) is reader:
                            del self._readers[topic_partition]
                    reader.closed = True
                    reader.consumer.close(autocommit=False)
                    raise

    @contextmanager
    def _consumer_of(self, group: str, topic: str) -> Iterator[Any]:
        """For what a group has committed; no member of it, so only for groups whose members are not alive."""
        name = self.settings.topic(group)
        with kafka_faults(self.settings, f"Read on the group {name} and the topic {self.settings.topic(topic)}"):
            with self._lock:
                if name not in self._groups:
                    self._groups[name] = Lock(), self._opened_consumer(group_id=name)
                alone, consumer = self._groups[name]
            with alone:
                yield consumer


def _offsets(
    ask: Callable[[list[TopicPartition]], Mapping[TopicPartition, int]], partitions: Sequence[TopicPartition]
) -> list[int]:
    try:
        found = ask([*partitions])
    except KeyError:
        # Of several, the client leaves out one that it has not heard of yet, or that has no leader; alone it asks for
        # that one until it knows, or its time is up.
        found = {each: ask([each])[each] for each in partitions}
    return [int(found[each]) for each in partitions]


def _fetched(reader: _Reader, topic_partition: TopicPartition, offset: int, limit: int) -> list[Any]:
    """At most `limit` records from `offset` on, of those there at the call that compaction has not removed."""
    consumer = reader.consumer
    end = int(consumer.end_offsets([topic_partition])[topic_partition])
    if offset >= end or limit < 1:
        return []
    # Going on where the last read ended keeps what has been fetched ahead.
    if offset != reader.next:
        consumer.seek(topic_partition, offset)
    for _ in range(_POLLS):
        try:
            found = consumer.poll(timeout_ms=_POLL_MS, max_records=limit)
        except OffsetOutOfRangeError:
            # Retention has taken them: the oldest that is left comes next.
            consumer.seek(topic_partition, consumer.beginning_offsets([topic_partition])[topic_partition])
            found = {}
        records = list(found.get(topic_partition, []))
        reader.next = records[-1].offset + 1 if records else int(consumer.position(topic_partition))
        if records or reader.next >= end:
            return records
    raise KafkaTimeoutError(f"no records of {topic_partition.topic} came within {_POLLS * _POLL_MS / 1000:.0f} s")
