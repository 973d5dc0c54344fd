"""The manifest: everything that a verdict depends on, in one validated JSON document beside the weights."""

from typing import Any

from pydantic import AwareDatetime, Field

from flowgauge.domain.messages import FrozenModel, Line, Message, Statistics
from flowgauge.domain.trace import AdaptationTrace, GateReport
from flowgauge.models.backbones import BackboneSpec
from flowgauge.training.thresholds import Calibration, Threshold
from flowgauge.vision.flat_field import FlatField, Illumination
from flowgauge.vision.preprocessing import Preprocessing

MANIFEST_SCHEMA = 6


class Range(FrozenModel):
    """Where a statistic of the line's images lay when the gauge was calibrated, with some room on both sides."""

    low: float
    high: float


class Ranges(FrozenModel):
    """Images whose light, contrast or focus leave these are for review: the gauge has not seen the like."""

    brightness: Range
    contrast: Range
    focus: Range

    def left_by(self, statistics: Statistics) -> tuple[str, ...]:
        """One sentence for each statistic that lies outside."""
        return tuple(
            f"{name} {value:.3g} outside the calibrated {bounds.low:.3g} to {bounds.high:.3g}"
            for name, bounds in self
            if not bounds.low <= (value := getattr(statistics, name)) <= bounds.high
        )


class DetectorSpec(FrozenModel):
    name: str
    config: dict[str, Any]


class MapScale(FrozenModel):
    """The scale of the anomaly map: 0 at the typical good place; `level` is where a region begins to be anomalous."""

    calibration: Calibration
    level: float


class Manifest(Message):
    """`anchor` is the version that a person fitted, which every adaptation starts from; for a fitted gauge it is its
    own `version`. `parent` was active when an adaptation began: lineage, nothing else. `illumination` is that of the
    anchor's training images; `flat_field` makes images look as under it, and None leaves them as they are. Images may
    then lie in the anchor's `fit_ranges` too, for its light may come back.
    """

    schema_version: int = MANIFEST_SCHEMA
    line: Line
    version: str = Field(min_length=1)
    anchor: str
    parent: str | None
    created_at: AwareDatetime
    software: str
    seed: int
    images: int
    backbone: BackboneSpec
    preprocessing: Preprocessing
    illumination: Illumination
    flat_field: FlatField | None = None
    detector: DetectorSpec
    threshold: Threshold
    calibration: Calibration
    map_scale: MapScale
    ranges: Ranges
    fit_ranges: Ranges | None = None
    weights_sha256: str
    adaptation: AdaptationTrace | None = None
    gate: GateReport | None = None
