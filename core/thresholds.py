"""Where good ends: thresholds from unlabelled scores, how sure they are, and the scale of a line's scores."""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from core.messages import Part

Scores = NDArray[np.float64]

_MAD_TO_SIGMA = 1.4826


class Rule(StrEnum):
    """`iqr`: T = Q3 + k (Q3 - Q1) (RAD, arXiv 2508.17789; 2503.01569); holds up to about 20 % contamination.

    `one-sided`: T = median + k (median - Q1): only the clean half speaks, so it holds up to 50 %.
    """

    IQR = "iqr"
    ONE_SIDED = "one-sided"


def cut(scores: Scores, rule: Rule, k: float) -> float:
    """The threshold T that `rule` puts on `scores` (n,), n >= 1; above it is anomalous."""
    q1, median, q3 = np.quantile(scores, (0.25, 0.5, 0.75))
    if rule is Rule.IQR:
        return float(q3 + k * (q3 - q1))
    return float(median + k * (median - q1))


def equivalent_k(scores: Scores, threshold: float) -> float:
    """The k with which the one-sided rule puts `threshold` on `scores`: how a clean sample's skew is handed on."""
    q1, median = np.quantile(scores, (0.25, 0.5))
    return float((threshold - median) / max(median - q1, 1e-9))


def bootstrap_interval(
    scores: Scores, rule: Rule, k: float, *, seed: int, groups: Sequence[str] | None = None, rounds: int = 400
) -> tuple[float, float]:
    """The 95 % interval of T when the images (or whole groups of them) are drawn anew with replacement."""
    members = _members(len(scores), groups)
    rng = np.random.default_rng(seed)
    cuts = [
        cut(scores[np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])], rule, k)
        for _ in range(rounds)
    ]
    low, high = np.quantile(cuts, (0.025, 0.975))
    return float(low), float(high)


def _members(count: int, groups: Sequence[str] | None) -> list[NDArray[np.intp]]:
    if groups is None:
        return [np.array([index]) for index in range(count)]
    names = np.asarray(groups)
    return [np.flatnonzero(names == name) for name in dict.fromkeys(groups)]


class Threshold(Part):
    """`value` with its bootstrap interval, inside which a score is for review.

    `false_alarm_share` is that of good images which neither fitted the detector nor set the threshold, in [0, 1].
    `clean_half_k` is the k with which the one-sided rule puts the same threshold on these scores: an adaptation, whose
    images may hold defects, goes on with that.
    """

    value: float
    low: float
    high: float
    rule: Rule = Rule.IQR
    k: float = 1.5
    clean_half_k: float
    false_alarm_share: float
    images: int

    @classmethod
    def from_folds(
        cls,
        scores: Scores,
        folds: NDArray[np.intp],
        *,
        rule: Rule,
        k: float,
        seed: int,
        groups: Sequence[str] | None = None,
    ) -> "Threshold":
        """From cross-fitted scores (n,) and the fold (n,) in which each image was held out."""
        low, high = bootstrap_interval(scores, rule, k, seed=seed, groups=groups)
        alarms = np.concatenate([scores[folds == f] > cut(scores[folds != f], rule, k) for f in np.unique(folds)])
        value = cut(scores, rule, k)
        return cls(
            value=value,
            low=low,
            high=high,
            rule=rule,
            k=k,
            clean_half_k=equivalent_k(scores, value),
            false_alarm_share=float(alarms.mean()),
            images=len(scores),
        )

    def handed_on(
        self, scores: Scores, folds: NDArray[np.intp], *, seed: int, groups: Sequence[str] | None = None
    ) -> "Threshold":
        """That of a gauge which was adapted from the one with this threshold, whose scores (n,) may hold defects'.

        Its own rule and the one-sided rule with the equivalent k agree on clean scores of the same skew. Defects lift
        both, the first where they are many and the second where they have moved the median; so the lower one holds.
        """
        rules = ((self.rule, self.k), (Rule.ONE_SIDED, self.clean_half_k))
        rule, k = min(rules, key=lambda each: cut(scores, *each))
        lower = Threshold.from_folds(scores, folds, rule=rule, k=k, seed=seed, groups=groups)
        return lower.model_copy(update={"clean_half_k": self.clean_half_k})


class Calibration(Part):
    """The scale of a line's good scores: `standardise` gives 0 at their median and 1 per robust deviation.

    The deviation is that of the lower half (1.4826 times the median absolute deviation below the median), which
    defects among the images do not widen.
    """

    median: float
    deviation: float = Field(gt=0)

    @classmethod
    def of(cls, scores: Scores) -> "Calibration":
        median = float(np.median(scores))
        below = scores[scores <= median]
        deviation = _MAD_TO_SIGMA * float(np.median(median - below)) if len(below) else 0.0
        return cls(median=median, deviation=max(deviation, 1e-6))

    def standardise(self, score: float) -> float:
        return (score - self.median) / self.deviation


def fold_of(groups: Sequence[str], folds: int) -> NDArray[np.intp]:
    """The fold (n,) of each image: groups stay whole and, in the order given, contiguous (blocked by time)."""
    names = {name: rank for rank, name in enumerate(dict.fromkeys(groups))}
    ranks = np.array([names[group] for group in groups])
    return np.asarray(ranks * folds // len(names), dtype=np.intp)
