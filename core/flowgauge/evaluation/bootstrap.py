"""How far a figure could have come out differently on other parts of the same line.

Images of one part are not independent, so whole groups are drawn, each as often as chance has it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flowgauge.evaluation.metrics import Floats, Mask

REPLICATES = 1000  # fewer, and the ends of the interval depend on the seed in their second digit
COVERAGE = 0.95

Interval = tuple[float, float]


def auroc_replicates(
    scores: Floats, defective: Mask, groups: Sequence[str] | None = None, *, seed: int = 0
) -> NDArray[np.float64]:
    """Image AUROC on `REPLICATES` resamples of the groups (of the images where `groups` is None).

    Groups of good images, of defective images, and of both are drawn apart, so each resample keeps both kinds. The
    same `groups`, `defective` and `seed` give the same resamples: the difference of two gauges' replicates is paired.
    Requires at least one image of each kind.
    """
    members, strata = _strata(defective, groups)
    ranks, generator = _ranks(scores), np.random.default_rng(seed)
    return np.array([_auroc(ranks, defective, draw(generator, strata)[members]) for _ in range(REPLICATES)])


def weighted_auroc(scores: Floats, defective: Mask, counts: NDArray[np.intp]) -> float:
    """Image AUROC of images that count `counts` times each; at least one of each kind must."""
    return _auroc(_ranks(scores), defective, counts)


def _ranks(scores: Floats) -> NDArray[np.intp]:
    """Equal for ties."""
    _, ranks = np.unique(scores, return_inverse=True)
    return ranks


def interval(replicates: Floats) -> Interval:
    """The central `COVERAGE` of the replicates."""
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(replicates, (tail, 1 - tail))
    return float(low), float(high)


def _strata(defective: Mask, groups: Sequence[str] | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Each image's group, as an index, and each group's stratum: 1 has good images, 2 defective ones, 3 both."""
    names = np.arange(defective.size) if groups is None else np.asarray(groups)
    _, members = np.unique(names, return_inverse=True)
    has_defect = np.bincount(members, weights=defective) > 0
    has_good = np.bincount(members, weights=~defective) > 0
    return members, has_good.astype(np.intp) + 2 * has_defect.astype(np.intp)


def draw(generator: np.random.Generator, strata: NDArray[np.intp]) -> NDArray[np.intp]:
    """How often each group is drawn, when as many are drawn from every stratum as it has."""
    counts = np.zeros(strata.size, dtype=np.intp)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        np.add.at(counts, generator.choice(members, members.size), 1)
    return counts


def _auroc(ranks: NDArray[np.intp], defective: Mask, counts: NDArray[np.intp]) -> float:
    good = np.bincount(ranks, weights=counts * ~defective)
    bad = np.bincount(ranks, weights=counts * defective)
    return float(bad @ (np.cumsum(good) - good / 2) / (bad.sum() * good.sum()))
