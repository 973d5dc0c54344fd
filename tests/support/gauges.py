"""Small real gauges: the true backbone at a small size, a detector trained in seconds on a procedural line."""

from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image

from flowgauge.models.backbones import PIXELS_SPEC, BackboneSpec
from flowgauge.models.registry import DETECTORS, FROM_LABELS, FROM_PIXELS
from flowgauge.synthetic.procedural import NOMINAL, Condition, ProceduralLine
from flowgauge.training.fit import FitSettings, fit
from flowgauge.training.gauge import Gauge
from flowgauge.vision.decoding import Picture, decode
from flowgauge.vision.preprocessing import Preprocessing

AT = datetime(2026, 3, 1, tzinfo=UTC)
MATERIAL = "brushed-metal"
SIZE = 96

QUICK: dict[str, dict[str, Any]] = {
    "featureflow": {
        "members": 2,
        "dimensions": 24,
        "blocks": 3,
        "hidden": 48,
        "training": {"steps": 200, "batch": 256, "learning_rate": 1e-2, "noise": 0.05, "check_every": 50},
    },
    "headflow": {
        "head": {"hidden": 24, "inner": 16, "dimensions": 6, "epochs": 3},
        "anomalies_per_image": 2,
        "pooled": {"blocks": 2, "hidden": 32, "training": {"steps": 40, "batch": 32, "check_every": 20}},
        "training": {"steps": 80, "batch": 512, "learning_rate": 5e-3, "noise": 1.0, "check_every": 20},
    },
    "csflow": {
        "blocks": 2,
        "hidden": 12,
        "training": {"steps": 40, "batch": 16, "noise": 0.2, "check_every": 20},
    },
    "rad": {
        "blocks": 2,
        "hidden": 32,
        "views": [{}, {"turns": 2}],
        "training": {"steps": 60, "batch": 64, "check_every": 20},
    },
    "glass": {"hidden": 32, "steps": 40, "patches": 64},
    "lamp": {"layers": 4, "width": 8, "top": 0.05, "training": {"steps": 100, "batch": 16}},
    "multidirectional": {"episodes": 6, "batch": 4},
}
assert set(QUICK) == set(DETECTORS), "every detector makes a gauge that is saved, loaded and streamed"


def line() -> ProceduralLine:
    return ProceduralLine(MATERIAL, seed=0, size=SIZE)


def png(pixels: object) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")  # type: ignore[arg-type]
    return file.getvalue()


def goods(indices: range, condition: Condition = NOMINAL) -> list[Picture]:
    return [decode(png(line().good(index, condition).pixels)) for index in indices]


def defects(
    indices: range, condition: Condition = NOMINAL, kinds: tuple[str, ...] = ("scratch", "pit", "stain")
) -> list[Picture]:
    return [decode(png(line().defect(index, kinds[index % len(kinds)], condition).pixels)) for index in indices]


def settings(detector: str = "featureflow") -> FitSettings:
    backbone = PIXELS_SPEC if detector in FROM_PIXELS else BackboneSpec()
    config, preprocessing = QUICK[detector], Preprocessing(size=SIZE)
    return FitSettings(detector=detector, config=config, backbone=backbone, preprocessing=preprocessing)


@cache
def gauge(detector: str = "featureflow") -> Gauge:
    """Fitted to 36 good parts; shared by all tests, which is safe: a gauge never changes."""
    labelled = [(picture, "") for picture in defects(range(60, 64))] if detector in FROM_LABELS else []
    return fit(goods(range(36)), line="press-3", settings=settings(detector), at=AT, labelled=labelled, seed=0)
