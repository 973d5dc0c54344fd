"""Which of many values stand out, with a bound on how often any does where none should.

Limits go by the family of all images, so that a clean data set is told clean whatever its size: the chance that any of
them is named wrongly is at most `FAMILY` for each statistic.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flowgauge.training.thresholds import Scores

FAMILY = 0.01
"""A larger one names images of clean sets; with a smaller one, only gross faults stand out."""

_NORMAL_IQR = 1.349

Flags = NDArray[np.bool_]


def deviations(values: Scores, reference: Scores) -> Scores:
    """(n,) distance of `values` from the median of `reference`, in standard deviations as its quartiles tell them."""
    q1, median, q3 = np.quantile(reference, (0.25, 0.5, 0.75))
    return np.asarray((values - median) / max((q3 - q1) / _NORMAL_IQR, 1e-9), dtype=np.float64)


def apart(values: Scores, reference: Scores, effect: float) -> Flags:
    """(n,) which values lie beyond the family's limit, on either side, and are at least `effect` from the median.

    The limit is the z of `FAMILY` / 2n (Bonferroni). Distance alone is no fault: of images taken with great care, one
    that is a little different stands out by many deviations.
    """
    limit = float(stats.norm.isf(FAMILY / (2 * max(1, len(values)))))
    far = np.abs(values - np.median(reference)) >= effect
    return np.asarray(far & (np.abs(deviations(values, reference)) > limit))


def surprising(scores: Scores, rate: float) -> Flags:
    """(n,) which scores are too high for a maximum over many patches, by the rule of Benjamini and Hochberg (1995).

    Maxima follow Gumbel's law, whose location and scale the quartiles tell; a tenth of the images may be anything. Of
    those named, a share of `rate` is wrong on average, and where nothing is wrong, the chance that any is named is
    `rate`.
    """
    q1, median, q3 = np.quantile(scores, (0.25, 0.5, 0.75))
    gumbel_q1, gumbel_median, gumbel_q3 = np.asarray(stats.gumbel_r.ppf([0.25, 0.5, 0.75]))
    standard = (scores - median) / max(q3 - q1, 1e-9) * (gumbel_q3 - gumbel_q1) + gumbel_median
    return np.asarray(stats.false_discovery_control(stats.gumbel_r.sf(standard)) <= rate)
