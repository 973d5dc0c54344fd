"""What a production line sends its images with."""

from hashlib import sha256
from threading import Condition
from types import TracebackType
from typing import Any

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import IMAGES, Event
from flowgauge.domain.object_keys import image_object
from flowgauge.domain.ports import Objects
from flowgauge.kafka.auth_probe import ensure_admitted
from flowgauge.kafka.faults import kafka_faults, translated
from flowgauge.kafka.settings import LARGEST_MESSAGE, KafkaSettings
from kafka import KafkaProducer

INLINE_LIMIT = 1024 * 1024
"""Bytes; larger images travel by claim check."""

# Larger takes more of the camera's memory when brokers are slow; smaller leaves a fast network idle between answers.
_WINDOW_BYTES = 64 * 1024 * 1024


class ImagePublisher:
    """Sends each image once, in order, to all in-sync replicas. A context manager; `close` sends what is left.

    At most 64 MiB are under way, or one image that is larger: `publish` waits until there is room, so memory does not
    grow when the brokers are slow. Images above `inline_limit` bytes are stored in `objects`, and the event names them;
    without a store they raise `UserError`.
    """

    def __init__(
        self, settings: KafkaSettings, objects: Objects | None = None, *, inline_limit: int = INLINE_LIMIT
    ) -> None:
        self._settings = settings
        self._right = f"Write on the topic {settings.topic(IMAGES)}"
        self._objects = objects
        self._inline_limit = inline_limit
        self._producer: Any = None
        self._under_way = 0
        self._changed = Condition()
        self._failure: BaseException | None = None

    def __enter__(self) -> "ImagePublisher":
        ensure_admitted(self._settings)
        with kafka_faults(self._settings, self._right):
            self._producer = KafkaProducer(
                **self._settings.client_options(),
                acks="all",
                enable_idempotence=True,
                allow_auto_create_topics=False,
                max_request_size=LARGEST_MESSAGE,
                # Longer delays a lone image; shorter sends smaller batches.
                linger_ms=5,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with kafka_faults(self._settings, self._right):
            self._producer.close(timeout=None if kind is None else 1)
        if kind is None:
            self._raise_failure()

    def publish(self, event: Event, data: bytes, partition: int | None = None) -> None:
        """Hand over one image. Raises `Unavailable` when an earlier one could not be sent."""
        value, headers = data, event.headers()
        if len(data) > self._inline_limit:
            if self._objects is None:
                raise UserError(
                    f"{event.image_id} has {len(data):,} bytes, and more than {self._inline_limit:,} need an object"
                    " store.",
                    "Name one with --store s3://BUCKET.",
                )
            uri = self._objects.put(image_object(event.line, event.captured_at, event.image_id, event.source), data)
            claim = {"ce_dataref": uri, "ce_datasha256": sha256(data).hexdigest(), "ce_datasize": str(len(data))}
            value, headers = b"", headers | claim
        size = len(value)
        with self._changed:
            self._changed.wait_for(lambda: self._under_way == 0 or self._under_way + size <= _WINDOW_BYTES)
            self._under_way += size
        self._raise_failure()
        with kafka_faults(self._settings, self._right):
            future = self._producer.send(
                self._settings.topic(IMAGES),
                key=event.line.encode(),
                value=value,
                headers=[(name, text.encode()) for name, text in headers.items()],
                partition=partition,
            )

        def arrived(result: object) -> None:
            with self._changed:
                if isinstance(result, BaseException):
                    self._failure = self._failure or result
                self._under_way -= size
                self._changed.notify_all()

        future.add_callback(arrived)
        future.add_errback(arrived)

    def flush(self) -> None:
        """Wait until all that was handed over is durable. Raises `Unavailable`."""
        with kafka_faults(self._settings, self._right):
            self._producer.flush()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise translated(self._failure, self._settings, self._right)
