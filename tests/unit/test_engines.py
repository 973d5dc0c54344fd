"""Engines beside the reference: agreement, refusal, and what is kept on disk. The GPU's needs a GPU."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flowgauge.domain.choices import Engine
from flowgauge.domain.errors import SettingsError
from flowgauge.engines import openvino
from flowgauge.engines.choice import TOLERANCE, Scoring, chosen, compiled, disagreement
from flowgauge.models.detector import Scores
from flowgauge.training.gauge import Gauge, predict_each
from flowgauge.training.snapshot import load, save
from tests.support import gauges as small
from tests.support.gauges import goods


@pytest.fixture(scope="module")
def gauge() -> Gauge:
    return small.gauge()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def on_openvino(gauge: Gauge, folder: Path) -> Gauge:
    made = compiled(gauge, Engine.OPENVINO, folder)
    assert (made.engine, made.refused) == (Engine.OPENVINO, "")
    return made.gauge


class _Scaled(nn.Module):
    """A network whose outputs are `factor` times another's."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.factor * feature for feature in self.net(images)]


def _unit(gauge: Gauge) -> float:
    return abs(gauge.manifest.threshold.value - gauge.manifest.calibration.median)


def test_openvino_scores_images_that_it_was_not_checked_by_as_torch_does(gauge: Gauge, on_openvino: Gauge) -> None:
    shown = goods(range(40, 44))
    for ours, theirs in zip(gauge.predict(shown), on_openvino.predict(shown), strict=True):
        assert theirs.score == pytest.approx(ours.score, abs=2 * TOLERANCE * _unit(gauge))
        assert theirs.decision is ours.decision
        assert np.corrcoef(theirs.anomaly_map.ravel(), ours.anomaly_map.ravel())[0, 1] > 0.999


def test_gauges_of_one_backbone_share_its_compiled_passes(gauge: Gauge, on_openvino: Gauge, folder: Path) -> None:
    other = compiled(gauge, Engine.OPENVINO, folder).gauge
    assert other.backbone is on_openvino.backbone
    first, second = goods(range(2))
    alone = [on_openvino.predict([first])[0].score, other.predict([second])[0].score]
    together = [each.score for each in predict_each([(on_openvino, first), (other, second)])]
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_gauge_that_was_compiled_is_taken_from_its_folder(
    gauge: Gauge, on_openvino: Gauge, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def converted(*_: object) -> None:
        raise AssertionError("it lies in the folder")

    monkeypatch.setattr(openvino, "_converted", converted)
    openvino._backbone.cache_clear()
    assert compiled(gauge, Engine.OPENVINO, folder).engine is Engine.OPENVINO


def test_a_damaged_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, net = torch.rand(2, 3, 8, 8), nn.Conv2d(3, 4, 3)
    (expected,) = openvino._Network(net, "f32", "net", tmp_path)(images)
    (kept,) = tmp_path.glob("*.blob")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:1000])
    assert torch.equal(openvino._Network(net, "f32", "net", tmp_path)(images)[0], expected)
    assert "is damaged" in caplog.text
    assert len(kept.read_bytes()) == len(whole)


def test_of_too_many_files_those_that_were_used_last_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "_KEPT", 2)
    for age, name in enumerate(("newest", "second", "third", "oldest")):
        kept = tmp_path / f"{name}.blob"
        kept.touch()
        os.utime(kept, (1000 - age, 1000 - age))
    openvino._Network(nn.Conv2d(3, 4, 3), "f32", "net", tmp_path)(torch.rand(1, 3, 8, 8))
    kept_names = {kept.stem for kept in tmp_path.iterdir()}
    assert len(kept_names) == 2
    assert "newest" in kept_names


def test_a_folder_that_takes_nothing_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "engines").write_text("no folder")
    images, net = torch.rand(1, 3, 8, 8), nn.Conv2d(3, 4, 3)
    (found,) = openvino._Network(net, "f32", "net", tmp_path / "engines")(images)
    assert torch.allclose(found, net(images), atol=1e-5)
    assert "cannot be kept" in caplog.text


def test_a_backbone_or_a_detector_that_scores_otherwise_is_refused(gauge: Gauge) -> None:
    off = 2 * TOLERANCE * _unit(gauge)

    def shifted(features: Sequence[Tensor]) -> Scores:
        found = gauge.detector.score(features)
        return Scores(found.image + off, found.maps)

    assert disagreement(gauge, gauge.running_on(gauge.backbone, gauge.detector.score)) == ""
    assert "scores differ by" in disagreement(gauge, gauge.running_on(gauge.backbone, shifted))
    brighter = gauge.backbone.with_net(_Scaled(gauge.backbone.net, 1.2))
    assert "scores differ by" in disagreement(gauge, gauge.running_on(brighter, gauge.detector.score))


def test_a_score_that_is_no_number_is_refused(gauge: Gauge) -> None:
    def unknown(features: Sequence[Tensor]) -> Scores:
        found = gauge.detector.score(features)
        return Scores(found.image * torch.nan, found.maps)

    assert disagreement(gauge, gauge.running_on(gauge.backbone, unknown))


def test_where_no_variant_agrees_torch_scores_and_the_reason_is_given(
    gauge: Gauge, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = gauge.backbone.with_net(_Scaled(gauge.backbone.net, 1.2))
    monkeypatch.setattr(openvino, "variants", lambda *_: (Scoring(gauge.detector), iter([backbone])))
    made = compiled(gauge, Engine.OPENVINO)
    assert (made.gauge, made.engine) == (gauge, Engine.TORCH)
    assert "scores differ by" in made.refused


def test_auto_takes_the_fastest_engine_of_the_device() -> None:
    assert chosen(Engine.AUTO, "cpu") is Engine.OPENVINO
    assert chosen(Engine.AUTO, "cuda") is Engine.CUDAGRAPHS
    assert chosen(Engine.TORCH, "cpu") is Engine.TORCH


@pytest.mark.parametrize(("engine", "device"), [(Engine.CUDAGRAPHS, "cpu"), (Engine.OPENVINO, "cuda")])
def test_an_engine_of_another_device_is_an_error_with_a_remedy(engine: Engine, device: str) -> None:
    with pytest.raises(SettingsError, match="--device"):
        chosen(engine, device)


def test_an_engine_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowgauge.engines.choice.find_spec", lambda _: None)
    assert chosen(Engine.AUTO, "cpu") is Engine.TORCH
    with pytest.raises(SettingsError, match=r"pip install '\.\[openvino\]'"):
        chosen(Engine.OPENVINO, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
def test_cuda_graphs_score_as_torch_does() -> None:
    snapshot = save(small.gauge())
    gauge = load(snapshot.manifest, snapshot.weights, device="cuda")
    made = compiled(gauge, Engine.CUDAGRAPHS)
    assert (made.engine, made.refused) == (Engine.CUDAGRAPHS, "")
    shown = goods(range(40, 43))
    for ours, theirs in zip(gauge.predict(shown), made.gauge.predict(shown), strict=True):
        assert theirs.score == pytest.approx(ours.score, abs=2 * TOLERANCE * _unit(gauge))
