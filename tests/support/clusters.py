"""A plant on real servers, with workers in processes of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import IO
from uuid import uuid4

from kafka import KafkaAdminClient

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.lines import Policy
from flowgauge.domain.ports import Record
from flowgauge.kafka.faults import kafka_faults
from flowgauge.kafka.publisher import ImagePublisher
from flowgauge.kafka.topics import Plan, Topics
from flowgauge.registry.lines import set_line
from flowgauge.runtime.backend import Store
from flowgauge.runtime.roles import Role
from flowgauge.s3.objects import S3Objects
from flowgauge.settings.environment import kafka_settings, s3_settings
from tests.support.streaming import START, event, fitted, png

PARTITIONS = 4
LINES = tuple(f"press-{number}" for number in range(PARTITIONS))
# against a test that hangs, and no measure of speed: three tests at once and an adaptation share one core
TIMEOUT_SECONDS = 300
_REPOSITORY = Path(__file__).parents[2]

Worker = subprocess.Popen[bytes]


@dataclass
class Cluster:
    """A plant of its own on the servers that the environment names, and the workers that a test has started."""

    uri: str
    store: Store
    workers: list[Worker] = field(default_factory=list)

    def start(self, role: Role, *options: str, stderr: IO[bytes] | None = None) -> Worker:
        """`options` are those of `tests.support.clusterworker`."""
        command = [sys.executable, "-m", "tests.support.clusterworker", self.uri, role.value, *options]
        self.workers.append(subprocess.Popen(command, cwd=_REPOSITORY, stderr=stderr))
        return self.workers[-1]

    def publish(self, first: int, last: int) -> None:
        """The images of these numbers on every line, each on the partition of its own; every tenth is a reject."""
        with ImagePublisher(kafka_settings(os.environ), self.store.objects) as publisher:
            for number in range(first, last):
                for partition, line in enumerate(LINES):
                    data = png(170 if number % 10 == 0 else 100, seed=number, side=64)
                    publisher.publish(event(f"{number:04d}", line, at=START), data, partition)

    def kill(self, worker: Worker) -> None:
        worker.kill()
        worker.wait()
        self.workers.remove(worker)

    def stop(self, workers: Sequence[Worker] | None = None) -> None:
        """All, if none are named. Gracefully: each must end with exit code 0, or the test fails."""
        workers = self.workers if workers is None else workers
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        codes = [worker.wait(TIMEOUT_SECONDS) for worker in workers]
        self.workers = [worker for worker in self.workers if worker not in workers]
        assert set(codes) <= {0}, codes

    def records(self, topic: str) -> list[Record]:
        return [
            record for number in range(self.store.log.partitions(topic)) for record in self.of_partition(topic, number)
        ]

    def ends(self, topic: str) -> int:
        return sum(self.store.log.end(topic, number) for number in range(self.store.log.partitions(topic)))

    def members(self, processor: str) -> int:
        """How many the group of `processor` has, once it has settled; -1 while it balances."""
        settings = kafka_settings(os.environ)
        with kafka_faults(settings, "Describe on the group"):
            admin = KafkaAdminClient(**settings.client_options())
            try:
                (group,) = admin.describe_groups([settings.topic(processor)]).values()
            finally:
                admin.close()
        return len(group["members"]) if group["group_state"] == "Stable" else -1

    def wait(self, what: str, until: Callable[[], bool], seconds: float = TIMEOUT_SECONDS) -> None:
        """While the servers are away, `until` does not hold."""
        deadline = monotonic() + seconds
        while not _now(until):
            assert monotonic() < deadline, f"{what}: not within {seconds} s"
            sleep(0.1)

    def of_partition(self, topic: str, number: int) -> Iterator[Record]:
        offset = 0
        while found := self.store.log.read(topic, number, offset, 10_000):
            yield from found
            offset = found[-1].offset + 1


def _now(until: Callable[[], bool]) -> bool:
    try:
        return until()
    except Unavailable:
        return False


@contextmanager
def plant(alert_window_seconds: float = 2) -> Iterator[Cluster]:
    """Topics and a bucket of its own on the servers that the environment names, and a gauge for every line. Nothing is
    adapted unless a test asks for it."""
    name = f"plant-{uuid4().hex[:8]}"
    os.environ["FLOWGAUGE_TOPIC_PREFIX"] = f"{name}."
    S3Objects(s3_settings(os.environ), name).ensure_bucket()
    with Topics(kafka_settings(os.environ)) as topics:
        topics.create(Plan(partitions=PARTITIONS))
    uri = f"s3://{name}"
    with open_store(uri) as store:
        for line in LINES:
            fitted(store, line=line)
            set_line(
                store.objects,
                line,
                alert_window_seconds=alert_window_seconds,
                policy=Policy.OFF,
                buffer_minimum=8,
            )
        cluster = Cluster(uri, store)
        try:
            yield cluster
        finally:
            for worker in cluster.workers:
                worker.kill()
                worker.wait()
