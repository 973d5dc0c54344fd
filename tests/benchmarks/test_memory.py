"""What memory a worker takes: whether it stays flat over 20,000 images, and how much large images take."""

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml
from PIL import Image

from flowgauge.runtime.roles import Role
from tests.support.speedplant import SpeedPlant, say

IMAGES = 20_000
LARGE, WIDTH, HEIGHT = 40, 6_000, 4_000
_MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "base" / "scoring.yaml"


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


def test_a_worker_on_images_of_24_megapixels_stays_within_the_limit_of_its_manifest(plant: SpeedPlant) -> None:
    """By claim check, all of them waiting when it starts; as most are rejects, they get heatmaps too."""
    plant.publish(LARGE, of=list(large_images(4)))
    worker = plant.start(Role.SCORING)
    plant.wait_for_verdicts()
    peak = peak_mebibytes(worker.pid)
    plant.end()
    say(f"{LARGE} images of {WIDTH} x {HEIGHT}: at most {peak:.0f} MiB of {limit_mebibytes():.0f}")
    assert peak < limit_mebibytes()


def large_images(count: int) -> Iterator[bytes]:
    """JPEG of a smooth texture with noise."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        smooth = Image.fromarray(rng.normal(120, 25, (HEIGHT // 100, WIDTH // 100)).astype(np.float32))
        texture = np.asarray(smooth.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) + rng.normal(
            0, 5, (HEIGHT, WIDTH)
        ).astype(np.float32)
        file = BytesIO()
        Image.fromarray(np.clip(texture, 0, 255).astype(np.uint8)).convert("RGB").save(file, "JPEG", quality=85)
        yield file.getvalue()


def limit_mebibytes() -> float:
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(_MANIFEST.read_text()))
    (container,) = next(each for each in documents if each["kind"] == "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    return float(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 1024


def resident_mebibytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_mebibytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10
