"""A disk that runs full while a line streams: reported, waited for, nothing lost and nothing twice."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from flowgauge.app.embedded import embedded
from flowgauge.domain.errors import StoreFull
from flowgauge.domain.messages import IMAGES, AlertKind, Verdict
from flowgauge.domain.ports import Objects
from flowgauge.processors.archive import archived
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.local_runner import Runner
from tests.support.streaming import LINE, SetClock, adapt, fitted, load, opened, png, send, verdicts

DISK_BYTES = 4 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of `DISK_BYTES`."""
    root = tmp_path / "disk"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(root)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield root
    subprocess.run(["umount", "--lazy", str(root)], check=True)


def stream_for_ever(store: Store, runner: Runner) -> None:
    for number in count():
        runner.run_until_idle()
        send(store, [(f"more-{number}", png(200, seed=number, side=64))])


def fill(disk: Path, leave_bytes: int) -> Path:
    """A file that takes all but `leave_bytes`."""
    path = disk / "filler"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - leave_bytes)
    return path


@pytest.mark.parametrize("leave_bytes", [0, 20_000, 60_000, 200_000])
def test_a_full_disk_is_reported_and_once_there_is_space_nothing_is_missing(disk: Path, leave_bytes: int) -> None:
    clock = SetClock()
    images = [(f"{number:03d}", png(100 + 90 * (number % 2), seed=number, side=64)) for number in range(40)]
    with fitted(opened(disk / "plant", clock)) as store:
        send(store, images)
        runner = embedded(store, load, adapt, batch=4, archive_rows=16)
        filler = fill(disk, leave_bytes)
        with pytest.raises(StoreFull, match="No space is left"):
            stream_for_ever(store, runner)

        filler.unlink()
        clock.advance(60)
        runner.run_until_idle()

        sent = store.log.end(IMAGES, 0)
        counted = Counter(each.image_id for each in verdicts(store.log))
        assert len(counted) == sent
        assert set(counted.values()) == {1}
        assert Counter(each.image_id for each in archived(store.objects)) == counted
        reported = [each.kind for each in alerts(store.log) if each.line == LINE]
        assert reported.count(AlertKind.STORE_UNAVAILABLE) <= 1
        assert [each.image_id for each in verdicts(store.log) if not kept(store.objects, each)] == []


def kept(objects: Objects, verdict: Verdict) -> bool:
    addresses = [uri for uri in (verdict.image_uri, verdict.heatmap_uri) if uri is not None]
    return bool(addresses) and all(objects.exists(objects.name(uri)) for uri in addresses)
