"""Whether a broker lets us in, asked over one connection of our own.

The client libraries take a refusal for a broker that is away: they try again until their deadline, and then the reason
is lost. This tells it at once.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from flowgauge.domain.errors import AuthenticationFailed, Unavailable
from flowgauge.kafka.settings import KafkaSettings, Security
from kafka.errors import KafkaError, KafkaProtocolError, UnsupportedSaslMechanismError
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.metadata import MetadataRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

# Longer delays every start whose first broker is away; shorter passes over brokers that are busy.
_SECONDS = 3.0
_DEFAULT_PORT = 9092

_SASL_REMEDY = "Check FLOWGAUGE_KAFKA_USERNAME, _PASSWORD and _MECHANISM."
_AUTHORITY_REMEDY = "Check FLOWGAUGE_KAFKA_CA_FILE, and the host names in the broker's certificate."
_CERTIFICATE_REMEDY = "Check FLOWGAUGE_KAFKA_CERTIFICATE_FILE and _KEY_FILE, and which authority the broker trusts."
_PROTOCOL_REMEDY = "Check that FLOWGAUGE_KAFKA_SECURITY is the protocol of this listener."


def ensure_admitted(settings: KafkaSettings) -> None:
    """Raises `AuthenticationFailed` with the reason where a broker refuses us; brokers that are away are passed over.

    Returns at the first broker that admits us, after 3 seconds for each that does not answer. Raises `Unavailable`
    where none does and one closes the connection without a reason: it may be ending, or expect another protocol.
    """
    context = tls_context(settings)
    closed: Unavailable | None = None
    for address in settings.addresses:
        host, found, port = address.rpartition(":")
        if not found or not port.isdigit():
            host, port = address, str(_DEFAULT_PORT)
        try:
            with _connection(host.strip("[]"), int(port), context) as connection:
                _log_in(connection, settings)
            return
        except Unavailable as error:
            closed = error
        except (OSError, KafkaError):
            # It is away: the client library waits for it as long as its own deadlines say.
            continue
    if closed is not None:
        raise closed


def tls_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """None where the listener speaks no TLS. Raises `AuthenticationFailed` for files that are missing or no PEM."""
    if settings.security not in (Security.SSL, Security.SASL_SSL):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise AuthenticationFailed(f"{settings.ca_file} holds no authorities: {error}.", _AUTHORITY_REMEDY) from error
    if settings.certificate_file is not None:
        try:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
        except OSError as error:
            cause = f"{settings.certificate_file} and its key cannot be used: {error}."
            raise AuthenticationFailed(cause, _CERTIFICATE_REMEDY) from error
    return context


@contextmanager
def _connection(host: str, port: int, context: ssl.SSLContext | None) -> Iterator[socket.socket]:
    """Under TLS where there is a `context`. What the other side objects to becomes `AuthenticationFailed`; that it
    closes without a word, or speaks another protocol, becomes `Unavailable`.
    """
    broker = f"Kafka at {host}:{port}"
    try:
        with ExitStack() as opened:
            connection = opened.enter_context(socket.create_connection((host, port), timeout=_SECONDS))
            if context is not None:
                connection = opened.enter_context(context.wrap_socket(connection, server_hostname=host))
            yield connection
    except (EOFError, ConnectionResetError, KafkaProtocolError, ssl.SSLEOFError) as error:
        raise Unavailable(f"{broker} closes connections like ours.", _PROTOCOL_REMEDY) from error
    except ssl.SSLCertVerificationError as error:
        cause = f"The certificate of {broker} is not trusted: {error.verify_message}."
        raise AuthenticationFailed(cause, _AUTHORITY_REMEDY) from error
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        # What the other side says of our certificate comes as an alert; the rest is no TLS that we speak.
        if "alert" in reason and "version" not in reason:
            cause, remedy = f"{broker} refuses our certificate, or wants one ({reason}).", _CERTIFICATE_REMEDY
        else:
            cause, remedy = f"{broker} does not speak our TLS ({reason}).", _PROTOCOL_REMEDY
        raise AuthenticationFailed(cause, remedy) from error


def _log_in(connection: socket.socket, settings: KafkaSettings) -> None:
    """Authenticate where a password is asked for, and get one answer: brokers close on clients that they do not want.

    Raises `AuthenticationFailed` with the broker's reason, and `EOFError` where it closes the connection.
    """
    protocol = KafkaProtocol()

    def ask(request: Any) -> Any:
        protocol.send_request(request)
        connection.sendall(protocol.send_bytes())
        # One answer comes in few pieces: more bytes at once gain nothing, fewer take more calls.
        while received := connection.recv(65_536):
            for _, answer in protocol.receive_bytes(received):
                return answer
        raise EOFError("the connection was closed")

    if settings.by_password:
        handshake = ask(SaslHandshakeRequest(mechanism=settings.mechanism.value, version=1))
        if handshake.error_code == UnsupportedSaslMechanismError.errno:
            offered = ", ".join(handshake.mechanisms)
            cause = f"Kafka takes no passwords by {settings.mechanism}, but by {offered}."
            raise AuthenticationFailed(cause, _SASL_REMEDY)
        sasl = get_sasl_mechanism(settings.mechanism)(host=settings.addresses[0], **settings.client_options())
        while not sasl.is_done():
            answer = ask(SaslAuthenticateRequest(auth_bytes=sasl.auth_bytes(), version=0))
            if answer.error_code:
                reason = (answer.error_message or "").removesuffix(".") or f"error {answer.error_code}"
                cause = f"Kafka does not admit the user {settings.username}: {reason}."
                raise AuthenticationFailed(cause, _SASL_REMEDY)
            sasl.receive(answer.auth_bytes)
    ask(MetadataRequest(topics=MetadataRequest.NO_TOPICS, allow_auto_topic_creation=False, version=4))
