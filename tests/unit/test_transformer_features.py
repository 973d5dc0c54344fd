"""Detectors on a vision transformer: several levels of one stride, on a grid that is not size / stride."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from flowgauge.models.backbones import BackboneSpec
from flowgauge.models.detector import FeatureShape
from flowgauge.models.registry import DETECTORS, FROM_LABELS, FROM_PIXELS
from flowgauge.training.fit import FitSettings, fit
from flowgauge.training.snapshot import load, save
from flowgauge.vision.preprocessing import Preprocessing
from tests.support.gauges import AT, QUICK, defects, goods

NAMES = sorted(set(DETECTORS) - FROM_PIXELS)
CONFIGS = QUICK | {
    "csflow": {"blocks": 1, "hidden": 4, "training": {"steps": 4, "batch": 16, "check_every": 2}},
    "rad": {"blocks": 1, "hidden": 8, "training": {"steps": 10, "batch": 64, "check_every": 5}},
    "multidirectional": {"episodes": 1, "batch": 4},
}
SIZE = 96
MODEL = "vit_small_patch14_dinov2"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random ones, as a file."""
    path = tmp_path_factory.mktemp("weights") / f"{MODEL}.random.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model(MODEL).state_dict(), path)
    return path


@pytest.mark.parametrize("layers", [(0,), (0, 1)], ids=["one", "two"])
@pytest.mark.parametrize("detector", NAMES)
def test_a_gauge_is_fitted_and_scores_after_loading_as_before(
    detector: str, layers: tuple[int, ...], weights: Path
) -> None:
    spec = BackboneSpec.from_file(weights).model_copy(update={"layers": layers})
    settings = FitSettings(
        detector=detector, config=CONFIGS[detector], backbone=spec, preprocessing=Preprocessing(size=SIZE)
    )
    labelled = [(picture, "") for picture in defects(range(60, 64))] if detector in FROM_LABELS else []
    gauge = fit(goods(range(12)), line="press-3", settings=settings, at=AT, labelled=labelled)
    assert gauge.backbone.shape(SIZE).sides == (7,) * len(layers), "96 pixels are nearest to 7 patches of 14"
    snapshot = save(gauge)
    again = load(snapshot.manifest, snapshot.weights)
    pictures = goods(range(40, 42)) + defects(range(50, 52))
    ours, theirs = gauge.predict(pictures), again.predict(pictures)
    assert [j.score for j in ours] == [j.score for j in theirs]
    assert ours[0].anomaly_map.shape == gauge.detector.grid
    assert gauge.detector.grid == (7, 7)


def test_levels_of_one_stride_have_names_of_their_own_and_the_deepest_is_the_coarsest() -> None:
    shape = FeatureShape((4, 5, 6), (14, 14, 28), 256, (18, 18, 9))
    assert shape.keys == ("layer0_stride14", "layer1_stride14", "stride28")
    assert (shape.coarsest, shape.grid) == (2, 1)
    assert FeatureShape((4, 5), (14, 14), 256, (18, 18)).coarsest == 1


def test_sides_left_out_are_those_of_a_pyramid_and_names_as_they_always_were() -> None:
    shape = FeatureShape((4, 6, 8), (4, 8, 16), 72)
    assert shape.sides == (18, 9, 5)
    assert shape.keys == ("stride4", "stride8", "stride16")
