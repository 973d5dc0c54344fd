"""Whether a broker lets us in, asked over one connection of our own.

The client libraries take a refusal for a broker that is away: they try again until their deadline, and then the reason
is lost. This tells it at once.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct, unpack_from
from typing import Any

from flowgauge.domain.errors import AuthenticationFailed, Unavailable
from flowgauge.kafka.settings import KafkaSettings
from kafka.errors import KafkaError
from kafka.net.sasl import get_sasl_mechanism

_SECONDS = 3.0
_HEAD = Struct(">hhih")  # key of the request, version, correlation, length of the client's name
_METADATA, _HANDSHAKE, _AUTHENTICATE = (3, 4), (17, 1), (36, 0)
_UNKNOWN_MECHANISM = 33
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
    for host, port in map(_host_and_port, settings.addresses):
        try:
            with _named(f"{host}:{port}"), _connected(host, port, context) as connection:
                _greet(_Line(connection), settings)
            return
        except Unavailable as error:
            closed = error
        except (OSError, KafkaError):  # away, which the client library has its own patience for
            continue
    if closed is not None:
        raise closed


def tls_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """None where the listener speaks no TLS. Raises `AuthenticationFailed` for files that are missing or no PEM."""
    if not settings.encrypted:
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


class _Line:
    """Requests and answers in Kafka's framing; raises `EOFError` where the broker closes the connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def ask(self, kind: tuple[int, int], body: bytes) -> bytes:
        request = _HEAD.pack(*kind, 1, -1) + body
        self._connection.sendall(len(request).to_bytes(4) + request)
        return self._read(int.from_bytes(self._read(4)))[4:]

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            part = self._connection.recv(count - len(found))
            if not part:
                raise EOFError("the connection was closed")
            found += part
        return found


@contextmanager
def _connected(host: str, port: int, context: ssl.SSLContext | None) -> Iterator[socket.socket]:
    with socket.create_connection((host, port), timeout=_SECONDS) as plain:
        if context is None:
            yield plain
            return
        with context.wrap_socket(plain, server_hostname=host) as protected:
            yield protected


def _host_and_port(address: str) -> tuple[str, int]:
    """Also of an IPv6 address in brackets, and of a host without a port."""
    host, found, port = address.rpartition(":")
    if not found or not port.isdigit():
        return address.strip("[]"), _DEFAULT_PORT
    return host.strip("[]"), int(port)


@contextmanager
def _named(address: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionResetError, ssl.SSLEOFError) as error:
        raise Unavailable(f"Kafka at {address} closes connections like ours.", _PROTOCOL_REMEDY) from error
    except ssl.SSLCertVerificationError as error:
        cause = f"The certificate of Kafka at {address} is not trusted: {error.verify_message}."
        raise AuthenticationFailed(cause, _AUTHORITY_REMEDY) from error
    except ssl.SSLError as error:
        raise _refused_tls(address, error) from error


def _refused_tls(address: str, error: ssl.SSLError) -> AuthenticationFailed:
    """What the other side says of our certificate comes as an alert; the rest is no TLS that we speak."""
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "alert" in reason and "version" not in reason:
        return AuthenticationFailed(
            f"Kafka at {address} refuses our certificate, or wants one ({reason}).", _CERTIFICATE_REMEDY
        )
    return AuthenticationFailed(f"Kafka at {address} does not speak our TLS ({reason}).", _PROTOCOL_REMEDY)


def _greet(line: _Line, settings: KafkaSettings) -> None:
    if settings.by_password:
        _authenticate(line, settings)
    line.ask(_METADATA, b"\0\0\0\0" + b"\0")  # of no topic


def _authenticate(line: _Line, settings: KafkaSettings) -> None:
    name = settings.mechanism.encode()
    answer = line.ask(_HANDSHAKE, len(name).to_bytes(2) + name)
    if unpack_from(">h", answer)[0] == _UNKNOWN_MECHANISM:
        offered = ", ".join(_texts(answer[2:]))
        raise AuthenticationFailed(f"Kafka takes no passwords by {settings.mechanism}, but by {offered}.", _SASL_REMEDY)
    mechanism = _mechanism(settings)
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        mechanism.receive(_accepted(line.ask(_AUTHENTICATE, len(token).to_bytes(4) + token), settings))


def _mechanism(settings: KafkaSettings) -> Any:
    options = settings.client_options()
    return get_sasl_mechanism(settings.mechanism)(host=settings.addresses[0], **options)


def _accepted(answer: bytes, settings: KafkaSettings) -> bytes:
    """The broker's token. Raises `AuthenticationFailed` where it gives a reason instead."""
    code, length = unpack_from(">hh", answer)
    text = answer[4 : 4 + max(0, length)].decode(errors="replace")
    if code:
        cause = f"Kafka does not admit the user {settings.username}: {text.removesuffix('.') or f'error {code}'}."
        raise AuthenticationFailed(cause, _SASL_REMEDY)
    return answer[4 + max(0, length) + 4 :]


def _texts(answer: bytes) -> Iterator[str]:
    """An array of strings."""
    at = 4
    for _ in range(int.from_bytes(answer[:4])):
        length = int.from_bytes(answer[at : at + 2])
        yield answer[at + 2 : at + 2 + length].decode(errors="replace")
        at += 2 + length
