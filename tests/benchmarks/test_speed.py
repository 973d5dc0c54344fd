"""Speed as ratios measured side by side in one run."""

from time import perf_counter

import pytest

from flowgauge.evaluation.evaluate import side_by_side
from flowgauge.synthetic.procedural import ProceduralLine
from flowgauge.training.fit import FitSettings, fit
from flowgauge.training.gauge import Gauge
from flowgauge.vision.decoding import Picture, decode
from tests.support.gauges import AT, png


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    line = ProceduralLine("brushed-metal", seed=0)
    return [decode(png(line.good(index).pixels)) for index in range(16)]


@pytest.fixture(scope="module")
def default_gauge(pictures: list[Picture]) -> Gauge:
    """Of full size; how long it was trained changes nothing about its speed."""
    config = {"head": {"epochs": 1}, "training": {"steps": 10, "check_every": 10}}
    return fit(pictures, line="speed", settings=FitSettings(config=config), at=AT)


def test_the_default_gauge_keeps_most_of_the_bare_backbones_speed(
    default_gauge: Gauge, pictures: list[Picture]
) -> None:
    speed = side_by_side(default_gauge, pictures, perf_counter)
    print(f"\ngauge {speed.gauge:.1f}, backbone {speed.backbone:.1f} images/s, ratio {speed.ratio:.3f}")  # noqa: T201
    assert speed.ratio >= 0.85
