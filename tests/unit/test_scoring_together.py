"""Several gauges score the same images: what they share is computed once, and nothing else changes."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

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


def test_a_picture_that_two_gauges_predict_goes_through_the_backbone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    plain = gauge_module._features

    def counted(gauge: Any, crops: Any) -> Any:
        passed.append(len(crops))
        return plain(gauge, crops)

    active = gauge("headflow")
    # as an adaptation leaves it: another detector on the same backbone
    candidate = gauge_module.Gauge(active.manifest, active.backbone, deepcopy(active.detector), active.probes)
    with torch.no_grad():
        for parameter in candidate.detector.parameters():
            parameter.mul_(0.9)
    pictures = goods(range(700, 708))
    alone = active.predict(pictures), candidate.predict(pictures)
    monkeypatch.setattr(gauge_module, "_features", counted)
    items = [(active, picture) for picture in pictures] + [(candidate, picture) for picture in pictures[::2]]
    found = active.predict_each(items)
    assert passed == [8]
    assert [each.score for each in found] == [
        *(each.score for each in alone[0]),
        *(pytest.approx(each.score, rel=1e-4) for each in alone[1][::2]),
    ]
    assert [each.decision for each in found[8:]] == [each.decision for each in alone[1][::2]]
    assert all(each.seconds > 0 for each in found)
