"""--backbone, --layers, --size and --tiles on the command line."""

from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from flowgauge.cli.model import Model
from flowgauge.domain.errors import SettingsError
from flowgauge.models.backbones import BackboneSpec, Origin
from flowgauge.models.registry import DEFAULT
from flowgauge.training.fit import FitSettings
from tests.support.folders import write_plain
from tests.support.shell import Shell


def settings(
    backbone: str | None = None,
    size: int | None = None,
    tiles: str | None = None,
    layers: str | None = None,
    detector: str = DEFAULT,
) -> FitSettings:
    return Model(detector=detector, backbone=backbone, size=size, layers=layers, tiles=tiles).settings()


def test_without_options_the_backbone_is_the_packaged_one_on_whole_images_of_256_pixels() -> None:
    found = settings()
    assert found.backbone == BackboneSpec()
    assert found.preprocessing.size == 256


def test_tiles_enlarge_the_image_and_keep_the_size_for_each_of_them() -> None:
    found = settings(size=224, tiles="3x3")
    assert (found.backbone.tile, found.preprocessing.size) == (224, 544)
    assert settings(tiles="1x1") == settings()


def test_short_names_and_layers_reach_the_spec() -> None:
    spec = settings("dinov2", layers="2,5").backbone
    assert (spec.name, spec.origin, spec.layers) == ("vit_small_patch14_dinov2.lvd142m", Origin.HUB, (2, 5))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tiles": "2"}, "2x2"),
        ({"tiles": "0x0"}, "2x2"),
        ({"tiles": "2x3"}, "as many rows as columns"),
        ({"tiles": "11x11"}, "2048 is the most"),
        ({"size": 250}, "multiple of 32"),
        ({"layers": "5;8"}, "--layers 5,8,11"),
        ({"backbone": "dino"}, "dinov2, dinov3"),
        ({"detector": "lamp", "tiles": "2x2"}, "--tiles out"),
        ({"detector": "lamp", "layers": "1"}, "--layers"),
    ],
)
def test_what_cannot_be_had_says_what_to_write(options: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(**options)  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_a_line_is_fitted_with_a_transformer_of_ones_own_on_tiles(flowgauge: Shell, tmp_path: Path) -> None:
    weights, images = tmp_path / "vit_tiny_patch16_224.mine.safetensors", tmp_path / "good"
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), weights)
    write_plain(images, 12)
    done = flowgauge(
        "fit", images, "--line", "press-3", "--store", tmp_path / "plant", "--weights", weights, "--layers", "0,1",
        "--size", "64", "--tiles", "2x2", "--detector", "multidirectional", "--set", "episodes=0", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "at 96 pixels a side: 6 x 6, 6 x 6" in done.out
