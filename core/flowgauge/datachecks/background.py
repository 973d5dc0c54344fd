"""Huskies and snow: does the background tell good from defective?

A classifier sees nothing but the background, and of a defect's image only where the defect is not. If it tells the
classes apart on images that it was not trained with, so may any detector, for the wrong reason.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from flowgauge.datachecks.image_statistics import SIDE, ImageStatistics, Look
from flowgauge.datachecks.issue import Check, Figure, Finding, Named
from flowgauge.datachecks.silhouette import Silhouette, border

FEWEST = 10
"""Of each class; of fewer, hardly any difference would be sure."""

_SURE = 0.001
_INFORMATIVE = 0.75
"""The AUROC from which a background gives the class away."""
_ROOM = 3
"""What a defect changes around it, in pixels of the thumbnail, is its own and not the background's."""
_FOLDS = 5
_QUESTION = "Does the background give the class away?"

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


def background_check(seen: ImageStatistics, found: Silhouette | None) -> Check:
    test = ~seen.train
    rows, defective = np.flatnonzero(test), ~seen.good[test]
    if min(defective.sum(), (~defective).sum()) < FEWEST:
        reason = f"The test holds fewer than {FEWEST} good or fewer than {FEWEST} defective images."
        return Check(name="background", question=_QUESTION, skipped=reason)
    where = border() if found is None or not found.background.any() else found.background
    scores = _cross_fitted(_filled([_appearance(seen.looks[row], where) for row in rows]), defective)
    auroc, p = _separation(scores, defective)
    figures: dict[str, Figure] = {"auroc": auroc, "p": p, "area": "border" if found is None else "outside the part"}
    if auroc < _INFORMATIVE or p > _SURE:
        return Check(name="background", question=_QUESTION, figures=figures)
    order = np.argsort(-scores)
    finding = Finding(
        title="The background gives the class away",
        seen=f"Colours of the {figures['area']} alone tell defective from good test images with an AUROC of "
        f"{auroc:.2f} (p = {p:.1g}).",
        why="A detector can score well by the background, as one that told huskies from wolves by the snow. In the "
        "factory the background is the same for both, and the score is gone.",
        remedy="Collect good and defective parts in one place and light, in turns; or fit with --aspect embed, "
        "which blackens the background.",
        figures={"auroc": auroc, "p": p},
        images=tuple(
            Named(name=seen.names[rows[i]], value=float(scores[i]), words=seen.looks[rows[i]].entry.kind)
            for i in (*order[:4], *order[-4:])
        ),
    )
    return Check(name="background", question=_QUESTION, figures=figures, findings=(finding,))


def _appearance(look: Look, where: Flags) -> Floats:
    """(16,) of the background above, below, left and right: median colour, and how much the gray varies; NaN where
    the defect leaves nothing of it."""
    free = where if look.mask is None else where & ~ndimage.binary_dilation(look.mask, iterations=_ROOM)
    return np.concatenate([_colours(look.thumb[free & side]) for side in _sides()])


def _colours(pixels_N3: NDArray[np.uint8]) -> Floats:
    if len(pixels_N3) < 8:
        return np.full(4, np.nan)
    low, high = np.quantile(pixels_N3.mean(axis=1), (0.25, 0.75))
    return np.append(np.median(pixels_N3, axis=0), np.log(high - low + 1))


def _sides() -> tuple[Flags, ...]:
    """The four triangles around the middle."""
    y, x = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    steep = np.abs(y) >= np.abs(x)
    return steep & (y < 0), steep & (y >= 0), ~steep & (x < 0), ~steep & (x >= 0)


def _filled(rows: list[Floats]) -> Floats:
    """What is missing of an image is taken for typical; columns of which nothing is known are left out."""
    table = np.stack(rows)
    table = table[:, ~np.isnan(table).all(axis=0)]
    return np.where(np.isnan(table), np.nanmedian(table, axis=0), table)


def _cross_fitted(table: Floats, defective: Flags) -> Floats:
    """(n,) how defective each background looks to a classifier that was trained with other images."""
    varying = table[:, table.std(axis=0) > 0]
    if not varying.shape[1]:
        return np.zeros(len(table))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    folds = StratifiedKFold(min(_FOLDS, int(defective.sum()), int((~defective).sum())), shuffle=True, random_state=0)
    scores = cross_val_predict(model, varying / varying.std(axis=0), defective, cv=folds, method="decision_function")
    return np.asarray(scores, dtype=np.float64)


def _separation(scores: Floats, defective: Flags) -> tuple[float, float]:
    """The AUROC, and how likely backgrounds that say nothing reach it."""
    bad, good = scores[defective], scores[~defective]
    found = stats.mannwhitneyu(bad, good, alternative="greater")
    return float(found.statistic) / (len(bad) * len(good)), float(found.pvalue)
