"""How well scores and anomaly maps separate defects from good surface.

Scores are higher for more anomalous. Both pixel metrics are exact: they rank every pixel, without thresholds or bins,
where torchmetrics and anomalib bin them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

AUPRO_LIMIT = 0.3
"""The false-positive rate up to which MVTec AD integrates: beyond it a map is of no use to a person, and below it few
pixels decide. Figures with another limit do not compare with the literature's."""
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Ramps:
    """A ROC curve as a mean over its positives (Fawcett, An introduction to ROC analysis, 2006): scikit-learn has no
    weighted one up to a false-positive rate, which AUPRO is.

    As the false-positive rate x goes from 0 to 1, positive i counts as found by `clip((x - start[i]) / (end[i] -
    start[i]), 0, 1)`: a step, or a ramp as wide as the share of negatives that have its very score. The mean of these
    over all positives is the ROC curve; a weighted mean is the per-region overlap.
    """

    start: Floats
    end: Floats

    @classmethod
    def of(cls, positive: Floats, negative: Floats) -> "Ramps":
        """`positive` (P,) and `negative` (N,) are finite scores, P and N at least 1; `negative` is sorted in place."""
        if not (positive.size and negative.size):
            raise ValueError("A ROC curve needs positives and negatives.")
        negative.sort()
        lower = np.searchsorted(negative, positive, side="left")
        not_higher = np.searchsorted(negative, positive, side="right")
        return cls(start=1.0 - not_higher / negative.size, end=1.0 - lower / negative.size)

    def area(self, weights: Floats | None = None, limit: float = 1.0) -> float:
        """The area under the curve up to the rate `limit` in (0, 1], over `limit`: 1 is perfect."""
        width = self.end - self.start
        climbed = np.clip(limit - self.start, 0.0, width)
        slope = np.divide(climbed**2, 2 * width, out=np.zeros_like(width), where=width > 0)
        found = slope + np.maximum(limit - self.end, 0.0)
        return float(np.average(found, weights=weights)) / limit


def image_auroc(scores: Floats, defective: Mask) -> float | None:
    """The chance in [0, 1] that a defective image scores above a good one, ties counted half. `scores` (n,), higher is
    more anomalous; `defective` (n,) bool. None unless both kinds are there.
    """
    return float(roc_auc_score(defective, scores)) if 0 < defective.sum() < defective.size else None


def auroc_between(good: Floats, defective: Floats) -> float | None:
    """Image AUROC of the scores of good (n,) and of defective (m,) images; None unless both kinds are there."""
    return image_auroc(np.concatenate([good, defective]), np.arange(len(good) + len(defective)) >= len(good))


@dataclass(frozen=True)
class PixelMetrics:
    """In [0, 1], higher is better. `auroc`: over all pixels alike. `aupro`: per-region overlap up to `AUPRO_LIMIT`.
    `regions`: their number."""

    auroc: float
    aupro: float
    regions: int


def pixel_metrics(maps: Sequence[Floats], masks: Sequence[Mask]) -> PixelMetrics | None:
    """Metrics of anomaly maps (each (h, w)) against masks of the same shapes, True on defects.

    AUPRO is MVTec AD's (Bergmann et al., IJCV 2021): the share of each connected region (8 neighbours) that is found,
    averaged over regions, against the share of good pixels that are flagged in all images, integrated up to 0.3 and
    divided by it. None where no mask has a defect, or no good pixel. Peak memory is three times that of the maps.
    """
    weights = [region_weights(mask) for mask in masks]
    regions = sum(round(float(weight.sum())) for weight in weights)
    if not regions or all(mask.all() for mask in masks):
        return None
    positive = np.concatenate([scores[mask] for scores, mask in zip(maps, masks, strict=True)])
    negative = np.concatenate([scores[~mask] for scores, mask in zip(maps, masks, strict=True)])
    ramps = Ramps.of(positive, negative)
    return PixelMetrics(ramps.area(), ramps.area(np.concatenate(weights), AUPRO_LIMIT), regions)


def region_weights(mask: Mask) -> NDArray[np.float64]:
    """One weight per defective pixel, in the order of `map[mask]`; those of one connected region sum to 1."""
    labels, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    region = labels[mask]
    return np.asarray(1.0 / np.bincount(region)[region])


@dataclass(frozen=True)
class Errors:
    """What a threshold does: shares in [0, 1], None where there is nothing to have a share of."""

    false_alarm_share: float | None
    miss_share: float | None


def errors_at(threshold: float, scores: Floats, defective: Mask) -> Errors:
    """A score above `threshold` is an alarm."""
    alarms = scores > threshold
    return Errors(_share(alarms[~defective]), _share(~alarms[defective]))


def _share(flags: Mask) -> float | None:
    return float(flags.mean()) if flags.size else None
