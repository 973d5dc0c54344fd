"""Thresholds from unlabelled scores: conformal calibration, quartile rules, and the scale of a line's scores.

Scores are higher for more anomalous images and have no unit; an image whose score lies above the threshold T is an
alarm. A false-alarm rate is the share of alarms among new good images, in (0, 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import compress
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import special

from flowgauge.domain.messages import FrozenModel

Scores = NDArray[np.float64]

FALSE_ALARMS = 0.05
"""The default promise. 200 good parts hold it to 2.4 to 8.3 % (95 %), 19 parts support it without a tail model, and ten
of 200 scores lie above T, so that a few mislabelled images move it little. At 0.01 two scores of 200 decide T and 99
parts are needed; above 0.05 people check more good parts than most lines can afford."""

_MAD_TO_SIGMA = 1.4826

_CONFIDENCE_TAIL = 0.025
"""On each side of a 95 % interval."""

_TAIL_PARTS, _TAIL_SHARE = 20, 0.1
"""The tail model is fitted to so many of the highest parts, or to that share if it is more, and to at most half of all.
More parts reach into the bulk, whose shape says nothing of the tail; fewer make its shape a matter of chance."""

_BISECTIONS = 14
"""Of the interval in which a quantile's level is sought. Fewer leave it uncertain by more than one of 10,000 images."""

_SLACK = 1e-6
"""By which sums of weights may be off where they are looked up. Smaller than rounding (1e-12), and a score is missed;
larger, and more of them are compared for nothing."""

_HEAVIEST_TAIL = 0.5
"""The largest shape of the generalized Pareto tail (Student's t with 2 degrees). Larger ones have no finite variance,
and probability-weighted moments do not estimate them (Hosking and Wallis 1987)."""


class Rule(StrEnum):
    """`conformal`: T keeps a promised false-alarm rate on new good images (Vovk et al. 2005).

    `iqr`: T = Q3 + k (Q3 - Q1) (RAD, arXiv 2508.17789; 2503.01569); holds up to about 20 % contamination.

    `one-sided`: T = median + k (median - Q1): only the lower half counts, so it holds up to 50 % contamination.

    `person`: T is where a person put it, and promises the rate that the calibration scores imply there.
    """

    CONFORMAL = "conformal"
    IQR = "iqr"
    ONE_SIDED = "one-sided"
    PERSON = "person"


QuartileRule = Literal[Rule.IQR, Rule.ONE_SIDED]
"""A rule with a k, by which outliers are found too."""


def cut(scores: Scores, rule: Rule, k: float) -> float:
    """The threshold T that a quartile rule puts on `scores` (n,), n >= 1; above it is anomalous."""
    if rule in (Rule.CONFORMAL, Rule.PERSON):
        raise ValueError(f"The rule {rule} has a false-alarm rate and no k: use CalibrationScores.at.")
    q1, median, q3 = np.quantile(scores, (0.25, 0.5, 0.75))
    if rule is Rule.IQR:
        return float(q3 + k * (q3 - q1))
    return float(median + k * (median - q1))


USUAL_K = 5.0
"""The k of the one-sided rule where no calibration says otherwise: Q3 + 1.5 IQR on scores with the skew of good images.
Larger, and defects train; smaller, and good images are left out that show what is rare."""


def outlier_limit(scores: Scores, rule: Rule, k: float) -> float:
    """The threshold of a quartile rule on the distinct `scores` (n,), n >= 1. Copies of an image score alike; if each
    counted, a quarter of copies could put Q1 on the median, and then no image is an outlier, or half of them are.
    """
    return cut(np.unique(scores), rule, k)


def equivalent_k(scores: Scores, rule: Rule, k: float) -> float:
    """The k with which the one-sided rule puts the limit of `rule` on `scores`: it carries over the skew of a clean
    sample. Where all scores are alike they say nothing, and it is `USUAL_K`.
    """
    distinct = np.unique(scores)
    q1, median = np.quantile(distinct, (0.25, 0.5))
    return float((cut(distinct, rule, k) - median) / (median - q1)) if median > q1 else USUAL_K


def bootstrap_interval(
    scores: Scores, rule: Rule, k: float, *, seed: int, groups: Sequence[str] | None = None, rounds: int = 400
) -> tuple[float, float]:
    """The 95 % interval of a quartile rule's T when the images (or whole groups of them) are drawn with replacement."""
    if groups is None:
        members = [np.array([index]) for index in range(len(scores))]
    else:
        names = np.asarray(groups)
        members = [np.flatnonzero(names == name) for name in dict.fromkeys(groups)]
    rng = np.random.default_rng(seed)
    cuts = [
        cut(scores[np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])], rule, k)
        for _ in range(rounds)
    ]
    low, high = np.quantile(cuts, (_CONFIDENCE_TAIL, 1 - _CONFIDENCE_TAIL))
    return float(low), float(high)


