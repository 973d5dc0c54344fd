"""A plant on real servers, with workers in processes of their own, and the counts that every fault must leave right."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import IO
from uuid import uuid4

from adapters.environment import kafka_settings, s3_settings
from adapters.kafka.publisher import ImagePublisher
from adapters.kafka.topics import Plan, Topics
from adapters.minio.objects import S3Objects
from core.errors import Unavailable
from core.messages import ALERTS, VERDICTS, Alert, AlertKind, Verdict
from core.ports import Record
from streams.archive import archived
from streams.bootstrap import open_store
from streams.counting import count
from streams.lines import set_line
from streams.roles import Role
from streams.store import Store
from tests.support.streaming import START, event, fitted, png

PARTITIONS = 4
LINES = tuple(f"press-{number}" for number in range(PARTITIONS))
_PATIENCE_SECONDS = 120
_REPOSITORY = Path(__file__).parents[2]


@dataclass
class Cluster:
    """A plant of its own on the shared servers, and the workers that a test has started."""

    uri: str
    store: Store
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, role: Role, stderr: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.support.clusterworker", self.uri, role.value]
        self.workers.append(subprocess.Popen(command, cwd=_REPOSITORY, stderr=stderr))
        return self.workers[-1]

    def publish(self, first: int, last: int) -> None:
        """The images of these numbers on every line, each on the partition of its own; every tenth is a reject."""
        with ImagePublisher(kafka_settings(os.environ), self.store.objects) as publisher:
            for number in range(first, last):
                for partition, line in enumerate(LINES):
                    data = png(170 if number % 10 == 0 else 100, seed=number, side=64)
                    publisher.publish(event(f"{number:04d}", line, at=START), data, partition)

    def records(self, topic: str) -> list[Record]:
        return [
            record
            for partition in range(self.store.log.partitions(topic))
            for record in self.store.log.read(topic, partition, 0, 100_000)
        ]

    def ends(self, topic: str) -> int:
        return sum(self.store.log.end(topic, number) for number in range(self.store.log.partitions(topic)))

    def wait(self, what: str, until: Callable[[], bool]) -> None:
        deadline = monotonic() + _PATIENCE_SECONDS
        while not _now(until):
            assert monotonic() < deadline, f"{what}: not within {_PATIENCE_SECONDS} s"
            sleep(0.1)

    def stop(self, *also: int) -> None:
        """Gracefully; what does not end is killed, and told. `also`: exit codes that are right besides 0."""
        for worker in self.workers:
            worker.terminate()
        try:
            codes = [worker.wait(30) for worker in self.workers]
        finally:
            for worker in self.workers:
                worker.kill()
        assert set(codes) <= {0, -signal.SIGKILL, *also}, codes


def _now(until: Callable[[], bool]) -> bool:
    """False also while the servers are away."""
    try:
        return until()
    except Unavailable:
        return False


@contextmanager
def plant() -> Iterator[Cluster]:
    """Topics and a bucket of its own on the servers that the environment names, and a gauge for every line."""
    name = f"plant-{uuid4().hex[:8]}"
    os.environ["FLOWGAUGE_TOPIC_PREFIX"] = f"{name}."
    S3Objects(s3_settings(os.environ), name).ensure_bucket()
    with Topics(kafka_settings(os.environ)) as topics:
        topics.create(Plan(partitions=PARTITIONS))
    uri = f"s3://{name}"
    with open_store(uri) as store:
        for line in LINES:
            fitted(store, line=line)
            set_line(store.objects, line, alert_window_seconds=2)
        cluster = Cluster(uri, store)
        try:
            yield cluster
        finally:
            for worker in cluster.workers:
                worker.kill()
                worker.wait()


def counted(cluster: Cluster) -> dict[int, list[Verdict]]:
    """By partition: the verdicts that count."""
    log = cluster.store.log
    return {
        partition: [item.verdict for item in count(log.read(VERDICTS, partition, 0, 100_000), -1).counted]
        for partition in range(PARTITIONS)
    }


def assert_one_verdict_each_in_order(cluster: Cluster, images: int) -> None:
    for partition, verdicts in counted(cluster).items():
        assert [verdict.image_id for verdict in verdicts] == [f"{number:04d}" for number in range(images)]
        assert {verdict.line for verdict in verdicts} == {LINES[partition]}


def all_scored(cluster: Cluster, images: int) -> Callable[[], bool]:
    return lambda: all(len(verdicts) == images for verdicts in counted(cluster).values())


def finish_downstream(cluster: Cluster, verdicts: int, rejects: int) -> None:
    """A stop may have come before the last verdicts were read; the next start reads on."""
    cluster.workers.clear()
    cluster.start(Role.DOWNSTREAM)
    cluster.wait("the archive", lambda: sum(1 for _ in archived(cluster.store.objects)) >= verdicts)
    cluster.wait("the alerts", lambda: sum(rejects_told(cluster).values()) >= rejects)
    # which may have been so before this worker was up: then it knows of no graceful end yet
    cluster.stop(-signal.SIGTERM)


def rejects_told(cluster: Cluster) -> dict[str, int]:
    """By line: the rejects of all windows; of one window's alerts the highest count is the latest."""
    windows: dict[object, Alert] = {}
    for record in cluster.records(ALERTS):
        alert = Alert.decode(record.value)
        if alert.kind is AlertKind.REJECT and alert.count >= windows.get(alert.alert_id, alert).count:
            windows[alert.alert_id] = alert
    return {line: sum(alert.count for alert in windows.values() if alert.line == line) for line in LINES}
