"""Detectors by name. One more detector is one more line here."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from flowgauge.domain.errors import SettingsError
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.problems import problems
from flowgauge.models.csflow.detector import CsFlow, CsFlowConfig
from flowgauge.models.detector import Detector, FeatureShape
from flowgauge.models.featureflow.detector import FeatureFlow, FeatureFlowConfig
from flowgauge.models.glass.detector import Glass, GlassConfig
from flowgauge.models.headflow.detector import HeadFlow, HeadFlowConfig
from flowgauge.models.lamp.detector import Lamp, LampConfig
from flowgauge.models.multidirectional.detector import Multidirectional, MultidirectionalConfig
from flowgauge.models.rad.detector import Rad, RadConfig

DETECTORS: dict[str, tuple[Callable[..., Detector], type[FrozenModel]]] = {
    FeatureFlow.name: (FeatureFlow, FeatureFlowConfig),
    HeadFlow.name: (HeadFlow, HeadFlowConfig),
    Rad.name: (Rad, RadConfig),
    CsFlow.name: (CsFlow, CsFlowConfig),
    Glass.name: (Glass, GlassConfig),
    Lamp.name: (Lamp, LampConfig),
    Multidirectional.name: (Multidirectional, MultidirectionalConfig),
}
DEFAULT = FeatureFlow.name
FROM_PIXELS = frozenset({Lamp.name})
"""Detectors whose backbone is the identity."""
FROM_LABELS = frozenset({Multidirectional.name})
"""Detectors that learn from defects which people have labelled."""


def offer(kind: type[Detector], schema: type[FrozenModel]) -> None:
    """Make a detector from outside core known by its name, for as long as this process runs: `create` makes it, and its
    snapshots load. It is constructed with a validated `schema` and a `FeatureShape`; offering it again changes nothing.

    Raises `ValueError` for a name that another detector has.
    """
    if DETECTORS.setdefault(kind.name, (kind, schema)) != (kind, schema):
        raise ValueError(f"{kind.name} is the name of another detector")


def known(name: str) -> tuple[Callable[..., Detector], type[FrozenModel]]:
    """The detector of that name and the schema of its options. Raises `SettingsError` where there is none."""
    if name not in DETECTORS:
        raise SettingsError(f"There is no detector {name!r}.", f"Choose one of {', '.join(DETECTORS)}.")
    return DETECTORS[name]


def create(name: str, config: Mapping[str, Any], shape: FeatureShape) -> Detector:
    """An untrained detector for features of `shape`.

    Raises `SettingsError` for an unknown name or a configuration that its detector refuses.
    """
    kind, schema = known(name)
    try:
        return kind(schema.model_validate(_over_defaults(schema, config)), shape)
    except ValidationError as error:
        raise SettingsError(
            f"The options of {name} do not hold: {problems(error)}.", "`--set help` lists them."
        ) from error


def _over_defaults(schema: type[BaseModel], config: Mapping[str, Any]) -> dict[str, Any]:
    """`config`, whose nested options keep what it leaves out as `schema` has it, and not as their own class does: of
    `training.noise` alone, the steps stay those of this detector.
    """
    defaults = {name: field.get_default(call_default_factory=True) for name, field in schema.model_fields.items()}
    return {name: _merged(defaults.get(name), value) for name, value in config.items()}


def _merged(default: object, given: object) -> object:
    if not (isinstance(default, BaseModel) and isinstance(given, Mapping)):
        return given
    kept = dict(default)
    return kept | {name: _merged(kept.get(name), value) for name, value in given.items()}
