"""Servers that a test makes up, on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from socket import AF_INET, SOCK_STREAM, socket
from socketserver import TCPServer
from threading import Thread

HOST = "127.0.0.1"


@contextmanager
def refusing() -> Iterator[int]:
    """A port that is taken, and where nobody listens."""
    with socket(AF_INET, SOCK_STREAM) as taken:
        taken.bind((HOST, 0))
        yield taken.getsockname()[1]


@contextmanager
def serving(server: TCPServer) -> Iterator[int]:
    """The port on which `server`, which is closed afterwards, answers meanwhile."""
    with server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()
