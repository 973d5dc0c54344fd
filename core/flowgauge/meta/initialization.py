"""Meta-learned parameters as a file, and those that come with the package."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowgauge.domain.errors import SettingsError, SnapshotCorrupt
from flowgauge.domain.messages import FrozenModel
from flowgauge.meta.outer_loop import MetaTraining
from flowgauge.models.backbones import BackboneSpec
from flowgauge.models.detector import Detector
from flowgauge.models.registry import DEFAULT

RELEASED = {
    "featureflow": "5c1434d8756949785dfe44849bf897616fc3ce3ca8b805fe2184c7ce6fe9f231",
    "headflow": "dd133a29281751acbcd406a43c5c641b6c3f41ae1b6008edb57ce288be2cf11d",
}
"""SHA-256 of `DETECTOR.safetensors` beside this module."""

FEW_IMAGES = 16
"""Good images up to which a fit of the default detector starts at the parameters that come with the package: with 8 and
16 it ranks five products better by 0.02 in the mean than a random start does (decision 41). More were not measured."""

_CARD = "card"
# options of the default detector that its flows' parameters depend on
_OF_THE_FLOWS = ("dimensions", "blocks", "hidden", "clamp")


class Card(FrozenModel):
    """How it was made. `config` is the detector's; `lines` name what the tasks were drawn from; `head_loss` is None
    where the detector has no head; `seconds` of the outer loop alone.
    """

    detector: str
    config: dict[str, Any]
    backbone: BackboneSpec
    size: int
    lines: tuple[str, ...]
    training: MetaTraining
    head_loss: float | None
    flow_loss: float
    seconds: float
    software: str


@dataclass(frozen=True)
class MetaInit:
    """`parameters` have the names by which the detector's `load_init` knows them."""

    card: Card
    parameters: dict[str, Tensor]

    def load_into(self, detector: Detector) -> None:
        """Set the parameters of `detector`, which nobody has trained. Raises `SettingsError` for one of another
        kind."""
        remedy = "Use the detector and backbone that they were learned with, or run `flowgauge meta-train` for yours."
        if detector.name != self.card.detector:
            raise SettingsError(
                f"The meta-learned parameters are for {self.card.detector}, not for {detector.name}.", remedy
            )
        try:
            detector.load_init(self.parameters)
        except ValueError as error:
            raise SettingsError(
                f"The meta-learned parameters are for another {detector.name} than this one: {error}.", remedy
            ) from error

    def require_backbone(self, spec: BackboneSpec) -> None:
        """Raises `SettingsError` for other features than those that it was learned on."""
        if spec.sha256 != self.card.backbone.sha256:
            raise SettingsError(
                f"The meta-learned parameters are for features of {self.card.backbone.name}, not of {spec.name}.",
                "Use that backbone, or run `flowgauge meta-train` for yours.",
            )


def write(init: MetaInit, path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in init.parameters.items()}
    save_file(tensors, path, metadata={_CARD: init.card.model_dump_json()})


def read(path: Path) -> MetaInit:
    """Raises `SettingsError` for a file that is not there or holds something else."""
    try:
        with safe_open(path, framework="pt") as file:
            card = Card.model_validate_json((file.metadata() or {})[_CARD])
            return MetaInit(card, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        raise SettingsError(
            f"{path} holds no meta-learned parameters: {error}.", "Give a file that `flowgauge meta-train` wrote."
        ) from error


@cache
def shipped(detector: str) -> MetaInit:
    """Those that come with the package, meta-trained on procedural lines alone: docs/explanation/meta-learned-init.md.

    Raises `SettingsError` for a detector that has none, and `SnapshotCorrupt` where the package's file is not the one
    that was released.
    """
    if detector not in RELEASED:
        raise SettingsError(
            f"No meta-learned parameters of {detector} come with the package.",
            f"Leave --init out, or use one of: {', '.join(RELEASED)}.",
        )
    path = Path(__file__).with_name(f"{detector}.safetensors")
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != RELEASED[detector]:
        raise SnapshotCorrupt(f"{path} is not the file that was released.", "Install flowgauge again.")
    return read(path)


def default_start(detector: Detector, backbone: BackboneSpec, images: int) -> MetaInit | None:
    """The shipped parameters of the default detector, where so few images train that they rank better from there, on
    the features and with the flows that they were learned for.
    """
    if images > FEW_IMAGES or detector.name != DEFAULT:
        return None
    found = shipped(DEFAULT)
    learned = found.card
    same_flows = all(getattr(detector.config, name) == learned.config[name] for name in _OF_THE_FLOWS)
    same_features = (backbone.sha256, backbone.layers) == (learned.backbone.sha256, learned.backbone.layers)
    return found if same_flows and same_features else None
