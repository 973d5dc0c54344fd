"""A plant with the default gauge and real workers, to measure on: topics and a bucket of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.messages import VERDICTS, Event, Verdict
from flowgauge.domain.ports import Record
from flowgauge.kafka.publisher import ImagePublisher
from flowgauge.kafka.topics import Plan, Topics
from flowgauge.registry.snapshots import SnapshotFiles, publish_snapshot
from flowgauge.runtime.backend import Store
from flowgauge.runtime.roles import Role
from flowgauge.s3.objects import S3Objects
from flowgauge.settings.environment import kafka_settings, s3_settings
from flowgauge.synthetic.procedural import ProceduralLine
from flowgauge.training.fit import FitSettings, fit
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import Snapshot, save
from flowgauge.vision.decoding import decode
from tests.support.gauges import AT, png

LINE = "press-3"
_VIEWS = 96
_LOOK_SECONDS = 1.0  # each look takes processor time from what is measured
_REPOSITORY = Path(__file__).parents[2]


@cache
def images() -> list[bytes]:
    line = ProceduralLine("brushed-metal", seed=0)
    return [png(line.good(index).pixels) for index in range(_VIEWS)]


@cache
def default_gauge() -> Gauge:
    """Trained as by default, so that it alarms as rarely as one in use: each alarm costs a heatmap."""
    return fit([decode(each) for each in images()], line=LINE, settings=FitSettings(), at=AT)


@dataclass
class SpeedPlant:
    store: Store
    uri: str
    folder: Path
    sent: int = 0
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, role: Role, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flowgauge.cli", "worker", role.value, "--store", self.uri, "--threads", "1"]
        cache_folder = ("--cache", str(self.folder / "cache"))
        worker = subprocess.Popen(
            [*command, *cache_folder, *options],
            cwd=_REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        self.workers.append(worker)
        return worker

    def publish(
        self,
        count: int,
        rate: float | None = None,
        during: Callable[[int], None] = lambda sent: None,
        of: Sequence[bytes] = (),
    ) -> None:
        """`count` more images, `rate` a second; captured when they are sent. `during` is called before each. `of`
        stands for the line's own images.
        """
        start, shown = monotonic(), of or images()
        with ImagePublisher(kafka_settings(os.environ), self.store.objects) as publisher:
            for number in range(count):
                if rate is not None:
                    sleep(max(0.0, start + number / rate - monotonic()))
                during(number)
                publisher.publish(self._event(), shown[self.sent % len(shown)])
                self.sent += 1

    def wait_for_verdicts(self) -> list[Record]:
        """All, once there is one for each image. `at` is when the broker had them."""
        while self.store.log.end(VERDICTS, 0) < self.sent:
            assert all(worker.poll() is None for worker in self.workers), "a worker has ended"
            sleep(_LOOK_SECONDS)
        return self.verdicts()

    def verdicts(self) -> list[Record]:
        found: list[Record] = []
        while records := self.store.log.read(VERDICTS, 0, len(found), 1_000):
            found += records
        return found

    def end(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        assert [worker.wait(60) for worker in self.workers] == [0] * len(self.workers)
        self.workers.clear()

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def _event(self) -> Event:
        return Event(image_id=f"{self.sent:06d}", source=f"/lines/{LINE}", line=LINE, captured_at=datetime.now(UTC))


@contextmanager
def speed_plant(folder: Path) -> Iterator[SpeedPlant]:
    """One line, one partition, on the servers that the environment names."""
    name = f"speed-{uuid4().hex[:8]}"
    os.environ["FLOWGAUGE_TOPIC_PREFIX"] = f"{name}."
    S3Objects(s3_settings(os.environ), name).ensure_bucket()
    with Topics(kafka_settings(os.environ)) as topics:
        topics.create(Plan(partitions=1))
    with ExitStack() as stack:
        store = stack.enter_context(open_store(f"s3://{name}"))
        plant = SpeedPlant(store, f"s3://{name}", folder)
        stack.callback(plant.kill)
        announce(store, save(default_gauge()))
        yield plant


def warmed_up(plant: SpeedPlant, batch: int) -> None:
    """With a scoring worker that has its gauge and has scored a batch."""
    plant.start(Role.SCORING, "--batch", str(batch))
    plant.publish(batch)
    plant.wait_for_verdicts()


def announce(store: Store, saved: Snapshot) -> None:
    publish_snapshot(store, LINE, saved.version, SnapshotFiles(saved.manifest, saved.weights), None)


def rate(records: Sequence[Record]) -> float:
    """Verdicts a second, from the first of `records` to the last."""
    times = [record.at.timestamp() for record in records]
    later = sum(at > times[0] for at in times)
    return later / (times[-1] - times[0])


def latencies(records: Sequence[Record]) -> list[float]:
    """Seconds from produce to the broker's having the verdict, ascending."""
    return sorted((record.at - Verdict.decode(record.value).captured_at).total_seconds() for record in records)


def say(words: str) -> None:
    print(f"\n{words} ({os.cpu_count()} cores)")  # noqa: T201
