"""From judged images to the figures of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowgauge.domain.messages import Decision
from flowgauge.evaluation.bootstrap import Interval, auroc_replicates, interval
from flowgauge.evaluation.datasets import GOOD, Entry, Unreadable
from flowgauge.evaluation.metrics import Errors, Mask, PixelMetrics, errors_at, image_auroc, pixel_metrics
from flowgauge.evaluation.results import ClassFigures, ImageResult, Run
from flowgauge.evaluation.speed import Speed
from flowgauge.evaluation.splits import Groups, Trial, groups_of
from flowgauge.models.prediction import Prediction
from flowgauge.training.thresholds import Threshold


@dataclass(frozen=True, eq=False)
class Case:
    """A judged test image; map and mask on the grid, `mask` None for a defect that nobody has marked on it."""

    entry: Entry
    prediction: Prediction
    anomaly_map: NDArray[np.float32]
    mask: Mask | None


@dataclass(frozen=True, eq=False)
class Measured:
    """What one run gave; `limit` is the gauge's threshold, with what it promises."""

    trial: Trial
    cases: tuple[Case, ...]
    fit_seconds: float
    speed: Speed
    limit: Threshold
    unreadable: tuple[Unreadable, ...]


def summarise(measured: Measured, groups: Groups | None) -> Run:
    trial, cases, speed, limit = measured.trial, measured.cases, measured.speed, measured.limit
    scores, defective = _scores(cases), _defective(cases)
    threshold = cases[0].prediction.threshold
    errors = errors_at(threshold, scores, defective)
    pixels = _pixels(cases)
    return Run(
        seed=trial.seed,
        noise=trial.noise,
        mislabelled_share=trial.mislabelled_share,
        fitted_images=len(trial.train),
        good_images=int((~defective).sum()),
        defective_images=int(defective.sum()),
        image_auroc=image_auroc(scores, defective),
        image_auroc_interval=_interval(cases, groups, trial.seed),
        pixel_auroc=pixels and pixels.auroc,
        aupro=pixels and pixels.aupro,
        regions=pixels.regions if pixels else 0,
        per_class=_per_class(cases),
        threshold=threshold,
        false_alarm_share=errors.false_alarm_share,
        promised_false_alarm_share=limit.false_alarm_share if limit.promised is None else limit.promised,
        held_out_false_alarm_share=limit.false_alarm_share,
        promised_interval=limit.false_alarm_interval,
        miss_share=errors.miss_share,
        review_share=float(np.mean([case.prediction.decision is Decision.REVIEW for case in cases])),
        fit_seconds=measured.fit_seconds,
        images_per_second=speed.gauge,
        backbone_images_per_second=speed.backbone,
        speed_ratio=speed.ratio,
        left_out_of_pixel_metrics=tuple(case.entry.name for case in cases if case.mask is None),
        unreadable={each.name: each.cause for each in measured.unreadable},
        groups_on_both_sides=None if groups is None else _shared_groups(trial, groups),
        images=tuple(_image_result(case) for case in cases),
    )


def _scores(cases: Sequence[Case]) -> NDArray[np.float64]:
    return np.array([case.prediction.score for case in cases])


def _defective(cases: Sequence[Case]) -> Mask:
    return np.array([case.entry.defective for case in cases])


def _pixels(cases: Sequence[Case]) -> PixelMetrics | None:
    marked = [(case.anomaly_map, case.mask) for case in cases if case.mask is not None]
    return pixel_metrics([map_hw for map_hw, _ in marked], [mask for _, mask in marked])


def _interval(cases: Sequence[Case], groups: Groups | None, seed: int) -> Interval | None:
    defective = _defective(cases)
    if defective.all() or not defective.any():
        return None
    names = None if groups is None else groups_of([case.entry for case in cases], groups)
    return interval(auroc_replicates(_scores(cases), defective, names, seed=seed))


def _per_class(cases: Sequence[Case]) -> dict[str, ClassFigures]:
    good = [case for case in cases if not case.entry.defective]
    kinds = sorted({case.entry.kind for case in cases} - {GOOD})
    return {kind: _class_figures(good, [case for case in cases if case.entry.kind == kind]) for kind in kinds}


def _class_figures(good: list[Case], bad: list[Case]) -> ClassFigures:
    both = good + bad
    pixels = _pixels(both)
    errors: Errors = errors_at(both[0].prediction.threshold, _scores(bad), _defective(bad))
    return ClassFigures(
        image_auroc=image_auroc(_scores(both), _defective(both)),
        pixel_auroc=pixels and pixels.auroc,
        aupro=pixels and pixels.aupro,
        miss_share=errors.miss_share,
        images=len(bad),
    )


def _shared_groups(trial: Trial, groups: Groups) -> int:
    train, test = (set(groups_of(side, groups)) for side in (trial.train, trial.test))
    return len(train & test)


def _image_result(case: Case) -> ImageResult:
    prediction = case.prediction
    return ImageResult(name=case.entry.name, kind=case.entry.kind, score=prediction.score, decision=prediction.decision)
