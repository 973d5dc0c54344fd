"""What a worker tells Prometheus of itself. Counters are of this process; rates and sums are Prometheus's."""

from contextlib import AbstractContextManager
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from flowgauge.domain.messages import IMAGES, Alert, AlertKind, Verdict

_MOST_LINES = 2_000  # labels that anybody who may publish can invent; what exceeds it is counted as one line
_OTHER = "(other)"
_OUTCOMES = {AlertKind.ADAPTATION_ACCEPTED: "accepted", AlertKind.ADAPTATION_REFUSED: "refused"}

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

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"flowgauge_{name}", words, labels, registry=registry)

        def gauge(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"flowgauge_{name}", words, labels, registry=registry)

        def histogram(name: str, words: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"flowgauge_{name}", words, labels, registry=registry, buckets=buckets)

        self._images = counter("images", "Images that got a verdict.", "line")
        self._verdicts = counter("verdicts", "Verdicts by decision.", "line", "decision")
        self._late = counter("late_verdicts", "Verdicts past the line's deadline.", "line")
        self._dead_letters = counter("dead_letters", "Messages that could not be processed.", "line")
        self._alerts = counter(
            "alerts", "Alerts by kind; one that is told again with a new count counts again.", "line", "kind"
        )
        self._outages = counter("troubles", "Times that work waited because a server was away.", "group")
        self._adaptations = counter("adaptations", "Adaptations that were decided.", "line", "outcome")
        self._batches = histogram("batch_records", "Records of a batch.", _BATCH_BUCKETS, "group")
        self._stages = histogram("stage_seconds", "Seconds of a batch's stage.", _STEP_BUCKETS, "group", "stage")
        self._latency = histogram("latency_seconds", "From capture to a durable verdict.", _LATENCY_BUCKETS, "line")
        self._adapting = histogram("adaptation_seconds", "Seconds of an adaptation.", _ADAPTATION_BUCKETS, "line")
        self._lag = gauge(
            "lag_records", "Records that wait in a partition of this worker.", "group", "topic", "partition"
        )
        self._queued = gauge("queued_records", "Records that were fetched and wait in memory.", "group")
        self._pending = gauge("pending_uploads", "Images whose evidence waits for the object store.")
        self._gauge = gauge("gauge_info", "1 for the version that a line was last scored with.", "line", "version")
        self._buffer = gauge("buffer_images", "Images in the line's buffer.", "line")
        self._buffer_limit = gauge("buffer_limit", "Images that the line's buffer may hold.", "line")

    def batch(self, group: str, records: int) -> None:
        self._batches.labels(group).observe(records)

    def verdict(self, verdict: Verdict, seconds: float) -> None:
        line = self._line(verdict.line)
        self._images.labels(line).inc()
        self._verdicts.labels(line, verdict.decision.value).inc()
        self._latency.labels(line).observe(seconds)
        if verdict.late:
            self._late.labels(line).inc()
        if line != _OTHER and verdict.gauge_version is not None:
            self._scored_with(line, verdict.gauge_version, verdict.source.partition)

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
            self._forget_gauges(partition)

    def queued(self, group: str, records: int) -> None:
        self._queued.labels(group).set(records)

    def pending(self, images: int) -> None:
        self._pending.set(images)

    def buffered(self, line: str, images: int, limit: int) -> None:
        self._buffer.labels(self._line(line)).set(images)
        self._buffer_limit.labels(self._line(line)).set(limit)

    def _scored_with(self, line: str, version: str, partition: int) -> None:
        with self._lock:
            before, _ = self._versions.get(line, (None, partition))
            self._versions[line] = version, partition
        if before not in (None, version):
            self._gauge.remove_by_labels({"line": line})
        self._gauge.labels(line, version).set(1)

    def _forget_gauges(self, partition: int) -> None:
        """Its lines are scored by another worker from now on."""
        with self._lock:
            gone = [line for line, (_, number) in self._versions.items() if number == partition]
            for line in gone:
                del self._versions[line]
        for line in gone:
            self._gauge.remove_by_labels({"line": line})

    def _line(self, line: str) -> str:
        with self._lock:
            if len(self._lines) < _MOST_LINES:
                self._lines.add(line)
            return line if line in self._lines else _OTHER


def names() -> frozenset[str]:
    """The names of all metrics, without the endings that Prometheus gives to samples."""
    registry = CollectorRegistry()
    PrometheusMeter(registry)
    return frozenset(metric.name for metric in registry.collect())
