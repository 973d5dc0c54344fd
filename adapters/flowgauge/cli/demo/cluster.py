"""The demonstration on a real plant: several lines at once, at the pace of a production line, with real workers."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

from rich.console import Console

from flowgauge.app.bootstrap import open_store
from flowgauge.cli.demo.driver import DemoFolder, DemoModel, Play, calls_of, event_of
from flowgauge.cli.demo.history import History, Introduction
from flowgauge.cli.demo.scenario import WARMUP, Frame, Script
from flowgauge.cli.demo.screen import Screen
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import ADAPTATIONS, ALERTS, IMAGES, VERDICTS, Alert, Verdict
from flowgauge.domain.ports import Record
from flowgauge.kafka.topics import Plan, Topics
from flowgauge.models.prediction import Predictor
from flowgauge.registry.lines import set_line
from flowgauge.reports.story import Story
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import image_record
from flowgauge.runtime.fencing import count
from flowgauge.runtime.roles import Role
from flowgauge.s3.objects import S3Objects
from flowgauge.settings.environment import kafka_settings, s3_settings

ROLES = (Role.SCORING, Role.SCORING, Role.DOWNSTREAM, Role.ADAPTATION)
# a phase passes in half a minute here, where a line takes hours: with more, the alarm of one phase silences the next
COOL_DOWN_SECONDS = 30
# between two looks at the topics: with more the screen lags behind, with less the servers are busy with looks
LOOK_SECONDS = 0.5
# images of every line between two looks while they are sent
LOOK_EVERY = 8
# for workers to deliver what they have begun, which takes some seconds; whoever takes longer hangs and is killed
END_SECONDS = 60.0


def multi_line(
    scripts: Sequence[Script], folder: DemoFolder, demo_model: DemoModel, rate: float, command: str, console: Console
) -> list[Story]:
    """Fit, publish, adapt and swap on the servers that the environment names, with topics and a bucket of its own;
    then write a report for every line, each with a name of its own."""
    scripts = [replace(script, line=f"{script.line}-{number}") for number, script in enumerate(scripts, start=1)]
    images = sum(len(script.shots) for script in scripts)
    with _plant(len(scripts)) as uri, open_store(uri) as store, Screen(console, images) as screen:
        prefix = os.environ["FLOWGAUGE_TOPIC_PREFIX"]
        screen.event("plant", f"{uri}, topics {prefix}*")
        screen.event("console", f"FLOWGAUGE_TOPIC_PREFIX={prefix} flowgauge console --store {uri}")
        started = {script.line: demo_model.fitted(script, store, screen) for script in scripts}
        for script in scripts:
            set_line(store.objects, script.line, warmup_images=WARMUP, cool_down_seconds=COOL_DOWN_SECONDS)

        def show(record: Record) -> None:
            if record.topic == ALERTS:
                screen.alert(Alert.decode(record.value))
            else:
                screen.verdicts([Verdict.decode(record.value)])

        with workers(uri, ROLES, folder.logs, "--threads", "1", "--device", demo_model.device.value) as check:
            screen.event("workers", f"{len(ROLES)} of them; what they say is in {folder.logs}")
            firsts = {line: gauge for line, (gauge, _) in started.items()}
            played = ClusterPlay(store, scripts, firsts, rate, show, check)
            played.play(screen.announce)
        stories = []
        for script in scripts:
            gauge, facts = started[script.line]
            frozen = played.frozen[script.line]
            introduction = Introduction(script, facts, frozen, command, gauge.manifest.software)
            stories.append(History(store, introduction).story())
            folder.of(script.line).keep(stories[-1])
    return stories


@contextmanager
def _plant(partitions: int) -> Iterator[str]:
    """The address of a new bucket; while it lasts, the environment names topics that go with it."""
    name = f"demo-{uuid4().hex[:8]}"
    before = os.environ.get("FLOWGAUGE_TOPIC_PREFIX")
    os.environ["FLOWGAUGE_TOPIC_PREFIX"] = f"{name}."
    try:
        with Topics(kafka_settings(os.environ)) as topics:
            topics.create(Plan(partitions=partitions))
        S3Objects(s3_settings(os.environ), name).ensure_bucket()
        yield f"s3://{name}"
    finally:
        if before is None:
            del os.environ["FLOWGAUGE_TOPIC_PREFIX"]
        else:
            os.environ["FLOWGAUGE_TOPIC_PREFIX"] = before


@contextmanager
def workers(store: str, roles: Sequence[Role], logs: Path, *options: str) -> Iterator[Callable[[], None]]:
    """Runs `flowgauge worker` for each of `roles`, on the store and the servers that the environment names. What each
    says goes to a file of its own in `logs`. At the end all are asked to end, and then made to.

    Yields a check that raises `Unavailable` if one has ended.
    """
    started: dict[Path, subprocess.Popen[bytes]] = {}

    def check() -> None:
        for log, worker in started.items():
            if (code := worker.poll()) is not None:
                raise Unavailable(f"A worker has ended with exit code {code}.", f"Its last words are in {log}.")

    logs.mkdir(parents=True, exist_ok=True)
    try:
        for number, role in enumerate(roles, start=1):
            path = logs / f"{number}-{role.value}.log"
            command = [sys.executable, "-m", "flowgauge.cli", "worker", role.value, "--store", store, *options]
            # two models that spin for the same cores cost each other several times what they gain
            one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
            with path.open("wb") as log:
                started[path] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=one_thread)
        yield check
    finally:
        for worker in started.values():
            worker.terminate()
        for worker in started.values():
            try:
                worker.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


class ClusterPlay(Play):
    """Each line has a partition of its own, in the order of `scripts`, and sends `rate` images a second. `tell` gets
    verdicts and alerts as they come; `check` raises when the plant is not what it should be.
    """

    def __init__(
        self,
        store: Store,
        scripts: Sequence[Script],
        firsts: Mapping[str, Predictor],
        rate: float,
        tell: Callable[[Record], None],
        check: Callable[[], None],
    ) -> None:
        super().__init__(store, scripts, firsts)
        self._partitions = {script.line: number for number, script in enumerate(scripts)}
        self._rate, self._tell, self._check = rate, tell, check
        self._read_to: dict[tuple[str, int], int] = {}

    def rest(self) -> None:
        while not self._at_rest():
            self._check()
            self._look()
            sleep(LOOK_SECONDS)
        self._look()

    def _at_rest(self) -> bool:
        log = self._store.log
        for number in self._partitions.values():
            end = log.end(VERDICTS, number)
            last = log.read(VERDICTS, number, max(0, end - 1), 1)
            scored = max((each.verdict.source.offset for each in count(last).counted), default=-1) + 1
            if scored < log.end(IMAGES, number) or log.position("observing", VERDICTS, number) < end:
                return False
        return log.position("adaptation", ADAPTATIONS, 0) >= log.end(ADAPTATIONS, 0)

    def stream(self, shots: Sequence[Sequence[Frame]]) -> None:
        start = monotonic()
        for number, row in enumerate(zip_longest(*shots)):
            sleep(max(0.0, start + number / self._rate - monotonic()))
            for script, frame in zip(self._scripts, row, strict=True):
                if frame is not None:
                    self._send(script.line, frame)
            if number % LOOK_EVERY == 0:
                self._check()
                self._look()
        self.rest()

    def _send(self, line: str, frame: Frame) -> None:
        data = frame.read()
        record = image_record(event_of(line, frame, self._store.clock.now()), data)
        self._store.log.append([replace(record, partition=self._partitions[line])])
        self.frozen[line] |= calls_of(self._firsts[line], [frame], [data])

    def _look(self) -> None:
        for topic, number in [(VERDICTS, each) for each in self._partitions.values()] + [(ALERTS, 0)]:
            start = self._read_to.get((topic, number), 0)
            for record in self._store.log.read(topic, number, start, 1_000):
                self._tell(record)
                self._read_to[topic, number] = record.offset + 1
