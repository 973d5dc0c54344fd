"""What a gauge offers to scoring: the protocol of a predictor, and a prediction.

Apart from `flowgauge.training.gauge`, so that whoever only passes predictions on need not load the libraries that make
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flowgauge.domain.messages import Decision, Region
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import Crop, Preprocessing


@dataclass(frozen=True)
class Prediction:
    """The result of one picture.

    `score`: anomaly score on the detector's scale, higher is more anomalous; `standard_score`: the same, 0 at the
    calibration's median and 1 per robust deviation; `anomaly_map`: (h, w) float32 on the gauge's grid, over the whole
    original image, 0 at the typical good patch, higher is more anomalous; `map_ceiling`: the map's value from which on
    a patch counts as anomalous; `peak`: the map's highest patch, x and y as shares of width and height; `seconds`: the
    time of its networks, an equal share of each batch's, that of a backbone that other gauges share in full.
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
    seconds: float = 0.0


class Facts(Protocol):
    @property
    def preprocessing(self) -> Preprocessing: ...


class Predictor(Protocol):
    """A gauge as the stream sees it."""

    @property
    def manifest(self) -> Facts: ...

    @property
    def line(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def detector_name(self) -> str: ...

    def seen(self, picture: Picture) -> Picture:
        """As the gauge sees it: 16-bit values by its own rule, and large images reduced."""

    def crop(self, picture: Picture) -> Crop:
        """What the gauge needs of it to learn."""

    def predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        """One prediction per picture, in order; a picture's prediction does not depend on its neighbours."""

    def predict_each(self, items: Sequence[tuple[Any, Picture]]) -> list[Prediction]:
        """The same of pictures and their own gauges, all of this one's kind; those of one backbone share its passes, as
        several do that are to predict one picture.
        """
