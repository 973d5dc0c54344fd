"""What a worker tells Prometheus of its own process, and where; rates and sums are Prometheus's."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from flowgauge.domain.errors import SettingsError
from flowgauge.domain.messages import IMAGES, Alert, AlertKind, Verdict

# Anybody who may publish can invent lines, and each is a label that is kept: more take memory here and in Prometheus,
# with fewer a large plant has lines that are counted as one.
_MOST_LINES = 2_000
_OTHER = "(other)"
_OUTCOMES = {AlertKind.ADAPTATION_ACCEPTED: "accepted", AlertKind.ADAPTATION_REFUSED: "refused"}

# Upper bounds: seconds of a step of a batch, of an image's way and of an adaptation; records of a batch. More of them
# take more series; fewer, and quantiles between two of them are guesses.
_STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200)
_ADAPTATION_BUCKETS = (5, 15, 30, 60, 120, 300, 600, 1_800, 3_600)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class PrometheusMeter:
    """Registers its metrics with `registry`; two meters need two registries."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lines: set[str] = set()
        self._versions: dict[str, tuple[str, int]] = {}
        self._lock = Lock()

        counter = partial(Counter, namespace="flowgauge", registry=registry)
        gauge = partial(Gauge, namespace="flowgauge", registry=registry)
        histogram = partial(Histogram, namespace="flowgauge", registry=registry)

        self._images = counter("images", "Images that got a verdict.", ["line"])
        self._verdicts = counter("verdicts", "Verdicts by decision.", ["line", "decision"])
        self._late = counter("late_verdicts", "Verdicts past the line's deadline.", ["line"])
        self._dead_letters = counter("dead_letters", "Messages that could not be processed.", ["line"])
        self._alerts = counter(
            "alerts", "Alerts by kind; one that is told again with a new count counts again.", ["line", "kind"]
        )
        self._outages = counter("troubles", "Times that work waited because a server was away.", ["group"])
        self._adaptations = counter("adaptations", "Adaptations that were decided.", ["line", "outcome"])
        self._batches = histogram("batch_records", "Records of a batch.", ["group"], buckets=_BATCH_BUCKETS)
        self._stages = histogram(
            "stage_seconds", "Seconds of a batch's stage.", ["group", "stage"], buckets=_STEP_BUCKETS
        )
        self._latency = histogram(
            "latency_seconds", "From capture to a durable verdict.", ["line"], buckets=_LATENCY_BUCKETS
        )
        self._adapting = histogram(
            "adaptation_seconds", "Seconds of an adaptation.", ["line"], buckets=_ADAPTATION_BUCKETS
        )
        self._lag = gauge(
            "lag_records", "Records that wait in a partition of this worker.", ["group", "topic", "partition"]
        )
        self._queued = gauge("queued_records", "Records that were fetched and wait in memory.", ["group"])
        self._pending = gauge("pending_uploads", "Images whose evidence waits for the object store.")
        self._gauges_loaded = counter(
            "gauges_loaded", "Gauges that came into memory; with every batch where a worker keeps too few (--gauges)."
        )
        self._gauge = gauge("gauge_info", "1 for the version that a line was last scored with.", ["line", "version"])
        self._buffer = gauge("buffer_images", "Images in the line's buffer.", ["line"])
        self._notifications = counter(
            "notifications", "Messages to people that were sent, or failed and are tried again.", ["outcome"]
        )
        self._buffer_limit = gauge("buffer_limit", "Images that the line's buffer may hold.", ["line"])

    def batch(self, group: str, records: int) -> None:
        self._batches.labels(group).observe(records)

    def verdict(self, verdict: Verdict, seconds: float) -> None:
        line = self._line(verdict.line)
        self._images.labels(line).inc()
        self._verdicts.labels(line, verdict.decision.value).inc()
        self._latency.labels(line).observe(seconds)
        if verdict.late:
            self._late.labels(line).inc()
        # a canary decides a share of the images, and the line's gauge is another
        if line != _OTHER and verdict.gauge_version is not None and verdict.trial_id is None:
            version, partition = verdict.gauge_version, verdict.source.partition
            with self._lock:
                before, _ = self._versions.get(line, (None, partition))
                self._versions[line] = version, partition
            if before not in (None, version):
                self._gauge.remove_by_labels({"line": line})
            self._gauge.labels(line, version).set(1)

    def dead_letter(self, line: str) -> None:
        self._dead_letters.labels(self._line(line)).inc()

    def alert(self, alert: Alert) -> None:
        line = self._line(alert.line)
        self._alerts.labels(line, alert.kind.value).inc()
        if (outcome := _OUTCOMES.get(alert.kind)) is not None:
            self._adaptations.labels(line, outcome).inc()
            if (seconds := alert.detail.get("seconds")) is not None:
                self._adapting.labels(line).observe(seconds)

    def unavailable(self, group: str) -> None:
        self._outages.labels(group).inc()

    def timed(self, group: str, phase: str) -> AbstractContextManager[None]:
        return self._stages.labels(group, phase).time()

    def lag(self, group: str, topic_partition: tuple[str, int], records: int | None) -> None:
        topic, partition = topic_partition
        if records is not None:
            self._lag.labels(group, topic, str(partition)).set(records)
            return
        self._lag.remove_by_labels({"group": group, "topic": topic, "partition": str(partition)})
        if topic == IMAGES:
            # Its lines are scored by another worker from now on.
            with self._lock:
                gone = [line for line, (_, number) in self._versions.items() if number == partition]
                for line in gone:
                    del self._versions[line]
            for line in gone:
                self._gauge.remove_by_labels({"line": line})

    def queued(self, group: str, records: int) -> None:
        self._queued.labels(group).set(records)

    def pending(self, images: int) -> None:
        self._pending.set(images)

    def gauge_loaded(self) -> None:
        self._gauges_loaded.inc()

    def buffered(self, line: str, images: int, limit: int) -> None:
        self._buffer.labels(self._line(line)).set(images)
        self._buffer_limit.labels(self._line(line)).set(limit)

    def notified(self, delivered: bool) -> None:
        self._notifications.labels("sent" if delivered else "failed").inc()

    def _line(self, line: str) -> str:
        with self._lock:
            if len(self._lines) < _MOST_LINES:
                self._lines.add(line)
            return line if line in self._lines else _OTHER


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
