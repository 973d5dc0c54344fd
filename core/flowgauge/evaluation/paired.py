"""Two evaluations of the same test images, compared image by image: what they share cancels out."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.bootstrap import Interval, auroc_replicates, interval
from flowgauge.evaluation.datasets import GOOD
from flowgauge.evaluation.metrics import Floats, Mask, image_auroc
from flowgauge.evaluation.results import Run


class PairedDifference(FrozenModel):
    """Image AUROC of one evaluation less that of another, on the same resamples of parts; above 0, the first is better.

    `interval` covers 95 % of the resampled mean over the seeds; `by_seed` are the differences as measured.
    """

    image_auroc_difference: float
    interval: Interval
    by_seed: dict[int, float]


def paired_difference(
    runs: Sequence[Run], others: Sequence[Run], groups: Mapping[str, str] | None = None
) -> PairedDifference:
    """`runs` against `others`. `groups` names the part that each image shows (default: each its own).

    Raises `UserError` unless both have the same seeds with the same test images.
    """
    pairs = _matched(runs, others)
    measured = {seed: _auroc(ours) - _auroc(theirs) for seed, (ours, theirs) in pairs.items()}
    replicates = [_replicates(ours, groups) - _replicates(theirs, groups) for ours, theirs in pairs.values()]
    return PairedDifference(
        image_auroc_difference=fmean(measured.values()),
        interval=interval(np.mean(replicates, axis=0)),
        by_seed=measured,
    )


def _matched(runs: Sequence[Run], others: Sequence[Run]) -> dict[int, tuple[Run, Run]]:
    theirs = {run.seed: run for run in others}
    if {run.seed for run in runs} != set(theirs):
        raise UserError("The two evaluations have other seeds.", "Evaluate both with the same --seed.")
    pairs = {run.seed: (run, theirs[run.seed]) for run in runs}
    for seed, (ours, other) in pairs.items():
        if [image.name for image in ours.images] != [image.name for image in other.images]:
            raise UserError(f"The test images of seed {seed} differ.", "Evaluate both with the same --splits.")
    return pairs


def _scores(run: Run) -> tuple[Floats, Mask]:
    return np.array([image.score for image in run.images]), np.array([image.kind != GOOD for image in run.images])


def _auroc(run: Run) -> float:
    value = image_auroc(*_scores(run))
    if value is None:
        raise UserError("One of the evaluations judged only one kind of images.", "Predictor good and defective ones.")
    return value


def _replicates(run: Run, groups: Mapping[str, str] | None) -> Floats:
    parts = None if groups is None else [groups[image.name] for image in run.images]
    return auroc_replicates(*_scores(run), parts, seed=run.seed)
