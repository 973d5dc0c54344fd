"""Workers on real Kafka, Redis and S3: whatever is killed, every image has one verdict that counts."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

import pytest

from adapters.environment import kafka_settings, s3_settings
from adapters.kafka.publisher import ImagePublisher
from adapters.kafka.topics import Plan, Topics
from adapters.minio.objects import S3Objects
from core.messages import ALERTS, DEAD_LETTERS, IMAGES, VERDICTS, Alert, AlertKind, Decision, Verdict
from core.ports import Record
from streams.archive import archived
from streams.bootstrap import open_store
from streams.counting import count
from streams.roles import Role
from streams.store import Store
from tests.support.servers import S3Address
from tests.support.streaming import START, event, fitted, png

PARTITIONS = 4
LINES = tuple(f"press-{number}" for number in range(PARTITIONS))
_PATIENCE_SECONDS = 90
_REPOSITORY = Path(__file__).parents[2]


@dataclass
class Cluster:
    """A plant of its own on the shared servers, and the workers that a test has started."""

    uri: str
    store: Store
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, role: Role) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.support.clusterworker", self.uri, role.value]
        self.workers.append(subprocess.Popen(command, cwd=_REPOSITORY))
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
        while not until():
            assert monotonic() < deadline, f"{what}: not within {_PATIENCE_SECONDS} s"
            sleep(0.1)

    def stop(self) -> None:
        """Gracefully; what does not end is killed, and told."""
        for worker in self.workers:
            worker.terminate()
        try:
            codes = [worker.wait(30) for worker in self.workers]
        finally:
            for worker in self.workers:
                worker.kill()
        assert set(codes) <= {0, -signal.SIGKILL}, codes


@pytest.fixture
def cluster(
    kafka_bootstrap: str, redis_url: str, s3_address: S3Address, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    name = uuid4().hex[:8]
    for variable, value in {
        "FLOWGAUGE_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "FLOWGAUGE_TOPIC_PREFIX": f"plant-{name}.",
        "FLOWGAUGE_REDIS_URL": redis_url,
        "FLOWGAUGE_S3_ENDPOINT": s3_address.endpoint,
        "FLOWGAUGE_S3_ACCESS_KEY": s3_address.access_key,
        "FLOWGAUGE_S3_SECRET_KEY": s3_address.secret_key,
    }.items():
        monkeypatch.setenv(variable, value)
    S3Objects(s3_settings(os.environ), f"plant-{name}").ensure_bucket()
    with Topics(kafka_settings(os.environ)) as topics:
        topics.create(Plan(partitions=PARTITIONS))
    uri = f"s3://plant-{name}"
    with open_store(uri) as store:
        for line in LINES:
            fitted(store, line=line)
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


@pytest.mark.slow
def test_workers_that_join_and_are_killed_leave_one_verdict_for_each_image(cluster: Cluster) -> None:
    dice = random.Random(4)
    first = cluster.start(Role.SCORING)
    cluster.publish(0, 60)
    cluster.wait("the first verdicts", lambda: cluster.ends(VERDICTS) > dice.randrange(1, 100))
    cluster.start(Role.SCORING)
    sleep(dice.uniform(0, 3))
    os.kill(first.pid, signal.SIGKILL)
    cluster.publish(60, 120)
    cluster.start(Role.DOWNSTREAM)
    cluster.wait("all verdicts", all_scored(cluster, 120))
    cluster.stop()

    assert_one_verdict_each_in_order(cluster, 120)
    expected = {(verdict.line, verdict.image_id) for verdicts in counted(cluster).values() for verdict in verdicts}
    finish_downstream(cluster, len(expected))
    kept = [(verdict.line, verdict.image_id) for verdict in archived(cluster.store.objects)]
    assert sorted(kept) == sorted(expected)
    assert rejects_told(cluster) == dict.fromkeys(LINES, 12)


def finish_downstream(cluster: Cluster, verdicts: int) -> None:
    """A stop may come before the last verdicts were read; the next start reads on, and its stop tells all counts."""
    cluster.workers.clear()
    cluster.start(Role.DOWNSTREAM)
    cluster.wait("the archive", lambda: sum(1 for _ in archived(cluster.store.objects)) >= verdicts)
    cluster.stop()


def rejects_told(cluster: Cluster) -> dict[str, int]:
    """By line: the rejects of all windows; of one window's alerts the highest count is the latest."""
    windows: dict[object, Alert] = {}
    for record in cluster.records(ALERTS):
        alert = Alert.decode(record.value)
        if alert.kind is AlertKind.REJECT and alert.count >= windows.get(alert.alert_id, alert).count:
            windows[alert.alert_id] = alert
    return {line: sum(alert.count for alert in windows.values() if alert.line == line) for line in LINES}


@pytest.mark.slow
def test_poison_and_a_large_image_among_good_ones_disturb_nothing(cluster: Cluster) -> None:
    large = png(100, seed=1, side=1_200)
    with ImagePublisher(kafka_settings(os.environ), cluster.store.objects, inline_limit=100_000) as publisher:
        publisher.publish(event("good", LINES[0]), png(100), 0)
        publisher.publish(event("poison", LINES[0]), b"no image at all", 0)
        publisher.publish(event("large", LINES[0]), large, 0)
        publisher.publish(event("last", LINES[0]), png(170), 0)
    assert len(large) > 100_000
    assert cluster.store.log.read(IMAGES, 0, 2, 1)[0].value == b"", "it travelled inline"
    cluster.start(Role.SCORING)
    cluster.wait("the verdicts", lambda: cluster.ends(VERDICTS) == 3 and cluster.ends(DEAD_LETTERS) == 1)
    cluster.stop()

    decisions = {verdict.image_id: verdict.decision for verdict in counted(cluster)[0]}
    assert decisions == {"good": Decision.PASS, "large": Decision.PASS, "last": Decision.REJECT}
    (letter,) = cluster.records(DEAD_LETTERS)
    assert letter.headers["ce_id"] == "poison"
