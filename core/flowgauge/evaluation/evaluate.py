"""Fit, predict, measure: one run per trial, and the speed of a gauge.

Pixel metrics are taken on a grid of 256 x 256: images of many sizes count alike, and figures compare with others'.
Anomaly maps go up bilinearly, masks go down by nearest neighbour: a grid point is defective if the image is, there, and
a defect thinner than a step of the grid may vanish.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import Decision
from flowgauge.domain.progress import Progress, counted
from flowgauge.evaluation.datasets import (
    GOOD,
    Entry,
    Sample,
    Unreadable,
    evenly,
    picture_of,
    read,
    require_enough,
    sift,
)
from flowgauge.evaluation.intervals import Interval, auroc_replicates, interval
from flowgauge.evaluation.metrics import Mask, PixelMetrics, errors_at, image_auroc, pixel_metrics
from flowgauge.evaluation.results import ClassFigures, Evaluation, ImageResult, Run
from flowgauge.evaluation.splits import Groups, Trial, groups_of
from flowgauge.evaluation.stopwatch import Clock, Stopwatch, rate
from flowgauge.models.prediction import Prediction
from flowgauge.training.gauge import Gauge
from flowgauge.vision.augmentation import normalised
from flowgauge.vision.decoding import Picture
from flowgauge.vision.pictures import Pictures, in_batches

GRID = (256, 256)
"""The side at which the literature reports MVTec AD. Finer grids cost memory (maps of all test images are held at a
time, 256 KiB each); on coarser ones small defects vanish."""

BATCH = 16
REPETITIONS = 5
"""An odd number, so that the median is a time that was measured. Fewer leave it to what else the machine does."""

Fitter = Callable[[Pictures, Sequence[str] | None, int, Progress], Gauge]
"""A gauge from pictures, their groups and a seed."""


@dataclass(frozen=True, eq=False)
class Case:
    """A predicted test image; map and mask on the grid, `mask` None for a defect that nobody has marked on it."""

    entry: Entry
    prediction: Prediction
    anomaly_map: NDArray[np.float32]
    mask: Mask | None


Inspect = Callable[[Gauge, Sequence[Case]], None]
"""Sees each run's gauge and predicted images before they are forgotten."""


def nobody(gauge: Gauge, cases: Sequence[Case]) -> None:
    """Inspects nothing."""


@dataclass(frozen=True)
class Conditions:
    """How to evaluate. `clock` gives seconds; `groups` None: every image is a part of its own."""

    fit: Fitter
    clock: Clock
    device: str
    groups: Groups | None = None
    inspect: Inspect = nobody


def evaluate(dataset: str, trials: Sequence[Trial], conditions: Conditions, progress: Progress) -> Evaluation:
    """One run per trial. All images are read, and all masks checked, before the first fit.

    Unreadable images are left out and named in their run. Raises `DatasetError` for a mask of the wrong size, an image
    without a group, or too few images to learn from.
    """
    readable = [_readable(trial, conditions.groups, progress) for trial in trials]
    done = [_run(trial, unreadable, conditions, progress) for trial, unreadable in readable]
    runs = tuple(run for _, run in done)
    return Evaluation(dataset=dataset, detector=done[0][0], device=conditions.device, runs=runs)


def _readable(trial: Trial, groups: Groups | None, progress: Progress) -> tuple[Trial, tuple[Unreadable, ...]]:
    """The trial without the files that cannot be read, and those."""
    entries = (*trial.train, *trial.test)
    found = counted(sift(entries), len(entries), "reading", progress)
    unreadable = tuple(result for result in found if isinstance(result, Unreadable))
    lost = {result.name for result in unreadable}
    train, test = (tuple(entry for entry in side if entry.name not in lost) for side in (trial.train, trial.test))
    require_enough(len(train), "The training side")
    if not test:
        raise DatasetError("No test image can be read.", "Give a data set whose test images can be opened.")
    if groups is not None:
        groups_of((*train, *test), groups)
    return replace(trial, train=train, test=test), unreadable


