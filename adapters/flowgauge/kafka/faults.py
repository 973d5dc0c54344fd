"""What the client library raises, as what our ports raise."""

from collections.abc import Iterator
from contextlib import contextmanager

from flowgauge.domain.errors import AuthenticationFailed, AuthorizationFailed, FlowgaugeError, Unavailable
from flowgauge.kafka.auth_probe import ensure_admitted
from flowgauge.kafka.compression import missing_codecs
from flowgauge.kafka.settings import KafkaSettings
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
)

_REMEDIES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((UnknownTopicOrPartitionError,), "Create topics and partitions that are missing with `flowgauge topics create`."),
    (
        (MessageSizeTooLargeError, RecordListTooLargeError),
        "Raise max.message.bytes of the topic (`flowgauge topics check` says to what), or send a claim check.",
    ),
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
    """A client that is not let in says no more than that it waited, so brokers are asked whether that is so."""
    if _denied(error):
        cause = f"Kafka at {settings.bootstrap} does not let {settings.who} do this: it needs {right}."
        return AuthorizationFailed(cause, "Grant it with kafka-acls; docs/security.md lists who needs what.")
    if isinstance(error, UnsupportedCodecError):
        return missing_codecs(_named(error))
    remedy = next((words for kinds, words in _REMEDIES if isinstance(error, kinds)), None)
    if remedy is None and (refusal := _refusal(settings)) is not None:
        return refusal
    cause = f"Kafka at {settings.bootstrap} does not do as asked ({_named(error)})."
    return Unavailable(cause, remedy or "Check that the brokers run and can be reached.")


def _denied(error: BaseException) -> bool:
    """A producer that may write nowhere is told so in words only."""
    return isinstance(error, AuthorizationError) or "AuthorizationFailedError" in str(error)


def _refusal(settings: KafkaSettings) -> AuthenticationFailed | None:
    """Why we are not let in; None where we are, or where nobody is there to say so."""
    try:
        ensure_admitted(settings)
    except AuthenticationFailed as refusal:
        return refusal
    except Unavailable:
        return None
    return None


def _named(error: BaseException) -> str:
    text = str(error)
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name
