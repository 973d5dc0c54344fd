"""Thresholds from labelled scores: above a threshold is an alarm.

Where several thresholds are equally good, the middle one of them is taken; between two scores, the middle between them.
"""

from collections.abc import Callable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flowgauge.domain.messages import FrozenModel

Scores = NDArray[np.float64]


class Choice(StrEnum):
    """`youden`: the most detections less false alarms. `cost`: the least cost per part. `budget`: the lowest threshold
    with an expected share of false alarms within a budget. `own`: the gauge's own, from good images that train alone.
    """

    YOUDEN = "youden"
    COST = "cost"
    BUDGET = "budget"
    OWN = "own"


class Costs(FrozenModel):
    """What errors cost, in any currency, and the share of the line's parts that are defective, in (0, 1)."""

    miss: float = Field(10.0, ge=0)
    false_alarm: float = Field(1.0, ge=0)
    prevalence: float = Field(0.01, gt=0, lt=1)

    def per_1000(self, false_alarm_share: float, miss_share: float) -> float:
        """The expected cost of 1,000 parts."""
        per_false_alarm, per_miss = self.per_share
        return 1000 * (per_false_alarm * false_alarm_share + per_miss * miss_share)

    @property
    def per_share(self) -> tuple[float, float]:
        """What a part costs more if the share of false alarms, or that of misses, goes from 0 to 1."""
        return (1 - self.prevalence) * self.false_alarm, self.prevalence * self.miss


class Chooser(FrozenModel):
    """How the threshold is chosen. `budget`: the share of false alarms that is allowed, in (0, 1)."""

    choice: Choice = Choice.YOUDEN
    costs: Costs = Costs()
    budget: float = Field(0.05, gt=0, lt=1)

    def threshold(self, good: Scores, defect: Scores, own: Callable[[], float]) -> float:
        """From the scores of the half that chooses; `own` gives the gauge's threshold, which takes fits of its own."""
        match self.choice:
            case Choice.YOUDEN:
                return least_cost(good, defect)
            case Choice.COST:
                return least_cost(good, defect, *self.costs.per_share)
            case Choice.BUDGET:
                return within_budget(good, self.budget)
            case Choice.OWN:
                return own()


def least_cost(good: Scores, defect: Scores, per_false_alarm: float = 1.0, per_miss: float = 1.0) -> float:
    """The threshold with the lowest expected cost of `good` (n,) and `defect` (m,) scores, n and m at least 1.

    A cost is per share of errors, 0 to 1: `Costs.per_share`. With equal ones it is the threshold with the highest
    sensitivity + specificity - 1 (Youden, Index for rating diagnostic tests, Cancer 1950).
    """
    scores = np.unique(np.concatenate([good, defect]))
    candidates = np.concatenate([[np.nextafter(scores[0], -np.inf)], (scores[:-1] + scores[1:]) / 2, scores[-1:]])
    false_alarms = 1 - np.searchsorted(np.sort(good), candidates, side="right") / len(good)
    misses = np.searchsorted(np.sort(defect), candidates, side="right") / len(defect)
    cost = per_false_alarm * false_alarms + per_miss * misses
    # sums of fractions that are equal on paper differ by some 1e-16: a wider margin would take worse thresholds too
    best = np.flatnonzero(cost <= cost.min() + 1e-12)
    return float(candidates[best[len(best) // 2]])


def within_budget(good: Scores, budget: float) -> float:
    """The lowest threshold on which a new good part's chance of an alarm is expected to be at most `budget`.

    That is the j-th highest of the n scores, j = floor(budget * (n + 1)): a new score lies above it with chance
    j / (n + 1). With j < 1, n is too small for the budget, and the highest score is taken: see `smallest_budget`.
    """
    rank = max(1, int(budget * (len(good) + 1) + 1e-9))
    return float(np.sort(good)[-min(rank, len(good))])


def smallest_budget(good_images: int) -> float:
    """The smallest budget that so many good images can keep."""
    return 1 / (good_images + 1)
