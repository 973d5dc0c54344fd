"""Errors at given false-alarm rates: at the true rate of the test images, and at the rate that a gauge promised."""

from collections.abc import Callable, Sequence
from math import isfinite

import numpy as np
from scipy import stats

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.bootstrap import COVERAGE, Interval
from flowgauge.evaluation.metrics import Floats, Mask, errors_at

RATES = (0.01, 0.05, 0.10)
"""The false-alarm rates that are reported. A lower one cannot be told from 0 with fewer than 1 / rate good test images;
at a higher one no line would run.
"""


class PromisedRate(FrozenModel):
    """What became of a promised false-alarm rate. `threshold` was set for it on training images alone;
    `false_alarms` of `good_images` test images scored above it. Shares are in [0, 1], None without images of the kind.
    """

    threshold: float
    false_alarm_share: float | None
    miss_share: float | None
    good_images: int
    false_alarms: int


def key_of(rate: float) -> str:
    """The rate as a key of JSON: `0.05`."""
    return f"{rate:g}"


def threshold_at_true_rate(good: Floats, rate: float) -> float:
    """The lowest threshold that at most the share `rate` of the scores `good` (n,), n >= 1, exceeds.

    It is the (k + 1)-th highest score, k = floor(rate * n), and never between two scores. With fewer than 1 / rate good
    images it is the highest score, and no good image alarms: the misses are then those at a lower rate, never at a
    higher one.
    """
    k = int(rate * good.size + 1e-9)
    return float(np.sort(good)[::-1][min(k, good.size - 1)])


def miss_shares(scores: Floats, defective: Mask, rates: Sequence[float] = RATES) -> dict[str, float]:
    """The share of defects that are missed at each true false-alarm rate of the same test images.

    This compares detectors at equal false alarms, whatever thresholds they set. No line can have it: the threshold is
    chosen on the test images. Empty unless there are images of both kinds.
    """
    good = scores[~defective]
    if not (good.size and defective.any()):
        return {}
    found = {key_of(rate): errors_at(threshold_at_true_rate(good, rate), scores, defective) for rate in rates}
    return {key: errors.miss_share for key, errors in found.items() if errors.miss_share is not None}


def promised_rates(
    threshold_for: Callable[[float], float] | None,
    scores: Floats,
    defective: Mask,
    rates: Sequence[float] = RATES,
) -> dict[str, PromisedRate]:
    """What the test images say of each rate that the gauge promises. `threshold_for` gives the threshold of a promised
    false-alarm rate; None: the gauge promises nothing. A rate whose threshold is not finite is left out: the gauge had
    too few images to promise it.
    """
    if threshold_for is None:
        return {}
    thresholds = {rate: threshold_for(rate) for rate in rates}
    return {key_of(rate): _kept(t, scores, defective) for rate, t in thresholds.items() if isfinite(t)}


def _kept(threshold: float, scores: Floats, defective: Mask) -> PromisedRate:
    errors = errors_at(threshold, scores, defective)
    return PromisedRate(
        threshold=threshold,
        false_alarm_share=errors.false_alarm_share,
        miss_share=errors.miss_share,
        good_images=int((~defective).sum()),
        false_alarms=int((scores[~defective] > threshold).sum()),
    )


def binomial_interval(count: float, images: float) -> Interval:
    """The 95 % interval of a share of which `count` of `images` > 0 are known (Clopper and Pearson 1934): never too
    narrow for independent images. `count` may be a mean over seeds and need not be whole.
    """
    tail = (1 - COVERAGE) / 2
    low = float(stats.beta.ppf(tail, count, images - count + 1)) if count > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, count + 1, images - count)) if count < images else 1.0
    return low, high
