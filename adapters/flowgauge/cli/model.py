"""From options to gauges."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from flowgauge.cli import options
from flowgauge.cli.options import Bits, Device
from flowgauge.cli.output import show
from flowgauge.domain.choices import Aspect, Engine
from flowgauge.domain.errors import SettingsError, UserError
from flowgauge.engines.choice import chosen, compiled
from flowgauge.meta.initialization import default_start, read, shipped
from flowgauge.models.backbones import LITE0, PIXELS_SPEC, BackboneSpec
from flowgauge.models.headflow.detector import HeadFlow, ensemble_options
from flowgauge.models.prediction import Predictor
from flowgauge.models.registry import DEFAULT, DETECTORS, FROM_PIXELS, known
from flowgauge.registry.gauges import Compile, Load
from flowgauge.training.fit import FitSettings, Initialization, Start, at_random, embedder_for
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import MANIFEST_NAME, WEIGHTS_NAME, load
from flowgauge.training.thresholds import FALSE_ALARMS
from flowgauge.vision.decoding import SixteenBit
from flowgauge.vision.preprocessing import LARGEST, Preprocessing
from flowgauge.vision.tiling import tiled_side

SHIPPED, RANDOM = "shipped", "random"
"""Words for --init."""
ENGINE_FOLDER = Path.home() / ".cache" / "flowgauge" / "engines"
"""Where a user's compiled gauges are kept."""


@dataclass(frozen=True)
class FeatureOptions:
    """How images become features: options of every command that has a parameter of this class."""

    weights: options.Weights = None
    backbone: options.Backbone = None
    layers: options.Layers = None
    size: options.Size = None
    tiles: options.Tiles = None
    aspect: options.AspectOption = Aspect.SQUASH

    def model(self, detector: str | None) -> "Model":
        return Model(**vars(self), detector=detector or DEFAULT)


@dataclass(frozen=True)
class FitOptions(FeatureOptions):
    """How a gauge is fitted, besides: options of the commands that fit one."""

    bits: options.BitsOption = None
    refine: options.Refine = False
    false_alarms: options.FalseAlarms = None
    members: options.Members = None
    changes: options.Changes = None


DEFAULT_FEATURES, DEFAULT_FIT = FeatureOptions(), FitOptions()


@dataclass(frozen=True)
class Model(FitOptions):
    """What a person said about the model; None: the default."""

    detector: str = DEFAULT

    def refining(self) -> "Model":
        """The same for images that nobody has called good."""
        return replace(self, refine=True)

    def settings(self) -> FitSettings:
        """Raises `SettingsError` for what cannot be had."""
        if self.refine and self.false_alarms is not None:
            raise SettingsError(
                "Images that nobody has called good cannot promise a false-alarm rate.",
                "Leave --false-alarms out, or fit to good images without --filter-outliers and --from-buffer.",
            )
        return FitSettings(
            detector=self.detector,
            config=self._config(),
            backbone=self._backbone(),
            preprocessing=self._preprocessing(),
            refine=2 * self.refine,
            false_alarms=FALSE_ALARMS if self.false_alarms is None else self.false_alarms,
        )

    def _config(self) -> dict[str, Any]:
        detector, given = self.detector, self.changes or ()
        changes = changed(given)
        if changes and detector in DETECTORS:
            _require_known(changes, DETECTORS[detector][1], detector)
        if self.members is None:
            return changes
        if detector != HeadFlow.name:
            raise SettingsError(
                f"--ensemble is an option of {HeadFlow.name}.", f"Leave it out, or add --detector {HeadFlow.name}."
            )
        return ensemble_options(self.members) | changes

    def _backbone(self) -> BackboneSpec:
        if self.detector in FROM_PIXELS:
            if any(option is not None for option in (self.weights, self.backbone, self.layers, self.tiles)):
                raise SettingsError(
                    f"{self.detector} reads pixels and no features.",
                    "Leave --weights, --backbone, --layers and --tiles out.",
                )
            return PIXELS_SPEC
        if self.weights is not None:
            spec = BackboneSpec.from_file(self.weights, self.backbone)
        else:
            spec = BackboneSpec.named(self.backbone or LITE0)
        try:
            layers = tuple(int(layer) for layer in self.layers.split(",")) if self.layers is not None else ()
        except ValueError as error:
            raise SettingsError(
                f"{self.layers!r} names no layers.", "Write numbers with commas: --layers 5,8,11."
            ) from error
        return spec.model_copy(update={"layers": layers, "tile": self._size if self._tiles > 1 else None})

    @property
    def _size(self) -> int:
        """Of the image, or of each tile."""
        size = Preprocessing().size if self.size is None else self.size
        if size % 32 or not 64 <= size <= LARGEST:
            raise SettingsError(
                f"The size {size} does not suit the backbone.", f"Use a multiple of 32 from 64 to {LARGEST}."
            )
        return size

    @property
    def _tiles(self) -> int:
        """So many rows, and as many columns."""
        rows, _, columns = (self.tiles or "1x1").partition("x")
        if not (rows.isdigit() and columns.isdigit() and int(rows)):
            raise SettingsError(f"{self.tiles!r} are no tiles.", "Write ROWSxCOLUMNS: --tiles 2x2.")
        if rows != columns:
            raise SettingsError(
                f"{self.tiles} tiles make no square, and gauges see squares.", "Give as many rows as columns."
            )
        return int(rows)

    def _preprocessing(self) -> Preprocessing:
        side = tiled_side(self._size, self._tiles)
        if side > LARGEST:
            raise SettingsError(
                f"{self.tiles} tiles of {self._size} pixels make an image of {side} pixels a side.",
                f"Use fewer or smaller ones: {LARGEST} is the most.",
            )
        rule = None
        if self.bits is not None:
            rule = SixteenBit.FULL_RANGE if self.bits is Bits.SIXTEEN else SixteenBit(f"{self.bits}-bit")
        return Preprocessing(size=side, aspect=self.aspect, sixteen_bit=rule)


