"""Speed as ratios measured side by side in one run."""

from copy import deepcopy
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest

from flowgauge.domain.choices import Engine
from flowgauge.domain.messages import TrialRules
from flowgauge.engines.choice import compiled
from flowgauge.evaluation.evaluate import side_by_side
from flowgauge.synthetic.procedural import ProceduralLine
from flowgauge.training.fit import FitSettings, fit
from flowgauge.training.gauge import Gauge
from flowgauge.vision.decoding import Picture, decode
from tests.support.gauges import AT, png

_ROUNDS = 7


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    line = ProceduralLine("brushed-metal", seed=0)
    return [decode(png(line.good(index).pixels)) for index in range(16)]


@pytest.fixture(scope="module")
def default_gauge(pictures: list[Picture]) -> Gauge:
    """Of full size; how long it was trained changes nothing about its speed."""
    config = {"training": {"steps": 10, "check_every": 10}}
    return fit(pictures, line="speed", settings=FitSettings(config=config), at=AT)


def test_the_share_of_the_bare_backbones_speed(default_gauge: Gauge, pictures: list[Picture]) -> None:
    own, backbone = side_by_side(default_gauge, pictures, perf_counter)
    print(f"\ngauge {own:.1f}, backbone {backbone:.1f} images/s, ratio {own / backbone:.3f}")  # noqa: T201
    assert own / backbone >= 0.18, "nine flows of four blocks; of six it was 0.12"


@pytest.mark.parametrize("batch", [1, 16])
def test_openvino_is_faster_than_torch(
    default_gauge: Gauge, pictures: list[Picture], tmp_path: Path, batch: int
) -> None:
    made = compiled(default_gauge, Engine.OPENVINO, tmp_path)
    assert made.refused == ""
    gauges, seconds = {"torch": default_gauge, "openvino": made.gauge}, dict[str, list[float]](torch=[], openvino=[])
    for _ in range(_ROUNDS):
        for name, gauge in gauges.items():
            gauge.predict(pictures[:batch])
            began = perf_counter()
            gauge.predict(pictures[:batch])
            seconds[name].append(perf_counter() - began)
    torch_ms, openvino_ms = (1000 * median(seconds[name]) / batch for name in gauges)
    print(f"\nbatch {batch}: torch {torch_ms:.1f}, openvino {openvino_ms:.1f} ms an image")  # noqa: T201
    assert torch_ms >= 1.2 * openvino_ms


def test_a_shadow_keeps_four_fifths_of_the_images_a_second(default_gauge: Gauge, pictures: list[Picture]) -> None:
    """At the default share of the images; the candidate is another gauge of the same backbone."""
    candidate = Gauge(
        default_gauge.manifest, default_gauge.backbone, deepcopy(default_gauge.detector), default_gauge.probes
    )
    alone = [(default_gauge, picture) for picture in pictures]
    seconds: dict[float, list[float]] = {}
    for _ in range(_ROUNDS):
        for share in (0.0, TrialRules().shadow_share, 1.0):
            shadow = [(candidate, picture) for picture in pictures[: round(share * len(pictures))]]
            began = perf_counter()
            default_gauge.predict_each(alone + shadow)
            seconds.setdefault(share, []).append(perf_counter() - began)
    plain, default, full = (median(taken) for taken in seconds.values())
    print(f"\nimages/s beside a shadow {plain / default:.2f}, of all images {plain / full:.2f} of without")  # noqa: T201
    assert plain / default >= 0.8
