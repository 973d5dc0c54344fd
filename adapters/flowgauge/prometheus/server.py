"""Where Prometheus reads."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server

from flowgauge.domain.errors import SettingsError


@contextmanager
def serving(registry: CollectorRegistry, port: int, host: str = "0.0.0.0") -> Iterator[int]:
    """Serves `registry`, and what the operating system knows of this process, at `/metrics`; gives the port, which the
    system chooses for 0. Raises `SettingsError` for a port that is taken."""
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise SettingsError(f"Metrics cannot be served on port {port}: {error.strerror}.", "Take another.") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
