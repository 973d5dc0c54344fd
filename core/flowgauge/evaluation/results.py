"""What an evaluation found, and two evaluations compared. The field names are the keys of the JSON."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
from pydantic import Field

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import Decision, FrozenModel
from flowgauge.evaluation.datasets import GOOD
from flowgauge.evaluation.intervals import Interval, auroc_replicates, interval
from flowgauge.evaluation.metrics import image_auroc
from flowgauge.evaluation.splits import Groups

Figure = float | None


class ClassFigures(FrozenModel):
    """One class of defects against all good test images. Shares are in [0, 1]; None where nothing can be measured."""

    image_auroc: Figure
    pixel_auroc: Figure
    aupro: Figure
    miss_share: Figure
    images: float = Field(description="how many defective images; a mean over runs")


class Figures(FrozenModel):
    """What is averaged over runs.

    `false_alarm_share` and `miss_share` are those of scores above and up to `threshold`; `promised_false_alarm_share`
    is what the gauge's threshold promises (for a rule that promises none, the held-out share), and
    `held_out_false_alarm_share` what cross-fitted training images say of it; `review_share` counts decisions of all
    test images. `backbone_images_per_second` is that of the cut backbone on the same decoded pictures, in turns with
    the gauge, and `speed_ratio` the gauge's speed over it.
    """

    image_auroc: Figure
    pixel_auroc: Figure
    aupro: Figure
    threshold: Figure
    false_alarm_share: Figure
    promised_false_alarm_share: Figure
    held_out_false_alarm_share: Figure = None
    miss_share: Figure
    review_share: Figure
    fit_seconds: Figure
    images_per_second: Figure
    backbone_images_per_second: Figure
    speed_ratio: Figure


class ImageResult(FrozenModel):
    name: str
    kind: str
    score: float
    decision: Decision


class Run(Figures):
    """One fit and its prediction. `image_auroc_interval` covers 95 %, over groups where they were given;
    `promised_interval` is the 95 % interval of the false-alarm rate that the threshold promises.

    `left_out_of_pixel_metrics` names defects without a mask, or with an empty one; they count in image metrics.
    `groups_on_both_sides` counts groups with training and test images: above 0, the figures are too good.
    """

    seed: int
    noise: float | None
    mislabelled_share: float
    fitted_images: int
    good_images: int
    defective_images: int
    image_auroc_interval: Interval | None
    per_class: dict[str, ClassFigures]
    regions: int
    left_out_of_pixel_metrics: tuple[str, ...]
    unreadable: dict[str, str]
    promised_interval: Interval | None = None
    groups_on_both_sides: int | None
    images: tuple[ImageResult, ...]


class Evaluation(FrozenModel):
    dataset: str
    detector: str
    device: str
    runs: tuple[Run, ...] = Field(min_length=1)

    def document(self) -> dict[str, Any]:
        """JSON: the means over runs under the figures' own names, deviations as `<name>_std` where there are several
        runs, and the runs themselves under `runs`.

        The mean of intervals is wider than the interval of the mean, whose runs share test images.
        """
        intervals = [run.image_auroc_interval for run in self.runs if run.image_auroc_interval]
        ends = tuple(fmean(end) for end in zip(*intervals, strict=True))
        columns = {name: _present(self.runs, name) for name in Figures.model_fields} if len(self.runs) > 1 else {}
        kinds = dict.fromkeys(kind for run in self.runs for kind in run.per_class)
        of_kind = {kind: [run.per_class[kind] for run in self.runs if kind in run.per_class] for kind in kinds}
        return (
            {"dataset": self.dataset, "detector": self.detector, "device": self.device}
            | _means(Figures, self.runs)
            | {"image_auroc_interval": ends or None}
            | {f"{name}_std": stdev(values) if len(values) > 1 else None for name, values in columns.items()}
            | {"per_class": {kind: _means(ClassFigures, rows) for kind, rows in of_kind.items()}}
            | {"runs": [run.model_dump(mode="json") for run in self.runs]}
        )


def _means(kind: type[FrozenModel], rows: Sequence[FrozenModel]) -> dict[str, Figure]:
    columns = {name: _present(rows, name) for name in kind.model_fields}
    return {name: fmean(values) if values else None for name, values in columns.items()}


def _present(rows: Iterable[FrozenModel], name: str) -> list[float]:
    return [value for row in rows if (value := getattr(row, name)) is not None]


class PairedDifference(FrozenModel):
    """Image AUROC of one evaluation less that of another, on the same resamples of parts; above 0, the first is better.

    `interval` covers 95 % of the resampled mean over the seeds; `by_seed` are the differences as measured. What the two
    share, hard test images above all, cancels out: the interval is narrower than the difference of two intervals.
    """

    image_auroc_difference: float
    interval: Interval
    by_seed: dict[int, float]


def paired_difference(runs: Sequence[Run], others: Sequence[Run], groups: Groups | None = None) -> PairedDifference:
    """`runs` against `others`. `groups` names the part that each image shows (default: each its own).

    Raises `UserError` unless both have the same seeds with the same test images, of both kinds.
    """
    theirs = {run.seed: run for run in others}
    if {run.seed for run in runs} != set(theirs):
        raise UserError("The two evaluations have other seeds.", "Evaluate both with the same --seed.")
    by_seed, replicates = {}, []
    for run in {run.seed: run for run in runs}.values():
        names = [image.name for image in run.images]
        if names != [image.name for image in theirs[run.seed].images]:
            raise UserError(f"The test images of seed {run.seed} differ.", "Evaluate both with the same --splits.")
        defective = np.array([image.kind != GOOD for image in run.images])
        ours, other = (np.array([image.score for image in each.images]) for each in (run, theirs[run.seed]))
        measured, compared = image_auroc(ours, defective), image_auroc(other, defective)
        if measured is None or compared is None:
            raise UserError(
                "One of the evaluations tested only one kind of images.", "Test on good and defective ones."
            )
        by_seed[run.seed] = measured - compared
        parts = None if groups is None else [groups[name] for name in names]
        first, second = (auroc_replicates(scores, defective, parts, seed=run.seed) for scores in (ours, other))
        replicates.append(first - second)
    return PairedDifference(
        image_auroc_difference=fmean(by_seed.values()),
        interval=interval(np.mean(replicates, axis=0)),
        by_seed=by_seed,
    )
