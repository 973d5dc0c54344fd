"""Whether a server answers: one question each, in the server's own protocol."""

import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress

# long enough for a cold answer, short enough that a frozen server does not hold whoever asks
PROBE_SECONDS = 2.0


def kafka_answers(host: str, port: int) -> bool:
    """Whether a broker names at least one live broker, itself, when asked for metadata."""
    client = b"\xff\xff"  # none
    request = b"\0\3" + b"\0\4" + b"\0\0\0\1" + client + b"\0\0\0\0" + b"\0"  # metadata, version 4, of no topic
    answer = _asked(host, port, len(request).to_bytes(4) + request, at_least=16)
    brokers = answer[12:16]  # after size, correlation and throttling
    return len(answer) >= 16 and int.from_bytes(brokers) > 0


def redis_answers(host: str, port: int) -> bool:
    """Also when it wants a password first."""
    return _asked(host, port, b"PING\r\n", at_least=5).startswith((b"+PONG", b"-NOAUTH"))


def http_answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    """Whether a GET is answered with success; `context` trusts a server behind https."""
    try:
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS, context=context):
            return True
    except (urllib.error.URLError, OSError):
        return False


def wait_for(answers: Callable[[], bool], seconds: float) -> bool:
    """Asks until it answers or the time is over, and says whether it answered."""
    end = time.monotonic() + seconds
    while not answers():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _asked(host: str, port: int, request: bytes, at_least: int) -> bytes:
    answer = b""
    with suppress(OSError), socket.create_connection((host, port), timeout=PROBE_SECONDS) as connection:
        connection.sendall(request)
        while len(answer) < at_least:
            part = connection.recv(4096)
            if not part:
                break
            answer += part
    return answer
