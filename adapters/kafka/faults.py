"""What the client library raises, as what our ports raise."""

from collections.abc import Iterator
from contextlib import contextmanager

from kafka.errors import (
    AuthorizationError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    SaslAuthenticationFailedError,
    UnknownTopicOrPartitionError,
)

from core.errors import Unavailable

_REMEDIES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((UnknownTopicOrPartitionError,), "Create the topics with `flowgauge topics create`."),
    ((SaslAuthenticationFailedError,), "Check the user and the password."),
    ((AuthorizationError,), "Grant this user the rights that the documentation lists."),
    (
        (MessageSizeTooLargeError, RecordListTooLargeError),
        "Raise max.message.bytes of the topic (`flowgauge topics check` says to what), or send a claim check.",
    ),
)


@contextmanager
def kafka_faults(bootstrap: str) -> Iterator[None]:
    """Every `KafkaError` inside becomes `Unavailable`, which names the brokers and the remedy."""
    try:
        yield
    except KafkaError as error:
        raise unavailable(error, bootstrap) from error


def unavailable(error: BaseException, bootstrap: str) -> Unavailable:
    remedy = next((words for kinds, words in _REMEDIES if isinstance(error, kinds)), None)
    cause = f"Kafka at {bootstrap} does not do as asked ({_named(error)})."
    return Unavailable(cause, remedy or "Check that the brokers run and can be reached.")


def _named(error: BaseException) -> str:
    text = str(error)
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name
