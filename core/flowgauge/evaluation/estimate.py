"""What a factory will see, estimated from repeated splits. The field names are the keys of its JSON."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
from pydantic import Field

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.bootstrap import Interval
from flowgauge.evaluation.choices import Costs
from flowgauge.evaluation.intervals import Share, ShareOfImages, corrected, plain, propagated
from flowgauge.evaluation.metrics import Floats, Ramps


class Repeat(FrozenModel):
    """One split, one detector, one threshold. `good` and `defect`: the scores of the images that judged, by name; a
    score above `threshold` is an alarm. `median` and `deviation` are those of the good images that chose the threshold:
    the detector's own scale. `idle`: good images left out, for they show parts of the halves.
    """

    seed: int
    threshold: float
    median: float
    deviation: float = Field(gt=0)
    good: dict[str, float] = Field(min_length=1)
    defect: dict[str, float] = Field(min_length=1)
    train_images: int
    idle: int
    seconds: float

    @property
    def false_alarm_share(self) -> float:
        return float(np.mean([score > self.threshold for score in self.good.values()]))

    @property
    def miss_share(self) -> float:
        return float(np.mean([score <= self.threshold for score in self.defect.values()]))

    @property
    def image_auroc(self) -> float:
        """The chance that a judged defect scores above a judged good image."""
        return Ramps.of(np.array([*self.defect.values()]), np.array([*self.good.values()])).area()

    def standardised(self, score: float) -> float:
        """In deviations of good scores from their median: comparable between repeats."""
        return (score - self.median) / self.deviation


class Figure(FrozenModel):
    """`mean` and `spread` (sample deviation) over repeats; `interval`: 95 %, for the mean over the repeats' detectors
    and thresholds on parts never seen; `plain_interval`: what a t interval would claim.
    """

    mean: float
    spread: float
    interval: Interval
    plain_interval: Interval
    corrected_interval: Interval


class Estimate(FrozenModel):
    """Shares in [0, 1]. `precision` and `f1` are as among equally many good and defective parts; `cost_per_1000` is at
    the assumed prevalence.
    """

    repeats: int
    false_alarm_share: Figure
    miss_share: Figure
    recall: Figure
    balanced_accuracy: Figure
    precision: Figure
    f1: Figure
    cost_per_1000: Figure
    image_auroc: Figure
    threshold: Figure
    false_alarms: Share
    misses: Share

    def figures(self) -> dict[str, Figure]:
        return {name: value for name, value in self if isinstance(value, Figure)}


Groups = Mapping[str, str]
_OfShares = Callable[[float, float], float]


def balanced_accuracy(false_alarms: float, misses: float) -> float:
    return 1 - (false_alarms + misses) / 2


def precision(false_alarms: float, misses: float) -> float:
    """Of alarms among equally many good and defective parts, the share that is right; 1 where there are no alarms."""
    found = 1 - misses
    return found / (found + false_alarms) if found + false_alarms else 1.0


def f1(false_alarms: float, misses: float) -> float:
    found = 1 - misses
    return 2 * found / (1 + found + false_alarms)


def estimated(repeats: Sequence[Repeat], groups: Groups, costs: Costs, good_images: int) -> Estimate:
    """From at least two repeats. `groups` names each judged image's part; `good_images`: how many good ones the data
    set has that may judge.
    """
    false_alarms, misses = _shares(repeats, groups)
    halves = _Halves(repeats, false_alarms, misses)
    good_parts = len(repeats[0].good)
    return Estimate(
        repeats=len(repeats),
        false_alarm_share=halves.figure(lambda p, q: p, good_parts / max(1, good_images - good_parts)),
        miss_share=halves.figure(lambda p, q: q),
        recall=halves.figure(lambda p, q: 1 - q),
        balanced_accuracy=halves.figure(balanced_accuracy),
        precision=halves.figure(precision),
        f1=halves.figure(f1),
        cost_per_1000=halves.figure(costs.per_1000, within=(0.0, np.inf)),
        image_auroc=_spread_alone([repeat.image_auroc for repeat in repeats], (0.0, 1.0)),
        threshold=_spread_alone([repeat.standardised(repeat.threshold) for repeat in repeats], (-np.inf, np.inf)),
        false_alarms=false_alarms,
        misses=misses,
    )


def _shares(repeats: Sequence[Repeat], groups: Groups) -> tuple[Share, Share]:
    good = [{name: score > r.threshold for name, score in r.good.items()} for r in repeats]
    defect = [{name: score <= r.threshold for name, score in r.defect.items()} for r in repeats]
    return _share(good, groups), _share(defect, groups)


def _share(erred: Sequence[Mapping[str, bool]], groups: Groups) -> Share:
    names = sorted(set(chain.from_iterable(erred)))
    table = np.array([[float(row[name]) if name in row else np.nan for name in names] for row in erred])
    numbers = np.unique([groups[name] for name in names], return_inverse=True)[1]
    return ShareOfImages(table, numbers).share()


_DEFECT_HALVES = 1.0  # n2 / n1 of the defects: half of them judge, the other half chose


class _Halves:
    """Figures that follow from both shares."""

    def __init__(self, repeats: Sequence[Repeat], false_alarms: Share, misses: Share) -> None:
        self._pairs = [(repeat.false_alarm_share, repeat.miss_share) for repeat in repeats]
        self._shares = false_alarms, misses

    def figure(self, figure: _OfShares, test_to_train: float = _DEFECT_HALVES, within: Interval = (0.0, 1.0)) -> Figure:
        values = [figure(p, q) for p, q in self._pairs]
        ends = propagated(figure, float(np.mean(values)), *self._shares)
        return _figure(values, ends, test_to_train, within)


def _spread_alone(values: Sequence[float], within: Interval) -> Figure:
    """A figure that is no function of the shares has Nadeau and Bengio's interval."""
    return _figure(values, corrected(values, _DEFECT_HALVES), _DEFECT_HALVES, within)


def _figure(values: Sequence[float], interval: Interval, test_to_train: float, within: Interval) -> Figure:
    def kept(ends: Interval) -> Interval:
        low, high = np.clip(ends, *within)
        return float(low), float(high)

    return Figure(
        mean=float(np.mean(values)),
        spread=float(np.std(values, ddof=1)),
        interval=kept(interval),
        plain_interval=kept(plain(values)),
        corrected_interval=kept(corrected(values, test_to_train)),
    )


def standardised_scores(repeats: Sequence[Repeat]) -> tuple[Floats, Floats]:
    """Of all judged good images, and of all judged defects, in deviations from the median of good ones."""
    good = [r.standardised(score) for r in repeats for score in r.good.values()]
    defect = [r.standardised(score) for r in repeats for score in r.defect.values()]
    return np.array(good), np.array(defect)
