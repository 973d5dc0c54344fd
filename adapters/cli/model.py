"""From options to gauges. Loads torch, so commands import it when they run and not before."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from adapters.cli.options import Aspect, Device
from core.backbones import LITE0, PIXELS_SPEC, BackboneSpec, hub_spec
from core.detectors.patchflow import PatchFlow, panel_options
from core.detectors.registry import DEFAULT, DETECTORS, FROM_PIXELS
from core.errors import SettingsError
from core.fitting import FitSettings, embedder_for
from core.gauge import Gauge
from core.meta.theta import Theta, read, shipped
from core.preprocessing import Aspect as Rule
from core.preprocessing import Preprocessing
from core.snapshot import load
from core.thresholds import FALSE_ALARMS
from streams.gauges import Load
from streams.snapshots import active_snapshot, fetch_snapshot
from streams.store import Store

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
    false_alarms: float | None = None

    def refining(self) -> "Model":
        """The same for images that nobody has called good."""
        return replace(self, refine=True)

    def settings(self) -> FitSettings:
        """Raises `SettingsError` for what cannot be had."""
        detector = self.detector or DEFAULT
        if self.refine and self.false_alarms is not None:
            raise SettingsError(
                "Images that nobody has called good cannot promise a false-alarm rate.",
                "Leave --false-alarms out, or fit to good images without --refine and --from-buffer.",
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
        return self._panel(detector) | changes

    def _panel(self, detector: str) -> dict[str, Any]:
        if self.members is None:
            return {}
        if detector != PatchFlow.name:
            raise SettingsError(f"{detector} has no members.", f"Leave --members out, or use {PatchFlow.name}.")
        return panel_options(self.members)

    def _backbone(self, detector: str) -> BackboneSpec:
        if detector in FROM_PIXELS:
            if self.weights is not None or self.backbone is not None:
                raise SettingsError(f"{detector} reads pixels and no features.", "Leave --weights and --backbone out.")
            return PIXELS_SPEC
        if self.weights is not None:
            return BackboneSpec.from_file(self.weights, self.backbone)
        return BackboneSpec() if self.backbone in (None, LITE0) else hub_spec(self.backbone)

    def _preprocessing(self) -> Preprocessing:
        size = Preprocessing().size if self.size is None else self.size
        if size % 32 or not 64 <= size <= 2048:
            raise SettingsError(f"The size {size} does not suit the backbone.", "Use a multiple of 32 from 64 to 2048.")
        return Preprocessing(size=size, aspect=Rule(self.aspect))


def changed(changes: Sequence[str]) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}; values are JSON, or words as they are. Raises `SettingsError` for anything else."""
    found: dict[str, Any] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not all(name.split(".")):
            raise SettingsError(f"{change!r} is no NAME=VALUE.", "Write --set hidden=64, or --set synthesis.noise=1.")
        *folders, last = name.split(".")
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = _value(value)
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


def start_at(theta: str) -> Theta:
    """Of a file, or those that come with the package. Raises `SettingsError` for a file of something else."""
    return shipped() if theta == SHIPPED else read(Path(theta))


def fitting_start(theta: str, settings: FitSettings, device: str) -> Theta:
    """The same, for a detector of `settings`. Raises `SettingsError` where it is of another detector or backbone."""
    found, embedder = start_at(theta), embedder_for(settings, device)
    found.require_backbone(embedder.backbone.spec)
    found.let_begin(embedder.detector)
    return found


def loading(device: Device) -> Load:
    """How a stream makes a gauge of a snapshot."""
    return partial(load, device=torch_device(device))