@dataclass(frozen=True)
class CalibrationScores:
    """Scores (n,) of good images that trained nothing of what scored them, ascending, and the number (n,) of the part
    that each image shows, counted from 0.

    Images of one part are exchangeable with other parts' images only as a group, so each weighs 1 / (images of its
    part), and the weights sum to the number of parts.
    """

    scores: Scores
    part: NDArray[np.intp]

    @classmethod
    def of(cls, scores: Scores, groups: Sequence[str] | None = None) -> Self:
        part = np.arange(len(scores)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        order = np.argsort(scores, kind="stable")
        return cls(np.asarray(scores, np.float64)[order], part[order])

    @cached_property
    def weights(self) -> Scores:
        return np.asarray(1 / np.bincount(self.part)[self.part])

    @property
    def parts(self) -> int:
        return int(self.part.max()) + 1

    @property
    def supported(self) -> float:
        """The lowest false-alarm rate that a rank of so many parts can promise whatever the distribution."""
        return 1 / (self.parts + 1)

    def at(self, rate: float) -> float:
        """The threshold T on which a new good image's chance of an alarm is at most `rate`, in (0, 1).

        Where each of n images shows a part of its own, T is the ceil((n + 1)(1 - rate))-th smallest score (Vovk et al.
        2005; Lei et al. 2018, s. 2.2). Otherwise T is the lowest weighted quantile whose rate is kept, in the mean, on
        parts that are left out in turn. Where no score is high enough, the tail model extrapolates, beyond the highest.
        """
        if self.parts < len(self.scores):
            level = self._level_for_new_parts(rate)
        else:
            level = max(math.ceil((self.parts + 1) * (1 - rate) - 1e-9), 1) / self.parts
        if level <= 1:
            return float(self.scores[np.searchsorted(np.cumsum(self.weights), level * self.parts - 1e-6)])
        highest = float(self.scores[-1])
        if self._tail is None:
            return highest
        start, beyond, scale, predictive = self._tail
        reach = scale / predictive * ((beyond / (self.parts + 1) / rate) ** predictive - 1)
        return max(float(start + reach), highest)

    def rate_at(self, value: float) -> float:
        """The false-alarm rate, in (0, 1), that a threshold at `value` implies; falls as `value` rises.

        Up to the highest score it is one more than the parts above `value`, over n + 1: with one image to a part, the
        lowest rate whose rank gives no more than `value`. Beyond, the tail model tells it.
        """
        if value <= self.scores[-1]:
            above = float(self.weights[self.scores > value].sum())
            return min(above + 1, self.parts) / (self.parts + 1)
        if self._tail is None:
            return self.supported
        start, beyond, scale, predictive = self._tail
        share = float((1 + predictive * (value - start) / scale) ** (-1 / predictive))
        return min(beyond / (self.parts + 1) * share, self.supported)

    def _level_for_new_parts(self, rate: float) -> float:
        """The lowest level in [0, 1] of the weighted quantile of all parts but one which the images of that one exceed
        by `rate` at most, in the mean over the parts; `inf` if they exceed even the highest of the others' scores.

        Hierarchical conformal prediction (arXiv 2306.06342) gives a new part's images the mass of a whole part beyond
        all scores. That promises `supported` whatever the distribution, but T is the highest score of all before
        `rate` comes near to it: 200 images of 7 parts, promised 5 %, had no alarms at all. The parts that are left out
        show how far a part's images lie from the others' (decision 23).
        """
        own_NP, others_NP, all_N = self._cumulative
        each = np.arange(self.parts)

        def exceeded(level: float) -> float:
            wanted = level * (self.parts - 1) - 1e-9
            # a part weighs 1, so the weight of all others lies at most 1 below that of all: few scores are in question
            begin, end = np.searchsorted(all_N, (wanted - _SLACK, wanted + 1 + _SLACK))
            first = begin + (others_NP[begin:end] < wanted).sum(axis=0)
            return float(1 - own_NP[np.minimum(first, len(self.scores) - 1), each].mean())

        if self.parts < 2 or exceeded(1) > rate:
            return math.inf
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if exceeded(middle) <= rate else (middle, high)
        return high

    @cached_property
    def _cumulative(self) -> tuple[Scores, Scores, Scores]:
        """The weight up to each score: of a part's own images (n, parts), of all others' (n, parts), of all (n,). Made
        once, since an adapted gauge's threshold is made of as many rates as there are parts."""
        own_NP = np.zeros((len(self.scores), self.parts))
        own_NP[np.arange(len(self.scores)), self.part] = self.weights
        own_NP = np.cumsum(own_NP, axis=0)
        all_N = own_NP.sum(axis=1)
        return own_NP, all_N[:, None] - own_NP, all_N

    def false_alarm_interval(self, rate: float) -> tuple[float, float]:
        """The 95 % interval of the false-alarm rate that `at(rate)` will turn out to have on new good images. It counts
        parts: where several images show one, it is what a rank of parts would have, and no guarantee (decision 23).

        Over draws of the n parts it is distributed as Beta(l, n + 1 - l), l = floor((n + 1) rate) (Vovk 2012, arXiv
        1209.2673, prop. 2a). Below `supported` the interval is that of the highest of n scores, whose rate is
        Beta(1, n): one-sided, from 0.
        """
        count = math.floor((self.parts + 1) * rate + 1e-9)
        if count < 1:
            return 0.0, float(special.betaincinv(1, self.parts, 1 - 2 * _CONFIDENCE_TAIL))
        ends = special.betaincinv(count, self.parts + 1 - count, (_CONFIDENCE_TAIL, 1 - _CONFIDENCE_TAIL))
        return float(ends[0]), float(ends[1])

    def threshold_interval(self, rate: float) -> tuple[float, float]:
        """The 95 % interval of the threshold whose false-alarm rate is exactly `rate`.

        The number of parts above that threshold is Binomial(n, rate); the ends are the scores whose ranks bound it
        (David and Nagaraja, Order Statistics, s. 7.1). Where even none above is likely, the upper end lies beyond the
        highest score, by the tail model: it is as sure as the tail is exponential.
        """
        count, ranks = self.parts, np.arange(self.parts)
        below = special.bdtr(ranks, count, rate)
        lowest = min(1 + int((1 - below > _CONFIDENCE_TAIL).sum()), count)
        highest = int((below <= _CONFIDENCE_TAIL).sum())
        beyond = rate / (1 - _CONFIDENCE_TAIL ** (1 / count))
        value = self.at(rate)
        low = self.at(lowest / (count + 1))
        high = self.at((highest or min(beyond, 1)) / (count + 1))
        return min(low, value), max(high, value)

    @cached_property
    def _tail(self) -> tuple[float, float, float, float] | None:
        """A generalized Pareto tail above a high score u: u, the parts m above it, scale and predictive shape; None
        where no scores lie above u, or all of these are equal.

        Scale s and shape x are those of probability-weighted moments (Hosking and Wallis 1987, eq. 6), with x in
        [0, 0.5]. With m parts above u, 1 / m is added to the shape: for exponential tails that makes T a predictive
        quantile, P(new > T) = rate on average over samples, because the excess over its estimated mean is F(2, 2m).
        """
        total = np.cumsum(self.weights)
        wanted = min(max(_TAIL_PARTS, _TAIL_SHARE * self.parts), self.parts / 2)
        start = int(np.searchsorted(total, self.parts - wanted - 1e-6))
        excess, weights = self.scores[start + 1 :] - self.scores[start], self.weights[start + 1 :]
        above = float(weights.sum())
        if not above:  # most of the weight is that of one part, and its highest score is the highest of all
            return None
        mean = float(weights @ excess) / above
        position = (np.cumsum(weights) - 0.35 * weights) / above
        moment = float(weights @ ((1 - position) * excess)) / above
        if mean <= 2 * moment:
            return None
        shape = min(max(2 - mean / (mean - 2 * moment), 0.0), _HEAVIEST_TAIL)
        return float(self.scores[start]), above, mean * (1 - shape), shape + 1 / above


class Threshold(FrozenModel):
    """T (`value`) with its 95 % interval, inside which a score is for review.

    `promised` is the false-alarm rate that was asked for, None for the quartile rules, which promise none;
    `false_alarm_interval` is the 95 % interval of the rate that will turn out. `supported` is the lowest rate that so
    many parts can promise without a model; `extrapolated` says that the promise lies below it.

    `false_alarm_share` checks the promise: the share of images above the threshold that the other folds' scores give,
    in [0, 1]. `clean_half_k` is the k of the one-sided rule by which an adaptation finds outliers: on these scores it
    gives the same limit as Q3 + `k` IQR, or as the rule itself where that is a quartile rule.

    `scores` (ascending) and `part` (None: each image shows its own) are those of `CalibrationScores`.

    `set_by` is the person who set it after the fit, and `why` what that person said; None where nobody did.
    """

    value: float
    low: float
    high: float
    rule: Rule = Rule.CONFORMAL
    k: float = 1.5
    clean_half_k: float
    false_alarm_share: float
    images: int
    scores: tuple[float, ...] = Field(min_length=1)
    part: tuple[int, ...] | None = None
    promised: float | None = None
    false_alarm_interval: tuple[float, float] | None = None
    supported: float
    extrapolated: bool = False
    set_by: str | None = None
    why: str = ""

    @classmethod
    def from_folds(
        cls,
        scores: Scores,
        folds: NDArray[np.intp],
        *,
        rule: Rule,
        k: float,
        seed: int,
        false_alarms: float = FALSE_ALARMS,
        groups: Sequence[str] | None = None,
    ) -> "Threshold":
        """From cross-fitted scores (n,) and the fold (n,) in which each image was held out."""
        calibration = CalibrationScores.of(scores, groups)

        def of_some(chosen: NDArray[np.bool_]) -> float:
            if rule is not Rule.CONFORMAL:
                return cut(scores[chosen], rule, k)
            parts = None if groups is None else list(compress(groups, chosen))
            return CalibrationScores.of(scores[chosen], parts).at(false_alarms)

        numbers = np.unique(folds)
        # where all that was kept of a buffer lies in one fold, there are no others to check it by
        limits = [of_some(folds != fold) if len(numbers) > 1 else of_some(folds == fold) for fold in numbers]
        alarms = [scores[folds == fold] > limit for fold, limit in zip(numbers, limits, strict=True)]
        share = float(np.concatenate(alarms).mean())
        if rule is Rule.CONFORMAL:
            clean_half_k = equivalent_k(scores, Rule.IQR, k)
            return cls.promising(false_alarms, calibration, k=k, clean_half_k=clean_half_k, false_alarm_share=share)
        low, high = bootstrap_interval(scores, rule, k, seed=seed, groups=groups)
        value = cut(scores, rule, k)
        return cls(
            value=value,
            low=low,
            high=high,
            rule=rule,
            k=k,
            clean_half_k=equivalent_k(scores, rule, k),
            false_alarm_share=share,
            images=len(scores),
            scores=tuple(calibration.scores.tolist()),
            part=None if groups is None else tuple(calibration.part.tolist()),
            supported=calibration.supported,
        )

    @classmethod
    def promising(
        cls,
        rate: float,
        calibration: CalibrationScores,
        *,
        k: float,
        clean_half_k: float,
        false_alarm_share: float,
    ) -> "Threshold":
        low, high = calibration.threshold_interval(rate)
        plain = len(calibration.scores) == calibration.parts
        return cls(
            value=calibration.at(rate),
            low=low,
            high=high,
            rule=Rule.CONFORMAL,
            k=k,
            clean_half_k=clean_half_k,
            false_alarm_share=false_alarm_share,
            images=len(calibration.scores),
            scores=tuple(calibration.scores.tolist()),
            part=None if plain else tuple(calibration.part.tolist()),
            promised=rate,
            false_alarm_interval=calibration.false_alarm_interval(rate),
            supported=calibration.supported,
            extrapolated=rate < calibration.supported - 1e-12,
        )

    @property
    def calibration_scores(self) -> CalibrationScores:
        return CalibrationScores(np.array(self.scores), np.array(self.part or range(len(self.scores))))

    def at(self, rate: float) -> float:
        """The threshold that promises another false-alarm rate, in (0, 1), from the same scores."""
        return self.calibration_scores.at(rate)

    def repromised(self, rate: float) -> "Threshold":
        share = float((np.array(self.scores) > self.at(rate)).mean())
        return Threshold.promising(
            rate, self.calibration_scores, k=self.k, clean_half_k=self.clean_half_k, false_alarm_share=share
        )

    def placed_at(self, value: float) -> "Threshold":
        """T at `value` on the same scores, as a person wants it: it promises the rate that they imply there."""
        placed = self.repromised(self.calibration_scores.rate_at(value))
        return placed.model_copy(
            update={
                "value": value,
                "low": min(placed.low, value),
                "high": max(placed.high, value),
                "rule": Rule.PERSON,
                "false_alarm_share": float((np.array(self.scores) > value).mean()),
            }
        )

    def moved_to(self, value: float) -> "Threshold":
        """T at `value`, its interval and its scores shifted with it: what a person accepts from a line's own scores."""
        shift = value - self.value
        return self.model_copy(
            update={
                "value": value,
                "low": self.low + shift,
                "high": self.high + shift,
                "scores": tuple(score + shift for score in self.scores),
            }
        )

    @property
    def sentence(self) -> str:
        """Who set the threshold, if somebody did, and what it promises, for people."""
        reason = f": {self.why}" if self.why else ""
        return (f"Set by {self.set_by}{reason}. " if self.set_by else "") + self._promise

    @property
    def _promise(self) -> str:
        parts = self.calibration_scores.parts
        if self.promised is None or self.false_alarm_interval is None:
            return f"The {self.rule.value} rule promises no false-alarm rate; --false-alarms does."
        low, high = map(_percent, self.false_alarm_interval)
        if self.extrapolated:
            return (
                f"{parts} good parts support a promise of {_percent(self.supported)} false alarms and no lower one: "
                f"{_percent(self.promised)} is extrapolated, and up to {high} are possible (95 %)."
            )
        return (
            f"It promises {_percent(self.promised)} false alarms on new good parts: {low} to {high} with 95 % "
            f"confidence, from {parts} good parts."
        )

    def for_adapted_gauge(
        self,
        scores: Scores,
        folds: NDArray[np.intp],
        *,
        rescaled: bool,
        seed: int,
        groups: Sequence[str] | None = None,
    ) -> "Threshold":
        """That of a gauge which was adapted from the one with this threshold, on the scores (n,) of the kept images.
        `rescaled`: the detector puts the median good score at 0 and its lower spread at 1 itself, after every
        adaptation.

        Some of the kept images may be defective, and leaving out suspects has cut off the upper tail of the good ones'
        scores too. So two estimates of each quantile of the good scores are made, and the lower one holds: defects that
        were kept lift both, and nothing lowers either but chance.

        1. The kept scores' own quantile. The suspects' limit cuts a share q of good scores off, which this threshold's
           clean scores tell; so of the kept ones (rate - q) / (1 - q) lie above T. Below rate q there is none.
        2. The clean scores' quantile, moved and scaled so that lower quartile and median are the kept scores'. It is
           taken as it is of a detector that is `rescaled`: a fifth of defects lifts the quartiles' distance by half.

        A gauge with a quartile rule takes the lower of its rule and the one-sided rule with `clean_half_k`.
        """
        if self.promised is None:
            rules = ((self.rule, self.k), (Rule.ONE_SIDED, self.clean_half_k))
            rule, k = min(rules, key=lambda each: cut(scores, *each))
            lower = Threshold.from_folds(scores, folds, rule=rule, k=k, seed=seed, groups=groups)
            return lower.model_copy(update={"clean_half_k": self.clean_half_k})
        kept, clean = CalibrationScores.of(scores, groups), self.calibration_scores
        below = clean.scores <= outlier_limit(clean.scores, Rule.ONE_SIDED, self.clean_half_k)
        removed = 1 - float(clean.weights[below].sum() / clean.weights.sum())
        clean_q1, clean_median = np.quantile(clean.scores[below], (0.25, 0.5))
        q1, median = np.quantile(scores, (0.25, 0.5))
        scale = float(median - q1) / max(float(clean_median - clean_q1), 1e-9)
        shift = float(median) - scale * float(clean_median)
        if rescaled:
            scale, shift = 1.0, 0.0
        parts = min(kept.parts, clean.parts)
        # as many quantiles as let the promised rate be one of them: a rank between two would round T up twice
        count = round(math.floor((parts + 1) * self.promised + 1e-9) / self.promised) - 1
        count = count if count > 0 else parts
        rates = np.arange(count, 0, -1) / (count + 1)
        good = [
            min(
                shift + scale * clean.at(rate),
                kept.at((rate - removed) / (1 - removed)) if rate > removed else math.inf,
            )
            for rate in rates
        ]
        calibration = CalibrationScores.of(np.array(good))
        above = float((scores > calibration.at(self.promised)).mean())
        share = min(removed, self.promised) + (1 - removed) * above
        made = Threshold.promising(
            self.promised, calibration, k=self.k, clean_half_k=self.clean_half_k, false_alarm_share=share
        )
        return made.model_copy(update={"images": len(scores)})


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


class Calibration(FrozenModel):
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
