"""From options to gauges. Loads torch, so commands import it when they run and not before."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from flowgauge.cli.options import Aspect, Bits, Device
from flowgauge.cli.output import warn
from flowgauge.domain.errors import SettingsError
from flowgauge.meta.initialization import MetaInit, read, shipped
from flowgauge.models.backbones import LITE0, PIXELS_SPEC, BackboneSpec
from flowgauge.models.headflow.detector import HeadFlow, ensemble_options
from flowgauge.models.registry import DEFAULT, DETECTORS, FROM_PIXELS
from flowgauge.registry.gauges import Load
from flowgauge.registry.snapshots import active_snapshot, fetch_snapshot
from flowgauge.runtime.backend import Store
from flowgauge.training.fit import FitSettings, embedder_for
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import load
from flowgauge.training.thresholds import FALSE_ALARMS
from flowgauge.vision.decoding import Picture, SixteenBit
from flowgauge.vision.preprocessing import LARGEST, Preprocessing
from flowgauge.vision.preprocessing import Aspect as Rule
from flowgauge.vision.tiling import tiled_side

SHIPPED = "shipped"


@dataclass(frozen=True)
class Model:
    """What a person said about the model; None: the default."""

    detector: str | None
    weights: Path | None
    backbone: str | None
    size: int | None
    aspect: Aspect
    refine: bool = False
    members: int | None = None
    changes: tuple[str, ...] = ()
    layers: str | None = None
    tiles: str | None = None
    false_alarms: float | None = None
    bits: Bits | None = None

    def refining(self) -> "Model":
        """The same for images that nobody has called good."""
        return replace(self, refine=True)

    def settings(self) -> FitSettings:
        """Raises `SettingsError` for what cannot be had."""
        detector = self.detector or DEFAULT
        if self.refine and self.false_alarms is not None:
            raise SettingsError(
                "Images that nobody has called good cannot promise a false-alarm rate.",
                "Leave --false-alarms out, or fit to good images without --filter-outliers and --from-buffer.",
            )
        return FitSettings(
            detector=detector,
            config=self._config(detector),
            backbone=self._backbone(detector),
            preprocessing=self._preprocessing(),
            refine=2 * self.refine,
            false_alarms=FALSE_ALARMS if self.false_alarms is None else self.false_alarms,
        )

    def _config(self, detector: str) -> dict[str, Any]:
        changes = changed(self.changes)
        if changes and detector in DETECTORS:
            require_known(changes, DETECTORS[detector][1], detector)
        return self._ensemble(detector) | changes

    def _ensemble(self, detector: str) -> dict[str, Any]:
        if self.members is None:
            return {}
        if detector != HeadFlow.name:
            raise SettingsError(f"{detector} has no members.", f"Leave --ensemble out, or use {HeadFlow.name}.")
        return ensemble_options(self.members)

    def _backbone(self, detector: str) -> BackboneSpec:
        if detector in FROM_PIXELS:
            if any(option is not None for option in (self.weights, self.backbone, self.layers, self.tiles)):
                raise SettingsError(
                    f"{detector} reads pixels and no features.",
                    "Leave --weights, --backbone, --layers and --tiles out.",
                )
            return PIXELS_SPEC
        if self.weights is not None:
            spec = BackboneSpec.from_file(self.weights, self.backbone)
        else:
            spec = BackboneSpec.named(self.backbone or LITE0)
        tile = self._size if self._tiles > 1 else None
        return spec.model_copy(update={"layers": self._layers, "tile": tile})

    @property
    def _layers(self) -> tuple[int, ...]:
        if self.layers is None:
            return ()
        try:
            return tuple(int(layer) for layer in self.layers.split(","))
        except ValueError as error:
            raise SettingsError(
                f"{self.layers!r} names no layers.", "Write numbers with commas: --layers 5,8,11."
            ) from error

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
        return Preprocessing(
            size=side, aspect=Rule(self.aspect), sixteen_bit=None if self.bits is None else _SIXTEEN_BIT[self.bits]
        )


_SIXTEEN_BIT = {
    Bits.TEN: SixteenBit.TEN_BIT,
    Bits.TWELVE: SixteenBit.TWELVE_BIT,
    Bits.FOURTEEN: SixteenBit.FOURTEEN_BIT,
    Bits.SIXTEEN: SixteenBit.FULL_RANGE,
}


def seeing(settings: FitSettings, pictures: Iterable[Picture]) -> FitSettings:
    """With the rule for 16-bit files that a person gave, or that the training images tell; what it is is said, and so
    is when they are all but black. Looks at each picture once."""
    preprocessing = settings.preprocessing
    lightest, lightest_deep, peak = 0.0, 0.0, None
    for picture in pictures:
        light = max(picture.statistics.brightness, picture.statistics.contrast)
        if picture.deep is None:
            lightest = max(lightest, light)
        else:
            lightest_deep = max(lightest_deep, light * SixteenBit.FULL_RANGE.white)
            peak = max(int(picture.deep.max()), peak or 0)
    if peak is not None:
        rule = preprocessing.sixteen_bit or SixteenBit.holding(peak)
        _tell_bits(rule, peak, given=preprocessing.sixteen_bit is not None)
        preprocessing = preprocessing.model_copy(update={"sixteen_bit": rule})
        lightest = max(lightest, lightest_deep / rule.white)
    if lightest < _BLACK:
        warn("All training images are nearly black. Check the exposure, the lens cap and --bits.")
    return settings.model_copy(update={"preprocessing": preprocessing})


def _tell_bits(rule: SixteenBit, peak: int, *, given: bool) -> None:
    message = f"16-bit files are read as {rule}, 0 to {rule.white}; the brightest training value is {peak}."
    if not given:
        warn(f"{message} If the camera has more bits than its images show, give --bits.")
    elif peak > rule.white:
        warn(f"{message} What is brighter is clipped: these images need {SixteenBit.holding(peak)}; check --bits.")


_BLACK = 0.03
"""Of mean and deviation, in [0, 1]: 8 of 255 levels. With more, dark-field images would be warned of; with less, 12
bits in a 16-bit file, which reach 16 levels, would not."""


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
        branch[last] = _value(value)
    return found


def require_known(changes: Mapping[str, Any], schema: type[BaseModel], of: str) -> None:
    """Raises `SettingsError` for a name that `schema` does not have."""
    for name, value in changes.items():
        if name not in schema.model_fields:
            raise SettingsError(f"{of} has no option {name!r}.", f"It has {', '.join(schema.model_fields)}.")
        inner = schema.model_fields[name].annotation
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, BaseModel):
            require_known(value, inner, f"{name} of {of}")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def torch_device(device: Device) -> str:
    """`cpu` or `cuda`. Raises `SettingsError` for a GPU that is not there."""
    if device is Device.AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device is Device.CUDA and not torch.cuda.is_available():
        raise SettingsError("There is no GPU that torch can use.", "Use --device cpu, or check the driver.")
    return device.value


def stored_gauge(store: Store, line: str, version: str | None, device: Device) -> Gauge:
    """The gauge of that version; None stands for the active one.

    Raises `GaugeMissing` where there is none and `SnapshotInvalid` for one that must not be loaded.
    """
    if version is not None:
        files = fetch_snapshot(store.objects, line, version)
        return load(files.manifest, files.weights, device=torch_device(device))
    active = active_snapshot(store.log, line)
    files = fetch_snapshot(store.objects, line, active.version)
    return load(files.manifest, files.weights, device=torch_device(device), sha256=active.sha256)


def start_at(init: str) -> MetaInit:
    """Of a file, or those that come with the package. Raises `SettingsError` for a file of something else."""
    return shipped() if init == SHIPPED else read(Path(init))


def fitting_start(init: str, settings: FitSettings, device: str) -> MetaInit:
    """The same, for a detector of `settings`. Raises `SettingsError` where it is of another detector or backbone."""
    found, embedder = start_at(init), embedder_for(settings, device)
    found.require_backbone(embedder.backbone.spec)
    found.load_into(embedder.detector)
    return found


def loading(device: Device) -> Load:
    """How a stream makes a gauge of a snapshot."""
    return partial(load, device=torch_device(device))
