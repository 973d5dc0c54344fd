"""Confidence intervals for figures of repeated splits of one data set.

K repeats are not K experiments. They draw their training images and their judges from the same N, so their errors
hang together: by about rho = n2 / (n1 + n2) where n2 of n1 + n2 images judge (Nadeau and Bengio, Inference for the
generalization error, Machine Learning 2003). The mean of K figures with deviation s therefore varies by
sigma^2 (rho + (1 - rho) / K), which no number of repeats brings below rho sigma^2, and not by s^2 / K, as a plain t
interval has it: that one shrinks to nothing as K grows, and covers the truth the less the longer one computes.

Their corrected t interval puts s^2 (1 / K + n2 / n1) in its place: `corrected`. For shares of images it falls short on
both ends. Near 0, where most repeats count no error, s is 0 or nearly so; and where the threshold is chosen anew in
each repeat, s holds that too, which is no error, and the interval is twice as wide as it need be. `ShareOfImages`
therefore takes sigma^2 from the images, p (1 - p), and rho as it came out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import special

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.bootstrap import COVERAGE, Interval
from flowgauge.evaluation.metrics import Floats

_DOUBTFUL_PARTS = 2.0  # without this, a handful of erring parts seem independent by luck: 91 % coverage instead of 97
_TAIL = (1 - COVERAGE) / 2


def plain(figures: Sequence[float]) -> Interval:
    """The t interval that takes K repeats for K experiments: too narrow; told for comparison."""
    return _around(figures, 1 / len(figures))


def corrected(figures: Sequence[float], test_to_train: float) -> Interval:
    """Nadeau and Bengio's t interval for the mean of K >= 2 figures; `test_to_train` is n2 / n1."""
    return _around(figures, 1 / len(figures) + test_to_train)


def _around(figures: Sequence[float], factor: float) -> Interval:
    mean, spread = float(np.mean(figures)), float(np.std(figures, ddof=1))
    reach = _fold_model(len(figures) - 1) * spread * sqrt(factor)
    return mean - reach, mean + reach


class Share(FrozenModel):
    """A share in [0, 1] with its interval. `images` and `parts`: how many different ones were judged; `effective`: how
    many independent images tell as much.
    """

    mean: float
    interval: Interval
    images: int
    parts: int
    effective: float


@dataclass(frozen=True)
class ShareOfImages:
    """Which images erred in which repeat. `erred` (K, N): 1 or 0, nan where the image did not judge; `groups` (N,):
    the number of the part that each image shows.

    With c_i how often image i judged, w_i = c_i / sum c, and W_g the sum of w_i over the images of part g, the mean p
    has the variance p (1 - p) / n,

        1 / n = (1 - r) sum_i w_i^2 + r sum_g W_g^2,

    if an image's verdict is the same whenever it judges (it mostly is; else the interval is a little wide) and r is the
    correlation of the errors of two images of one part. For N parts with one image each, of which m judge at a time,
    1 / sum w_i^2 = m / (rho + (1 - rho) / K) with rho = m / N: the images' form of Nadeau and Bengio's variance. r is
    the moment estimate from all pairs within a repeat, as if 2 more parts had shown r = 1; few erring parts cannot tell
    r. The interval is Jeffreys's, Beta(n' p + 1/2, n' (1 - p) + 1/2), which is right near 0 too, with
    n' = n (z / t)^2 for the t quantile of one degree of freedom less than parts (Korn and Graubard, Survey Methodology
    1998). It ends at 0 or 1 where no image, or every image, erred.
    """

    erred: Floats
    groups: NDArray[np.intp]

    def share(self) -> Share:
        """Requires at least two parts among those that judged."""
        times = np.isfinite(self.erred).sum(axis=0)
        parts = int(np.count_nonzero(np.bincount(self.groups, times)))
        n = self._effective(times / times.sum())
        return Share(
            mean=self.mean,
            interval=_jeffreys(self.mean, n * _t_shrinkage(parts - 1)),
            images=int(np.count_nonzero(times)),
            parts=parts,
            effective=n,
        )

    @property
    def mean(self) -> float:
        """Over repeats, of the share in each."""
        return float(np.nanmean(self.erred, axis=1).mean())

    def _effective(self, weights: Floats) -> float:
        r = self._correlation()
        of_images, of_parts = (weights**2).sum(), (np.bincount(self.groups, weights) ** 2).sum()
        return float(1 / ((1 - r) * of_images + r * of_parts))

    def _correlation(self) -> float:
        """r in [0, 1]."""
        products, pairs = np.sum([self._pairs(row) for row in self.erred], axis=0)
        variance = self.mean * (1 - self.mean)
        found = products / (pairs * variance) if pairs and variance else 0.0
        erring = np.bincount(self.groups, np.nansum(self.erred, axis=0))
        right = np.bincount(self.groups, np.nansum(1 - self.erred, axis=0))
        informative = min(np.count_nonzero(erring), np.count_nonzero(right))
        return float((informative * np.clip(found, 0, 1) + _DOUBTFUL_PARTS) / (informative + _DOUBTFUL_PARTS))

    def _pairs(self, row: Floats) -> tuple[float, float]:
        """The sum of products of deviations, over ordered pairs of images of one part, and how many pairs there are."""
        judged = np.isfinite(row)
        deviation, group = row[judged] - self.mean, self.groups[judged]
        products = (np.bincount(group, deviation) ** 2).sum() - (deviation**2).sum()
        sizes = np.bincount(group)
        return float(products), float((sizes * (sizes - 1)).sum())


def _t_shrinkage(freedom: int) -> float:
    """(z / t)^2 in (0, 1]."""
    return float((special.ndtri(1 - _TAIL) / _fold_model(max(1, freedom))) ** 2)


def _fold_model(freedom: int) -> float:
    """The quantile of Student's t that leaves `_TAIL` above it."""
    return float(special.stdtrit(freedom, 1 - _TAIL))


def _jeffreys(p: float, n: float) -> Interval:
    a, b = n * p + 0.5, n * (1 - p) + 0.5
    low = 0.0 if p <= 0 else float(special.betaincinv(a, b, _TAIL))
    high = 1.0 if p >= 1 else float(special.betaincinv(a, b, 1 - _TAIL))
    return low, high


def propagated(figure: Callable[[float, float], float], mean: float, false_alarms: Share, misses: Share) -> Interval:
    """The interval of a figure of both shares that rises, or falls, with each of them; `mean` is its own mean.

    Zou and Donner's recovery of variances (Statistics in Medicine 2008), for a function of two shares: the ends of each
    share's interval move the figure up or down from where both means put it, and independent moves add as squares.
    """
    centre = figure(false_alarms.mean, misses.mean)
    moves = [
        [figure(end, misses.mean) - centre for end in false_alarms.interval],
        [figure(false_alarms.mean, end) - centre for end in misses.interval],
    ]
    down = sqrt(sum(min(0.0, *ends) ** 2 for ends in moves))
    up = sqrt(sum(max(0.0, *ends) ** 2 for ends in moves))
    return mean - down, mean + up
