"""Images per second of a gauge and of its bare backbone, side by side, so that the machine cancels out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median

import torch

from flowgauge.training.gauge import Gauge
from flowgauge.vision.augmentation import PLAIN
from flowgauge.vision.decoding import Picture

BATCH = 16
WARM_UPS = 3
REPETITIONS = 15  # an odd number, so that the median is a time that was measured

Clock = Callable[[], float]


@dataclass(frozen=True)
class Speed:
    """Images per second. The gauge does all that a worker does after decoding, from pixels to predictions, in as many
    views as its detector wants; the backbone gets the same pictures through the same preprocessing once, and its
    features are thrown away.
    """

    gauge: float
    backbone: float

    @property
    def ratio(self) -> float:
        return self.gauge / self.backbone


def side_by_side(gauge: Gauge, pictures: Sequence[Picture], clock: Clock) -> Speed:
    """The median over `REPETITIONS` batches of `BATCH` pictures, the two taking turns after a warm-up.

    `clock` gives seconds. Fewer pictures than a batch are repeated; at least one is needed.
    """
    batch = list(islice(cycle(pictures), BATCH))
    preprocessing = gauge.manifest.preprocessing

    def predict() -> None:
        gauge.predict(batch)

    def features() -> None:
        gauge.backbone(preprocessing.normalised(preprocessing.crops(batch), PLAIN))

    for _ in range(WARM_UPS):
        predict()
        features()
    turns = [(_seconds(predict, clock), _seconds(features, clock)) for _ in range(REPETITIONS)]
    testing, passing = (median(times) for times in zip(*turns, strict=True))
    return Speed(BATCH / testing, BATCH / passing)


def _seconds(work: Callable[[], None], clock: Clock) -> float:
    _warm_up()
    start = clock()
    work()
    _warm_up()
    return clock() - start


def _warm_up() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
