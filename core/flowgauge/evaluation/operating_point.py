"""What a threshold costs: the false alarms, misses and reviews that it would give, each with an interval.

An image whose score lies above the threshold is an alarm; inside the threshold's interval, low to high, it goes to a
person. False alarms are counted on good images that did not train what scored them: the fit's calibration scores, and
labelled good images that the gauge itself scored. Misses are counted on labelled defects, and on nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.intervals import (
    REPLICATES,
    Interval,
    Share,
    draw,
    exact_share,
    interval,
    prediction_interval,
    propagated,
)
from flowgauge.evaluation.metrics import Floats
from flowgauge.training.thresholds import Threshold

THOUSAND = 1_000
"""Parts that shares are told of: people compare counts of a thousand parts, not decimals."""

RATES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001)
"""False-alarm rates whose thresholds are shown where nobody names any: from more than any line bears to fewer than most
lines can check."""

_DIFFERENT = 0.1
"""p value of the Kolmogorov-Smirnov test below which calibration and labelled scores are not pooled. Lower, and scores
of cross-fitting that lie off the gauge's own bias the estimate; higher, and agreeing ones are thrown away."""


@dataclass(frozen=True)
class Scored:
    """Scores (N,) of images, and the number (N,) of the part that each shows."""

    scores: Floats
    part: NDArray[np.intp]

    @classmethod
    def of(cls, scores: Sequence[float], parts: Sequence[str]) -> "Scored":
        return cls(np.array(scores, np.float64), np.unique(np.array(parts), return_inverse=True)[1])

    def __len__(self) -> int:
        return len(self.scores)

    def with_others(self, other: "Scored") -> "Scored":
        """Both; no part of one is a part of the other."""
        after = self.part.max() + 1 if len(self) else 0
        return Scored(np.concatenate([self.scores, other.scores]), np.concatenate([self.part, after + other.part]))


def good_scores(threshold: Threshold, labelled: Scored) -> tuple[Scored, bool]:
    """The scores that tell a gauge's false alarms, and whether its calibration scores are among them.

    The calibration scores are cross-fitted: detectors that saw a part of the images gave them. They are pooled with the
    labelled images' own scores unless the two differ (test, then pool: Viele et al., Pharmaceutical Statistics 2014);
    then the labelled ones count alone, because the gauge itself gave them.
    """
    clean = threshold.calibration_scores
    calibration = Scored(clean.scores, clean.part)
    if len(labelled) and stats.ks_2samp(clean.scores, labelled.scores).pvalue < _DIFFERENT:
        return labelled, False
    return calibration.with_others(labelled), True


class Costs(FrozenModel):
    """What a false alarm, a missed defect and a person's look at an image cost, in one unit."""

    false_alarm: float = Field(ge=0)
    miss: float = Field(ge=0)
    review: float = Field(0, ge=0)


class Expected(FrozenModel):
    """How many of `parts` further parts: the mean, and its 95 % prediction interval."""

    parts: float
    mean: float
    interval: Interval


class OperatingPoint(FrozenModel):
    """What a threshold would give. `promised` is the false-alarm rate that the calibration scores imply.

    `misses` is None where no defect is labelled: it cannot be known then. `flagged_passed` of `flagged` labelled
    defects that the gauge had flagged would pass: they were labelled because of their scores, so they tell what a
    higher threshold loses and nothing of what is lost already. `review` is the share of the line's images inside the
    band, None where none is archived. `cost` is of 1,000 parts.
    """

    threshold: float
    low: float
    high: float
    promised: float
    false_alarms: Share
    misses: Share | None
    flagged: int
    flagged_passed: int
    review: float | None
    cost: float | None = None
    cost_interval: Interval | None = None

    def false_alarms_among(self, good_parts: float) -> Expected:
        return _expected(self.false_alarms, good_parts)

    def misses_among(self, defective_parts: float) -> Expected | None:
        return None if self.misses is None else _expected(self.misses, defective_parts)


def _expected(share: Share, parts: float) -> Expected:
    low, high = prediction_interval(share, max(1, round(parts)))
    return Expected(parts=parts, mean=parts * share.mean, interval=(parts * low, parts * high))


