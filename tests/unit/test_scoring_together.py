"""Several gauges score the same images: what they share is computed once, and nothing else changes."""

from typing import Any

import numpy as np
import pytest

from flowgauge.training import gauge as gauge_module
from flowgauge.training.gauge import score_by_each
from tests.support.gauges import gauge, goods


def test_each_gauge_says_what_it_says_alone() -> None:
    gauges = [gauge("headflow"), gauge("rad"), gauge("headflow")]
    crops = gauges[0].manifest.preprocessing.crops(goods(range(700, 719)))
    together = score_by_each(gauges, crops)
    assert [scores.shape for scores in together] == [(19,)] * 3
    for alone, scores in zip((score_by_each([each], crops)[0] for each in gauges), together, strict=True):
        np.testing.assert_array_equal(alone, scores)


def test_gauges_alike_share_the_backbones_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    plain = gauge_module._features

    def counted(*given: Any) -> Any:
        passes.append(1)
        return plain(*given)

    monkeypatch.setattr(gauge_module, "_features", counted)
    crops = gauge().manifest.preprocessing.crops(goods(range(700, 708)))
    score_by_each([gauge(), gauge()], crops)
    assert len(passes) == 1
