"""Workers that end, come and go, freeze, or have a wrong clock."""

import signal
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from flowgauge.runtime.roles import Role
from tests.support.camera import GOOD
from tests.support.clusters import LINES
from tests.support.clusterworker import JUMP
from tests.support.faults.scene import Scene
from tests.support.streaming import png

_BACKLOG = 24  # images of each line: more than a batch, so that a worker is stopped with some in hand


def scoring_worker_is_killed(scene: Scene) -> datetime:
    second = scene.with_second_worker()
    scene.hesitate()
    scene.cluster.kill(scene.scoring)
    scene.scoring = second
    return datetime.now(UTC)


def workers_are_stopped(scene: Scene) -> datetime:
    """All of them, as an update does: exit code 0, which `stop` insists on."""
    scene.cluster.stop([scene.scoring, scene.downstream])
    over = datetime.now(UTC)
    scene.scoring = scene.cluster.start(Role.SCORING)
    scene.downstream = scene.cluster.start(Role.DOWNSTREAM)
    return over


def worker_joins_and_leaves(scene: Scene) -> datetime:
    second = scene.with_second_worker()
    scene.hesitate()
    scene.wait_for_verdicts(datetime.now(UTC))
    scene.cluster.stop([second])
    return datetime.now(UTC)


def zombie_wakes(scene: Scene) -> datetime:
    """A worker freezes with a batch in hand, loses its partitions to another, wakes and flushes: what it writes is
    void."""
    with TemporaryDirectory() as folder:
        mark = Path(folder, "predicting")
        zombie = scene.with_second_worker("--predict-seconds", "2", "--mark", str(mark))
        void = scene.verdicts.read().void
        mark.unlink(missing_ok=True)
        number = len(scene.cameras.images[LINES[0]])
        for index in range(_BACKLOG):
            for line in LINES:
                scene.cameras.send(line, f"backlog-{number:05d}-{index:02d}", png(GOOD, seed=index, side=64))
        scene.cluster.wait("a batch in its hand", mark.exists)
        zombie.send_signal(signal.SIGSTOP)
        scene.cluster.wait("the group without it", lambda: scene.cluster.members("scoring") == 1)
        scene.wait_for_verdicts(datetime.now(UTC))
        scene.outlast(10)
        zombie.send_signal(signal.SIGCONT)
        over = datetime.now(UTC)
        scene.cluster.wait("its return", lambda: scene.cluster.members("scoring") == 2)
        scene.cluster.stop([zombie])
    assert scene.verdicts.read().void > void
    return over


def clocks_jump(scene: Scene) -> datetime:
    """Forward by more than an hour, and back, on all workers."""
    workers = [scene.scoring, scene.downstream]
    for worker in workers:
        worker.send_signal(signal.SIGUSR1)
    jumped = datetime.now(UTC) + JUMP / 2
    scene.cluster.wait("verdicts of the wrong time", lambda: _all_lines_have_one_after(scene, jumped))
    scene.outlast(20)
    for worker in workers:
        worker.send_signal(signal.SIGUSR2)
    return datetime.now(UTC)


def _all_lines_have_one_after(scene: Scene, moment: datetime) -> bool:
    verdicts = scene.verdicts.read()
    return all(verdicts.first_after(line, moment, moment + JUMP) for line in LINES)