@dataclass(frozen=True)
class Evidence:
    """What is known of a line. `threshold` is its gauge's; `good` and `defects` are labelled images that were not
    chosen by their scores, `flagged` defects that were. `recent` (N,) are archived scores of the gauge. `defect_rate`
    is the share of defective parts; it and `costs` are None where nobody told them.
    """

    threshold: Threshold
    good: Scored
    defects: Scored
    flagged: Floats
    recent: Floats
    defect_rate: float | None = None
    costs: Costs | None = None

    @cached_property
    def counted(self) -> tuple[Scored, bool]:
        """`good_scores` of this line."""
        return good_scores(self.threshold, self.good)

    def at(self, value: float) -> OperatingPoint:
        """The price of a threshold at `value`, which is finite."""
        limit = self.threshold if value == self.threshold.value else self.threshold.placed_at(value)
        good, _ = self.counted
        false_alarms = exact_share(good.scores > value, good.part)
        misses = exact_share(self.defects.scores <= value, self.defects.part) if len(self.defects) else None
        inside = (self.recent >= limit.low) & (self.recent <= limit.high)
        made = OperatingPoint(
            threshold=value,
            low=limit.low,
            high=limit.high,
            promised=self.threshold.calibration_scores.rate_at(value),
            false_alarms=false_alarms,
            misses=misses,
            flagged=len(self.flagged),
            flagged_passed=int((self.flagged <= value).sum()),
            review=float(inside.mean()) if len(self.recent) else None,
        )
        return self._priced(made)

    def _priced(self, point: OperatingPoint) -> OperatingPoint:
        costs, rate, misses = self.costs, self.defect_rate, point.misses
        if costs is None or rate is None or misses is None:
            return point

        def cost(false_alarms: float, missed: float) -> float:
            alarms, passed = (1 - rate) * false_alarms * costs.false_alarm, rate * missed * costs.miss
            return THOUSAND * (alarms + passed + (point.review or 0.0) * costs.review)

        mean = cost(point.false_alarms.mean, misses.mean)
        ends = propagated(cost, mean, point.false_alarms, misses)
        return point.model_copy(update={"cost": mean, "cost_interval": ends})

    def shown(self, values: Sequence[float] = ()) -> list[OperatingPoint]:
        """The prices of the gauge's threshold, of `values`, and of `RATES` where there are none; in ascending order."""
        clean = self.threshold.calibration_scores
        wanted = {self.threshold.value, *(values or map(clean.at, RATES))}
        return [self.at(value) for value in sorted(wanted)]

    def cheapest(self, points: Sequence[OperatingPoint], *, seed: int = 0) -> tuple[OperatingPoint, Interval] | None:
        """Of `points`, the one that costs least, and the 95 % interval of where the least lies when the parts are drawn
        anew (bootstrap); None where no cost is known.
        """
        costs, rate = self.costs, self.defect_rate
        priced = [point for point in points if point.cost is not None]
        if not priced or costs is None or rate is None:
            return None
        values = np.array([point.threshold for point in priced])
        reviews = np.array([point.review or 0.0 for point in priced]) * costs.review
        good, _ = self.counted
        alarms, passed = good.scores[:, None] > values, self.defects.scores[:, None] <= values
        generator, least = np.random.default_rng(seed), []
        for _ in range(REPLICATES):
            false_alarms, missed = _drawn(generator, good.part) @ alarms, _drawn(generator, self.defects.part) @ passed
            total = (1 - rate) * costs.false_alarm * false_alarms + rate * costs.miss * missed + reviews
            least.append(values[int(total.argmin())])
        return min(priced, key=lambda point: point.cost or 0.0), interval(np.array(least))


def _drawn(generator: np.random.Generator, part: NDArray[np.intp]) -> Floats:
    """How much each image (N,) weighs when the parts are drawn with replacement; the weights sum to 1."""
    counts = draw(generator, np.zeros(part.max() + 1, np.intp))[part]
    return np.asarray(counts / counts.sum())
