"""Whether a worker's memory stays flat; takes as long as it takes to score 20,000 images."""

import os
from pathlib import Path
from statistics import fmean

from flowgauge.runtime.roles import Role
from tests.support.speedplant import SpeedPlant, say

IMAGES = 20_000


def test_the_memory_of_a_worker_stays_flat(plant: SpeedPlant) -> None:
    worker = plant.start(Role.SCORING)
    samples: list[tuple[int, float]] = []
    while plant.sent < IMAGES:
        plant.publish(1_000)
        plant.wait_for_verdicts()
        samples.append((plant.sent, resident_mebibytes(worker.pid)))
    plant.end()
    early, last = fmean(size for _, size in samples[1:4]), fmean(size for _, size in samples[-3:])
    say(f"after 2,000 to 4,000 images {early:.0f} MiB, at the end {last:.0f} MiB ({last / early - 1:+.1%}); {samples}")
    assert last <= 1.05 * early


def resident_mebibytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
