"""Fit, judge, measure: one run per trial."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from flowgauge.evaluation.datasets import Entry, Sample, Unreadable, evenly, picture_of, read, require_enough, sift
from flowgauge.evaluation.grid import map_on_grid, mask_on_grid
from flowgauge.evaluation.results import Evaluation, Run
from flowgauge.evaluation.speed import BATCH, Clock, side_by_side
from flowgauge.evaluation.splits import Groups, Trial, groups_of
from flowgauge.evaluation.summary import Case, Measured, summarise
from flowgauge.models.prediction import Prediction
from flowgauge.training.gauge import Gauge
from flowgauge.vision.decoding import Picture
from flowgauge.vision.pictures import Pictures, in_batches

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

Item = TypeVar("Item")


Fitter = Callable[[Collection[Picture], Sequence[str] | None, int, Progress], Gauge]
"""A gauge from pictures, their groups and a seed."""


Inspect = Callable[[Gauge, Sequence[Case]], None]
"""Sees each run's gauge and judged images before they are forgotten."""


def nobody(gauge: Gauge, cases: Sequence[Case]) -> None:
    """Nobody looks."""


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
    sieved = [_sieved(trial, conditions.groups, progress) for trial in trials]
    done = [_run(readable, unreadable, conditions, progress) for readable, unreadable in sieved]
    detector = done[0][0]
    return Evaluation(dataset=dataset, detector=detector, device=conditions.device, runs=tuple(run for _, run in done))


def _sieved(trial: Trial, groups: Groups | None, progress: Progress) -> tuple[Trial, tuple[Unreadable, ...]]:
    """The trial without the files that cannot be read, and those."""
    entries = (*trial.train, *trial.test)
    unreadable = tuple(
        result
        for result in _counted(sift(entries), "reading", len(entries), progress)
        if isinstance(result, Unreadable)
    )
    lost = {result.name for result in unreadable}
    train, test = (tuple(entry for entry in side if entry.name not in lost) for side in (trial.train, trial.test))
    require_enough(len(train), "The training side")
    if groups is not None:
        groups_of((*train, *test), groups)
    return replace(trial, train=train, test=test), unreadable


def _run(trial: Trial, unreadable: Sequence[Unreadable], conditions: Conditions, progress: Progress) -> tuple[str, Run]:
    pictures = Pictures()
    for entry in trial.train:
        pictures.add(read(entry).picture, partial(picture_of, entry))
    groups = None if conditions.groups is None else groups_of(trial.train, conditions.groups)
    start = conditions.clock()
    gauge = conditions.fit(pictures, groups, trial.seed, progress)
    fit_seconds = conditions.clock() - start
    shown = next(in_batches(_pictures(evenly(trial.test, BATCH)), BATCH, lambda picture: picture), [])
    speed = side_by_side(gauge, shown, conditions.clock)
    del shown
    cases = tuple(_judged(gauge, trial.test, progress))
    conditions.inspect(gauge, cases)
    measured = Measured(trial, cases, fit_seconds, speed, gauge.manifest.threshold, tuple(unreadable))
    return gauge.detector_name, summarise(measured, conditions.groups)


def _pictures(entries: Sequence[Entry]) -> Iterator[Picture]:
    return (sample.picture for sample in sift(entries) if isinstance(sample, Sample))


def _judged(gauge: Gauge, entries: Sequence[Entry], progress: Progress) -> Iterator[Case]:
    samples = (sample for sample in sift(entries) if isinstance(sample, Sample))
    counted = _counted(samples, "predicting", len(entries), progress)
    for batch in in_batches(counted, BATCH, lambda sample: sample.picture):
        predictions = gauge.predict([sample.picture for sample in batch])
        yield from map(_case, batch, predictions)


def _case(sample: Sample, prediction: Prediction) -> Case:
    mask = None if sample.mask is None else mask_on_grid(sample.mask)
    silent = mask is None or (sample.entry.defective and not mask.any())
    return Case(sample.entry, prediction, map_on_grid(prediction.anomaly_map), None if silent else mask)


def _counted(items: Iterable[Item], what: str, total: int, progress: Progress) -> Iterator[Item]:
    for done, item in enumerate(items):
        progress(what, done, total)
        yield item
    progress(what, total, total)
