"""Do a gauge's threshold and calibration fit the line? Checks against its own scores, whichever are defects'.

The gauge's calibration scores tell the shape of good scores. The line's good scores are taken to have that shape, moved
and scaled. Up to `MOST_DEFECTS` of the line's images may be defective and are taken to score above its median or to
mix in anywhere; a share d of them puts the line's u-quantile at the good scores' quantile u to u / (1 - d). So the
line's lower quartile and median are matched with the good scores' quantiles at 0.25 / (1 - d) and 0.5 / (1 - d), for d
from 0 to `MOST_DEFECTS`, which gives a range of thresholds that keep the promise on this line.

Both samples are drawn anew (bootstrap), and each time the gauge's threshold and the line's come from the same draw, so
that what chance does to both cancels. Only where all of that range lies on one side of the gauge's threshold, in all
but 2.5 % of the draws, the threshold is said not to fit. So a wave of defects up to that share is not taken for a bad
threshold, and a small error is not noticed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from flowgauge.training.thresholds import CalibrationScores, Scores, Threshold

MOST_DEFECTS = 0.3
"""Larger, and a threshold that is too low looks like many defects, so that nothing is ever said; smaller, and a wave of
defects is taken for a threshold that is too low."""

_SHARES = (0.0, 0.1, 0.2, MOST_DEFECTS)
_LEVELS = np.array([0.25, 0.5])
_ROUNDS = 200
"""Bootstrap rounds: the ends of a 95 % interval are then the fifth of 200 values on each side."""


@dataclass(frozen=True)
class Disagreement:
    """`proposed` is the threshold nearest to the gauge's that would keep the promise on this line; `low` to `high` is
    the 95 % interval of such thresholds. `false_alarms` is the estimated rate of the gauge's threshold, in [0, 1].
    """

    proposed: float
    low: float
    high: float
    false_alarms: float


def disagreement(threshold: Threshold, scores: Scores, *, seed: int) -> Disagreement | None:
    """What the line's `scores` (n,), one of each part, say against `threshold`; None where they say nothing.

    A threshold without a promise is never contradicted.
    """
    if threshold.promised is None:
        return None
    clean, rng = threshold.calibration_scores, np.random.default_rng(seed)
    if any(np.ptp(np.quantile(clean.scores, _LEVELS / (1 - share))) <= 0 for share in _SHARES):
        return None  # so many scores are copies that they have no scale
    chances = clean.weights / clean.weights.sum()
    above, below = [], []
    for _ in range(_ROUNDS):
        again = CalibrationScores.of(rng.choice(clean.scores, clean.parts, p=chances))
        found = _thresholds(again, rng.choice(scores, len(scores)), threshold.promised)
        gauges = again.at(threshold.promised)
        above.append(found.min() - gauges)
        below.append(found.max() - gauges)
    low, high = (threshold.value + float(np.quantile(ends, q)) for ends, q in ((above, 0.025), (below, 0.975)))
    if low <= threshold.value <= high:
        return None
    found = _thresholds(clean, scores, threshold.promised)
    too_low = low > threshold.value
    proposed = float(found.min() if too_low else found.max())
    shares = [_false_alarms(clean, scores, threshold.value, share) for share in _SHARES]
    return Disagreement(proposed, low, high, min(shares) if too_low else max(shares))


@dataclass(frozen=True)
class Shift:
    """Of a line's scores against a gauge's calibration. `position` is the share of the calibration scores below the
    line's lower quartile, in [0, 1]; `moved`: chance does not explain it. `alarms` is the share of the line's images
    above the threshold, `most_alarms` the largest that an unchanged line would have.
    """

    position: float
    moved: bool
    alarms: float
    most_alarms: float

    @property
    def changed(self) -> bool:
        return self.moved or self.alarms > self.most_alarms


EXPECTED = (0.25, 0.25 / (1 - MOST_DEFECTS))
"""Where the lower quartile of an unchanged line lies among the calibration scores: without defects, and with as many as
`MOST_DEFECTS` above its median."""

_USUAL_DEFECTS = 0.1
"""Share of a line's images whose alarms are no sign of a change. Larger, and lines stay with a gauge that alarms on a
quarter of the good parts; smaller, and a bad hour is taken for a change."""


def shift(threshold: Threshold, scores: Scores, *, seed: int) -> Shift:
    """How the line's `scores` (n,), one of each part, lie beside those that `threshold` was made of.

    The lower quartile is compared, because defects reach it last; both samples are drawn anew, as in `disagreement`.
    """
    clean, rng = threshold.calibration_scores, np.random.default_rng(seed)
    chances = clean.weights / clean.weights.sum()
    above, below = [], []
    for _ in range(_ROUNDS):
        again = rng.choice(clean.scores, clean.parts, p=chances)
        least, most = np.quantile(again, EXPECTED)
        quartile = np.quantile(rng.choice(scores, len(scores)), 0.25)
        above.append(quartile - most)
        below.append(quartile - least)
    promised = threshold.false_alarm_share if threshold.promised is None else threshold.promised
    # the 0.975 quantile of a binomial distribution; to import scipy.stats takes a second of what runs no model
    up_to = special.bdtr(np.arange(len(scores) + 1), len(scores), min(promised + _USUAL_DEFECTS, 1))
    return Shift(
        position=float(chances[clean.scores < np.quantile(scores, 0.25)].sum()),
        moved=bool(np.quantile(above, 0.025) > 0 or np.quantile(below, 0.975) < 0),
        alarms=float((scores > threshold.value).mean()),
        most_alarms=float(np.searchsorted(up_to, 0.975)) / len(scores),
    )


def _matched(clean: CalibrationScores, scores: Scores, defects: float) -> tuple[float, float, float]:
    """(centre, scale, clean centre): a line's good score is centre + scale * (clean score - clean centre)."""
    first, second = np.quantile(scores, _LEVELS)
    clean_first, clean_second = np.quantile(clean.scores, _LEVELS / (1 - defects))
    return float(second), float((second - first) / max(clean_second - clean_first, 1e-9)), float(clean_second)


def _thresholds(clean: CalibrationScores, scores: Scores, rate: float) -> NDArray[np.float64]:
    """The thresholds for `rate` false alarms on the line, one for each share of defects."""
    limit = clean.at(rate)
    matched = (_matched(clean, scores, share) for share in _SHARES)
    return np.array([centre + scale * (limit - clean_centre) for centre, scale, clean_centre in matched])


def _false_alarms(clean: CalibrationScores, scores: Scores, limit: float, defects: float) -> float:
    """The share of the line's good parts above `limit`, if a share of `defects` is among its images."""
    centre, scale, clean_centre = _matched(clean, scores, defects)
    there = clean_centre + (limit - centre) / max(scale, 1e-9)
    return float(clean.weights[clean.scores > there].sum() / clean.weights.sum())