def changed(changes: Sequence[str]) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}; values are JSON, or words as they are. Raises `SettingsError` for anything else."""
    found: dict[str, Any] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not all(name.split(".")):
            raise SettingsError(f"{change!r} is no NAME=VALUE.", "Write --set hidden=64, or --set synthesis.noise=1.")
        *folders, last = name.split(".")
        branch = found
        for folder in folders:
            branch = branch.setdefault(folder, {})
        try:
            branch[last] = json.loads(value)
        except ValueError:
            branch[last] = value
    return found


def _require_known(changes: Mapping[str, Any], schema: type[BaseModel], of: str) -> None:
    """Raises `SettingsError` for a name that `schema` does not have."""
    for name, value in changes.items():
        if name not in schema.model_fields:
            raise SettingsError(f"{of} has no option {name!r}.", f"It has {', '.join(schema.model_fields)}.")
        inner = schema.model_fields[name].annotation
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, BaseModel):
            _require_known(value, inner, f"{name} of {of}")


def show_options_of(detector: str) -> None:
    """Print the options of a detector. Raises `SettingsError` where there is none of that name."""
    show((f"options of {detector}", "default", ""), _described(known(detector)[1]()))


def _described(options: BaseModel, prefix: str = "") -> Iterator[tuple[str, object, str]]:
    """Name, default and description of each of the options, which are at their defaults; those of an option that has
    some of its own follow it.
    """
    for name, field in type(options).model_fields.items():
        default, described = getattr(options, name), field.description or ""
        if isinstance(default, BaseModel):
            yield f"{prefix}{name}", None, described
            yield from _described(default, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", default, described


def torch_device(device: Device) -> str:
    """`cpu` or `cuda`. Raises `SettingsError` for a GPU that is not there."""
    if device is Device.AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device is Device.CUDA and not torch.cuda.is_available():
        raise SettingsError("There is no GPU that torch can use.", "Use --device cpu, or check the driver.")
    return device.value


def start_at(init: str | None, detector: str) -> Start:
    """At random, at the parameters of a file or at those for `detector` that come with the package; None: as it is best
    for the number of images. Raises `SettingsError` where they are not there or are something else.
    """
    if init is None:
        return default_start
    if init == RANDOM:
        return at_random
    found = shipped(detector) if init == SHIPPED else read(Path(init))
    return lambda detector, backbone, images: found


def init_digest(init: str) -> str:
    """Of what `start_at` reads: results kept under another one are of another start."""
    return init if init in (SHIPPED, RANDOM) else sha256(Path(init).read_bytes()).hexdigest()


def fitting_start(init: str | None, settings: FitSettings, device: str, images: int) -> Initialization | None:
    """Where a fit with `settings` to so many images starts. Raises `SettingsError` where that is of another detector or
    backbone.
    """
    embedder = embedder_for(settings, device)
    found = start_at(init, settings.detector)(embedder.detector, embedder.backbone.spec, images)
    if found is not None:
        found.require_backbone(embedder.backbone.spec)
        found.load_into(embedder.detector)
    return found


def stored_in(folder: Path, device: str) -> Gauge:
    """The gauge of a snapshot's folder. Raises `UserError` where there is none, and as `load` does."""
    try:
        return load((folder / MANIFEST_NAME).read_bytes(), (folder / WEIGHTS_NAME).read_bytes(), device=device)
    except OSError as error:
        raise UserError(
            f"{folder} holds no snapshot: {error.filename} cannot be read ({error.strerror}).",
            f"Give the folder that holds {MANIFEST_NAME} and {WEIGHTS_NAME}.",
        ) from error


def loading(device: Device) -> Load:
    """How a stream makes a gauge of a snapshot."""
    return partial(load, device=torch_device(device))


def compiling(engine: Engine, device: Device, folder: Path | None = None) -> Compile | None:
    """How a gauge comes on that engine; None for torch. Compiled ones are kept in `folder`, the user's own by default.

    Raises `SettingsError` for an engine that is not installed, or is of another device.
    """
    found = chosen(engine, torch_device(device))
    if found is Engine.TORCH:
        return None
    kept = folder or ENGINE_FOLDER

    def compile(gauge: Predictor) -> tuple[Predictor, str]:
        assert isinstance(gauge, Gauge), "made by flowgauge.training.snapshot.load"
        made = compiled(gauge, found, kept)
        return made.gauge, made.refused

    return compile
