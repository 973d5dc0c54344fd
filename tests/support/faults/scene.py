"""Where faults happen, and the count at the end."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import sleep

from deploy.native.servers import Kafka, Minio, Redis
from flowgauge.processors.archive import archived
from flowgauge.runtime.roles import Role
from tests.support.camera import Cameras
from tests.support.clusters import LINES, Cluster, Worker, plant
from tests.support.counts import Verdicts, assert_all_is_there, rejects_reported

_SHORT_SECONDS = 3.0


@dataclass
class Servers:
    """This machine's own, so that nobody else's are hurt."""

    kafka: Kafka
    redis: Redis
    minio: Minio


@dataclass
class Scene:
    """A plant whose cameras run, with one worker for scoring and one downstream. `checks` are made at the end."""

    cluster: Cluster
    servers: Servers
    cameras: Cameras
    dice: random.Random
    long: bool
    scoring: Worker
    downstream: Worker
    verdicts: Verdicts
    checks: list[Callable[[], None]] = field(default_factory=list)

    def outlast(self, seconds: float) -> None:
        """What a fault takes: `seconds` in the whole suite, three in the short one."""
        sleep(seconds if self.long else min(seconds, _SHORT_SECONDS))

    def hesitate(self, seconds: float = 1.0) -> None:
        """A moment of the seed's choice."""
        sleep(self.dice.uniform(0, seconds))

    def wait_for_verdicts(self, since: datetime) -> float:
        """Until every line has one that was scored since; how many seconds the line that waited longest waited."""
        first: dict[str, datetime] = {}

        def all_have_one() -> bool:
            self.verdicts.read()
            now = datetime.now(UTC)
            found = {line: self.verdicts.first_after(line, since, now) for line in LINES}
            first.update({line: verdict.scored_at for line, verdict in found.items() if verdict is not None})
            return len(first) == len(LINES)

        self.cluster.wait("a verdict on every line", all_have_one)
        return (max(first.values()) - since) / timedelta(seconds=1)

    def with_second_worker(self, *options: str) -> Worker:
        """A second one for scoring, once it has its share."""
        second = self.cluster.start(Role.SCORING, *options)
        self.cluster.wait("two scoring workers", lambda: self.cluster.members("scoring") == 2)
        return second


Fault = Callable[[Scene], datetime]
"""Returns when it was over: until the next verdict the plant recovers."""


@dataclass(frozen=True)
class Episode:
    """One fault in a flow: the images that were sent and the void verdicts that were read until it had recovered."""

    fault: str
    images: int
    void: int
    recovery_seconds: float


@dataclass(frozen=True)
class Outcome:
    """The count of one flow of images, and its faults in the order in which they happened."""

    seed: int
    long: bool
    images: int
    verdicts: int
    void: int
    dead_letters: int
    rejects_reported: int
    episodes: Sequence[Episode]


def suffer(servers: Servers, faults: Sequence[Fault], seed: int, long: bool, alert_window_seconds: float) -> Outcome:
    """All of `faults` in an order of the seed's choice while images flow, and then the count."""
    dice = random.Random(seed)
    with _running(servers, dice, long, alert_window_seconds) as scene:
        episodes = [_episode(scene, fault) for fault in dice.sample(faults, len(faults))]
        scene.cameras.stop()
        _finish(scene)
        verdicts = assert_all_is_there(scene.cluster, scene.cameras)
        for check in scene.checks:
            check()
        return Outcome(
            seed=seed,
            long=long,
            images=scene.cameras.sent,
            verdicts=sum(1 for _ in verdicts.all()),
            void=verdicts.void,
            dead_letters=len(scene.cameras.dead_letters),
            rejects_reported=rejects_reported(scene.cluster).total(),
            episodes=episodes,
        )


@contextmanager
def _running(servers: Servers, dice: random.Random, long: bool, alert_window_seconds: float) -> Iterator[Scene]:
    with plant(alert_window_seconds) as cluster, Cameras(cluster.store.objects) as cameras:
        yield Scene(
            cluster=cluster,
            servers=servers,
            cameras=cameras,
            dice=dice,
            long=long,
            scoring=cluster.start(Role.SCORING),
            downstream=cluster.start(Role.DOWNSTREAM),
            verdicts=Verdicts(cluster.store.log),
        )


def _episode(scene: Scene, fault: Fault) -> Episode:
    images, void = scene.cameras.sent, scene.verdicts.void
    scene.wait_for_verdicts(datetime.now(UTC))
    scene.hesitate()
    recovery = scene.wait_for_verdicts(fault(scene))
    return Episode(fault.__name__, scene.cameras.sent - images, scene.verdicts.void - void, recovery)


def _finish(scene: Scene) -> None:
    """All is scored, all workers end gracefully, and what is downstream reads on to the end."""
    cluster, cameras = scene.cluster, scene.cameras
    cluster.wait("all verdicts", lambda: scene.verdicts.read().images() == cameras.images)
    cluster.stop(cluster.workers)
    downstream = cluster.start(Role.DOWNSTREAM)
    cluster.wait("the archive", lambda: sum(1 for _ in archived(cluster.store.objects)) >= cameras.sent)
    cluster.wait("the alerts", lambda: rejects_reported(cluster).total() >= scene.verdicts.rejects().total())
    cluster.wait("the last worker", lambda: cluster.members("archive") == 1)
    cluster.stop([downstream])