def _run(trial: Trial, unreadable: Sequence[Unreadable], conditions: Conditions, progress: Progress) -> tuple[str, Run]:
    """The detector's name, and the figures."""
    pictures, groups = Pictures(), conditions.groups
    for entry in trial.train:
        pictures.add(read(entry).picture, partial(picture_of, entry))
    parts = None if groups is None else groups_of(trial.train, groups)
    start = conditions.clock()
    gauge = conditions.fit(pictures, parts, trial.seed, progress)
    fit_seconds = conditions.clock() - start
    readable = (sample.picture for sample in sift(evenly(trial.test, BATCH)) if isinstance(sample, Sample))
    timed = next(in_batches(readable, BATCH, lambda picture: picture), [])
    own_rate, backbone_rate = side_by_side(gauge, timed, conditions.clock)
    del timed  # pictures at the camera's size
    cases = list(_predicted(gauge, trial.test, progress))
    conditions.inspect(gauge, cases)
    scores, defective = _scores(cases), _defective(cases)
    limit, threshold = gauge.manifest.threshold, cases[0].prediction.threshold
    errors, pixels = errors_at(threshold, scores, defective), _pixels(cases)
    shared = None if groups is None else len({*groups_of(trial.train, groups)} & {*groups_of(trial.test, groups)})
    return gauge.detector_name, Run(
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
        fit_seconds=fit_seconds,
        images_per_second=own_rate,
        backbone_images_per_second=backbone_rate,
        speed_ratio=own_rate / backbone_rate,
        left_out_of_pixel_metrics=tuple(case.entry.name for case in cases if case.mask is None),
        unreadable={each.name: each.cause for each in unreadable},
        groups_on_both_sides=shared,
        images=tuple(
            ImageResult(name=c.entry.name, kind=c.entry.kind, score=c.prediction.score, decision=c.prediction.decision)
            for c in cases
        ),
    )


def _predicted(gauge: Gauge, entries: Sequence[Entry], progress: Progress) -> Iterator[Case]:
    samples = (sample for sample in sift(entries) if isinstance(sample, Sample))
    shown = counted(samples, len(entries), "predicting", progress)
    for batch in in_batches(shown, BATCH, lambda sample: sample.picture):
        for sample, prediction in zip(batch, gauge.predict([sample.picture for sample in batch]), strict=True):
            map_hw = Image.fromarray(np.ascontiguousarray(prediction.anomaly_map, dtype=np.float32))
            mask = None
            if sample.mask is not None:
                mask = np.asarray(Image.fromarray(sample.mask).resize(GRID, Image.Resampling.NEAREST))
            if mask is not None and sample.entry.defective and not mask.any():
                mask = None  # an empty mask does not say that the defect is nowhere
            yield Case(sample.entry, prediction, np.asarray(map_hw.resize(GRID, Image.Resampling.BILINEAR)), mask)


def _scores(cases: Sequence[Case]) -> NDArray[np.float64]:
    return np.array([case.prediction.score for case in cases])


def _defective(cases: Sequence[Case]) -> Mask:
    return np.array([case.entry.defective for case in cases])


def _pixels(cases: Sequence[Case]) -> PixelMetrics | None:
    marked = [(case.anomaly_map, case.mask) for case in cases if case.mask is not None]
    return pixel_metrics([map_hw for map_hw, _ in marked], [mask for _, mask in marked])


def _interval(cases: Sequence[Case], groups: Groups | None, seed: int) -> Interval | None:
    """Of the image AUROC; None unless both kinds are there."""
    defective = _defective(cases)
    if defective.all() or not defective.any():
        return None
    names = None if groups is None else groups_of([case.entry for case in cases], groups)
    return interval(auroc_replicates(_scores(cases), defective, names, seed=seed))


def _per_class(cases: Sequence[Case]) -> dict[str, ClassFigures]:
    """Each class of defects against all good test images."""
    found: dict[str, ClassFigures] = {}
    for kind in sorted({case.entry.kind for case in cases} - {GOOD}):
        bad = [case for case in cases if case.entry.kind == kind]
        both = [case for case in cases if not case.entry.defective] + bad
        pixels = _pixels(both)
        found[kind] = ClassFigures(
            image_auroc=image_auroc(_scores(both), _defective(both)),
            pixel_auroc=pixels and pixels.auroc,
            aupro=pixels and pixels.aupro,
            miss_share=errors_at(both[0].prediction.threshold, _scores(bad), _defective(bad)).miss_share,
            images=len(bad),
        )
    return found


def side_by_side(gauge: Gauge, pictures: Sequence[Picture], clock: Clock) -> tuple[float, float]:
    """Images a second of a gauge, and of its bare backbone in turns with it, so that the machine cancels out: by the
    median of `REPETITIONS` batches of `BATCH` pictures.

    The gauge does all that a worker does after decoding, from pixels to predictions, in as many views as its detector
    wants; the backbone gets the same pictures through the same preprocessing once, and its features are thrown away.
    `clock` gives seconds. Fewer pictures than a batch are repeated; at least one is needed.
    """
    batch = list(islice(cycle(pictures), BATCH))
    preprocessing = gauge.manifest.preprocessing
    times = Stopwatch(clock, "cuda" if torch.cuda.is_available() else "cpu").in_turns(
        {
            "gauge": lambda: gauge.predict(batch),
            "backbone": lambda: gauge.backbone(normalised(preprocessing, preprocessing.crops(batch))),
        },
        REPETITIONS,
    )
    return rate(BATCH, times["gauge"]), rate(BATCH, times["backbone"])
