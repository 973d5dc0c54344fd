"""Brokers that answer nothing, or not as brokers do, and files that are none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from threading import Thread

import pytest

from flowgauge.domain.errors import AuthenticationFailed, Unavailable
from flowgauge.kafka.auth_probe import ensure_admitted, tls_context
from flowgauge.kafka.settings import KafkaSettings, Security


@contextmanager
def closing_door(answer: bytes = b"") -> Iterator[int]:
    """The port of a server that closes the one connection it takes, after `answer` to what it was asked if there is
    one."""

    def serve() -> None:
        with listening.accept()[0] as connection:
            if answer:
                connection.recv(1024)
                connection.sendall(answer)

    with create_server(("127.0.0.1", 0)) as listening:
        server = Thread(target=serve)
        server.start()
        yield listening.getsockname()[1]
        server.join()


@pytest.mark.parametrize("bootstrap", ["127.0.0.1:1", "[::1]:1", "127.0.0.1:1,127.0.0.1:2", "127.0.0.1"])
def test_brokers_that_are_away_are_passed_over(bootstrap: str) -> None:
    ensure_admitted(KafkaSettings(bootstrap=bootstrap))


@pytest.mark.parametrize("security", [Security.PLAINTEXT, Security.SSL])
def test_a_door_that_closes_is_reported_with_what_may_be_wrong(security: Security) -> None:
    with closing_door() as port, pytest.raises(Unavailable, match=f"127.0.0.1:{port} closes.*FLOWGAUGE_KAFKA_SECURITY"):
        ensure_admitted(KafkaSettings(bootstrap=f"127.0.0.1:1,127.0.0.1:{port}", security=security))


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x46", b"\0\0\0\x08\0\0"]
)
def test_a_server_that_speaks_no_kafka_is_reported_with_what_may_be_wrong(answer: bytes) -> None:
    """HTTP, an alert of TLS, and an answer that ends in its middle."""
    with closing_door(answer) as port, pytest.raises(Unavailable, match=f"127.0.0.1:{port} closes.*_SECURITY"):
        ensure_admitted(KafkaSettings(bootstrap=f"127.0.0.1:{port}"))


@pytest.mark.parametrize("kind", ["missing", "no PEM"])
def test_certificates_that_cannot_be_read_are_named(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file.pem"
    if kind == "no PEM":
        file.write_text("nothing")
    settings = KafkaSettings(bootstrap="127.0.0.1:1", security=Security.SSL)
    with pytest.raises(AuthenticationFailed, match=r"file\.pem holds no authorities.*FLOWGAUGE_KAFKA_CA_FILE"):
        tls_context(settings.model_copy(update={"ca_file": file}))
    with pytest.raises(
        AuthenticationFailed, match=r"file\.pem and its key cannot be used.*FLOWGAUGE_KAFKA_CERTIFICATE_FILE"
    ):
        tls_context(settings.model_copy(update={"certificate_file": file}))
