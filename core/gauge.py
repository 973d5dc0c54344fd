"""A gauge: what a worker scores with. Frozen backbone + detector + threshold + calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.images import Picture
from core.messages import Decision, Region


@dataclass(frozen=True)
class Judgement:
    """What a gauge says of one picture.

    `score`: anomaly score in nats per dimension, higher is more anomalous; `standard_score`: the same, 0 at the
    calibration's median and 1 per robust deviation; `anomaly_map`: (h, w) float32 on the gauge's grid, squashed to the
    whole original image, 0 at the typical good patch, higher is more anomalous; `map_ceiling`: the map's value that
    the threshold would have (for drawing); `peak`: its highest place, x and y as shares of width and height.
    """

    score: float
    standard_score: float
    threshold: float
    decision: Decision
    reasons: tuple[str, ...]
    regions: tuple[Region, ...]
    anomaly_map: NDArray[np.float32]
    map_ceiling: float
    peak: tuple[float, float]


class Gauge:
    line: str
    version: str
    detector_name: str

    def judge(self, pictures: Sequence[Picture]) -> list[Judgement]:
        """One judgement per picture, in order; a picture's judgement does not depend on its neighbours."""
        raise NotImplementedError
