"""The log on Kafka: what the processors read and append beside what a worker's consumer group brings them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

from flowgauge.domain.ports import Clock, Outgoing, Record
from flowgauge.kafka.auth_probe import ensure_admitted
from flowgauge.kafka.codec import received, sent
from flowgauge.kafka.faults import kafka_faults
from flowgauge.kafka.header_names import any_names_in_logs
from flowgauge.kafka.limits import LARGEST_LETTER
from flowgauge.kafka.readers import Group, Reader, open_consumer
from flowgauge.kafka.settings import KafkaSettings
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError, for_code
from kafka.structs import TopicPartition

_FLUSH_SECONDS = 10


class KafkaLog:
    """`append` returns once all in-sync replicas have the records. When it raises, a part of them may have been
    appended, of each partition the first ones; appending all of them again repeats those, which the rules of delivery
    make harmless.

    Connects at the first use. Every partition that is read has a connection of its own.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        any_names_in_logs()
        self.settings = settings
        self._clock = clock
        self._lock = Lock()
        self._appending = Lock()
        self._producer: Any = None
        self._readers: dict[TopicPartition, Reader] = {}
        self._groups: dict[str, Group] = {}
        self._partitions: dict[str, int] = {}
        self._admin: Any = None
        self._describing = Lock()
        self._admitted = False

    def partitions(self, topic: str) -> int:
        """As of the last `topic_id`, which asks the brokers, as the first call does."""
        if topic not in self._partitions:
            self.topic_id(topic)
        return self._partitions[topic]

    def topic_id(self, topic: str) -> str:
        with self._faults(self._on([topic], "Describe")), self._describing:
            found = self._described(self.settings.topic(topic))
        self._partitions[topic] = len(found["partitions"])
        known = found.get("topic_id")
        return str(known) if known else ""

    def append(self, records: Sequence[Outgoing]) -> None:
        at = self._clock.now()
        right = self._on(sorted({record.topic for record in records}), "Write")
        with self._appending, self._faults(right), self._renewing_producer():
            producer = self._opened_producer()
            futures = [producer.send(self.settings.topic(record.topic), **sent(record, at)) for record in records]
            producer.flush(timeout=_FLUSH_SECONDS)
            for future in futures:
                future.get(timeout=1)

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        with self._faults(self._on([topic], "Read")), self._reading(topic, partition) as reader:
            found = reader.read(offset, limit)
        return [received(topic, record) for record in found]

    def end(self, topic: str, partition: int) -> int:
        with self._faults(self._on([topic], "Read")), self._reading(topic, partition) as reader:
            return reader.end()

    def begin(self, topic: str, partition: int) -> int:
        with self._faults(self._on([topic], "Read")), self._reading(topic, partition) as reader:
            return reader.begin()

    def position(self, group: str, topic: str, partition: int) -> int:
        with self._faults(self._of(group, topic)):
            return self._group(group).committed(self._topic_partition(topic, partition))

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        with self._faults(self._of(group, topic)):
            self._group(group).commit(self._topic_partition(topic, partition), offset)

    def close(self) -> None:
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            for group in self._groups.values():
                group.close()
            if self._admin is not None:
                self._admin.close()
            if self._producer is not None:
                with suppress(KafkaError):  # what was owed has been flushed by whoever appended it
                    self._producer.close(timeout=5)

    def _topic_partition(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self.settings.topic(topic), partition)

    def _faults(self, right: str) -> Any:
        return kafka_faults(self.settings, right)

    def _of(self, group: str, topic: str) -> str:
        return f"Read on the group {self.settings.topic(group)} and the topic {self.settings.topic(topic)}"

    def _on(self, topics: Iterable[str], operation: str) -> str:
        return f"{operation} on {', '.join(f'the topic {self.settings.topic(topic)}' for topic in topics)}"

    def _opened_producer(self) -> Any:
        with self._lock:
            if self._producer is None:
                self._enter()
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

    def _described(self, name: str) -> dict[str, Any]:
        """What the brokers say of the topic `name` now; after a failure the next call makes a new connection."""
        try:
            if self._admin is None:
                self._enter()
                self._admin = KafkaAdminClient(**self.settings.client_options(), request_timeout_ms=10_000)
            (found,) = self._admin.describe_topics([name])
            if found["error_code"]:
                raise for_code(found["error_code"])(name)
            return dict(found)
        except KafkaError:
            stuck, self._admin = self._admin, None
            if stuck is not None:
                stuck.close()
            raise

    def _enter(self) -> None:
        """Before the first connection: a client that is refused would only seem to wait."""
        if not self._admitted:
            ensure_admitted(self.settings)
            self._admitted = True

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
    def _reading(self, topic: str, partition: int) -> Iterator[Reader]:
        """The partition's connection; after a failure the next read makes a new one."""
        topic_partition = self._topic_partition(topic, partition)
        with self._lock:
            if topic_partition not in self._readers:
                self._enter()
                self._readers[topic_partition] = Reader(open_consumer(self.settings), topic_partition)
            reader = self._readers[topic_partition]
        try:
            yield reader
        except KafkaError:
            with self._lock:
                if self._readers.get(topic_partition) is reader:
                    del self._readers[topic_partition]
            reader.close()
            raise

    def _group(self, name: str) -> Group:
        with self._lock:
            if name not in self._groups:
                self._enter()
                self._groups[name] = Group(open_consumer(self.settings, group_id=self.settings.topic(name)))
            return self._groups[name]
