"""What the client libraries raise, as what our ports raise."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiokafka import codec as of_groups

from flowgauge.domain.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    FlowgaugeError,
    SettingsError,
    Unavailable,
    install,
)
from flowgauge.kafka.auth_probe import ensure_admitted
from flowgauge.kafka.settings import KafkaSettings
from kafka import codec as of_log
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
)

_REMEDIES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (UnknownTopicOrPartitionError, "Create topics and partitions that are missing with `flowgauge topics create`."),
    (
        (MessageSizeTooLargeError, RecordListTooLargeError),
        "Raise max.message.bytes of the topic (`flowgauge topics check` says to what), or send a claim check.",
    ),
)
# What brings the codecs that a producer or a topic may compress with, for both clients of Kafka.
_CODECS = (
    ("cramjam", lambda: of_groups.has_snappy() and of_groups.has_lz4() and of_groups.has_zstd()),
    ("python-snappy", of_log.has_snappy),
    ("lz4", of_log.has_lz4),
    ("zstandard", of_log.has_zstd),
)


@contextmanager
def kafka_faults(settings: KafkaSettings, right: str) -> Iterator[None]:
    """Every `KafkaError` inside becomes `Unavailable`, with the brokers and the remedy, or `AuthenticationFailed`.

    `right` is what the work inside needs, such as "Read on the topic flowgauge.images", for `AuthorizationFailed`.
    """
    try:
        yield
    except KafkaError as error:
        raise translated(error, settings, right) from error


def translated(error: BaseException, settings: KafkaSettings, right: str) -> FlowgaugeError:
    """`error` as ours. A client that brokers refuse reports only a timeout, so they are asked whether they do."""
    name, text = type(error).__name__, str(error)
    reason = text if name in text else f"{name}: {text}" if text else name
    # A producer that may write to no topic gets this error by its name only.
    if isinstance(error, AuthorizationError) or "AuthorizationFailedError" in text:
        cause = f"Kafka at {settings.bootstrap} does not let {settings.who} do this: it needs {right}."
        return AuthorizationFailed(cause, "Grant it with kafka-acls; docs/how-to/security.md lists who needs what.")
    if isinstance(error, UnsupportedCodecError):
        return _missing_codecs(reason)
    remedy = next((words for kinds, words in _REMEDIES if isinstance(error, kinds)), None)
    if remedy is None:
        # Brokers that close without a reason do not say that they refuse us.
        with suppress(Unavailable):
            try:
                ensure_admitted(settings)
            except AuthenticationFailed as refusal:
                return refusal
    cause = f"Kafka at {settings.bootstrap} does not do as asked ({reason})."
    return Unavailable(cause, remedy or "Check that the brokers run and can be reached.")


def ensure_codecs() -> None:
    """Raises `SettingsError` that names the packages without which a compressed batch would stop a reader."""
    missing = [package for package, is_there in _CODECS if not is_there()]
    if missing:
        raise _missing_codecs(", ".join(missing))


def _missing_codecs(what: str) -> SettingsError:
    return SettingsError(
        f"Images, or other records of a topic, may be compressed, and what unpacks them is missing: {what}.",
        install("stream"),
    )
