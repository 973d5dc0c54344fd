"""Which of many values stand out, with a bound on how often any does where none should.

A clean data set must be told clean whatever its size, so limits go by the family of all images: the chance that any of
them is named wrongly is at most `FAMILY` for each statistic.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flowgauge.training.thresholds import Scores

FAMILY = 0.01

_NORMAL_IQR = 1.349
_GUMBEL_MEDIAN = -np.log(np.log(2))
_GUMBEL_IQR = -np.log(np.log(4 / 3)) + np.log(np.log(4))

Flags = NDArray[np.bool_]


def deviations(values: Scores, reference: Scores) -> Scores:
    """(n,) distance of `values` from the median of `reference`, in standard deviations as its quartiles tell them."""
    q1, median, q3 = np.quantile(reference, (0.25, 0.5, 0.75))
    return np.asarray((values - median) / max((q3 - q1) / _NORMAL_IQR, 1e-9), dtype=np.float64)


def normal_limit(tests: int, family: float = FAMILY) -> float:
    """Beyond so many standard deviations, on either side, none of `tests` normal values lies but with that chance."""
    return float(stats.norm.isf(family / (2 * max(1, tests))))


def apart(values: Scores, reference: Scores, effect: float) -> Flags:
    """(n,) which values lie beyond the family's limit and are at least `effect` from the median.

    Distance alone is no fault: of images taken with great care, one that is a little different stands out by many
    deviations.
    """
    far = np.abs(values - np.median(reference)) >= effect
    return np.asarray(far & (np.abs(deviations(values, reference)) > normal_limit(len(values))))


def surprising(scores: Scores, rate: float) -> Flags:
    """(n,) which scores are too high for a maximum over many places: Benjamini and Hochberg's rule at `rate`.

    Maxima follow Gumbel's law, whose place and scale the quartiles tell; a tenth of the images may be anything. Of
    those named, a share of `rate` is wrong on average, and where nothing is wrong, the chance that any is named is
    `rate`.
    """
    q1, median, q3 = np.quantile(scores, (0.25, 0.5, 0.75))
    standard = (scores - median) / max(q3 - q1, 1e-9) * _GUMBEL_IQR + _GUMBEL_MEDIAN
    p = stats.gumbel_r.sf(standard)
    order = np.argsort(p, kind="stable")
    passed = np.flatnonzero(p[order] <= rate * np.arange(1, len(p) + 1) / len(p))
    named = np.zeros(len(p), dtype=bool)
    named[order[: passed[-1] + 1 if len(passed) else 0]] = True
    return named
