"""kill -9 at any moment: no verdict is lost, and no image has two that count."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.messages import VERDICTS
from flowgauge.processors.archive import archived
from flowgauge.runtime.fencing import count
from tests.support.streaming import SetClock, fitted, opened, png

IMAGES = 500
KILLS = 20
_TIMEOUT_SECONDS = 60
_REPOSITORY = Path(__file__).parents[2]

Process = subprocess.Popen[bytes]


@pytest.mark.slow
def test_twenty_kills_lose_no_verdict_and_make_none_twice(tmp_path: Path) -> None:
    root, folder = tmp_path / "plant", tmp_path / "incoming"
    names = fill(folder)
    fitted(opened(root, SetClock())).close()
    dice = random.Random(20)
    targets = sorted(dice.randrange(IMAGES - 20) for _ in range(KILLS))

    killed_at = [kill(root, folder, target, dice) for target in targets]
    finish(root, folder)

    assert all(verdicts < IMAGES for verdicts in killed_at), f"a kill came too late to prove anything: {killed_at}"
    with open_store(str(root)) as store:
        records = store.log.read(VERDICTS, 0, 0, 10 * IMAGES)
        counted = Counter(item.verdict.image_id.partition("@")[0] for item in count(records).counted)
        kept = Counter(verdict.image_id.partition("@")[0] for verdict in archived(store.objects))
    assert len(records) == IMAGES, "an image was scored again"
    assert counted == Counter(names)
    assert kept == Counter(names)


def fill(folder: Path) -> list[str]:
    folder.mkdir()
    names = [f"{number:04d}.png" for number in range(IMAGES)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(png(170 if number % 10 == 0 else 100, seed=number, side=64))
    return names


def start(root: Path, folder: Path, *options: str) -> Process:
    command = [sys.executable, "-m", "tests.support.killable", str(root), str(folder), *options]
    return subprocess.Popen(command, cwd=_REPOSITORY, stdout=subprocess.PIPE)


def kill(root: Path, folder: Path, target: int, dice: random.Random) -> int:
    """Kill a new runner some milliseconds after there are `target` verdicts; how many there are then.

    Every fourth is killed while it is starting.
    """
    process = start(root, folder)
    if dice.randrange(4) == 0:
        sleep(dice.uniform(0.1, 1.0))
    else:
        assert process.stdout is not None
        assert process.stdout.readline() == b"streaming\n"
        wait_for(root, target, process)
        sleep(dice.uniform(0, 0.03))
    assert process.poll() is None, "the runner ended by itself"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return verdicts(root)


def wait_for(root: Path, target: int, process: Process) -> None:
    deadline = monotonic() + _TIMEOUT_SECONDS
    while verdicts(root) < target:
        assert process.poll() is None, "the runner ended by itself"
        assert monotonic() < deadline, f"no {target} verdicts after {_TIMEOUT_SECONDS} s"
        sleep(0.001)


def finish(root: Path, folder: Path) -> None:
    process = start(root, folder, "--once")
    process.communicate(timeout=_TIMEOUT_SECONDS)
    assert process.returncode == 0


def verdicts(root: Path) -> int:
    with closing(sqlite3.connect(f"file:{root / 'log.db'}?mode=ro", uri=True, timeout=10)) as connection:
        row = connection.execute("SELECT next FROM ends WHERE topic = ?", (VERDICTS,)).fetchone()
    return row[0] if row else 0
