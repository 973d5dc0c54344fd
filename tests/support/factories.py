"""Factories whose truth is known: Gaussian features, and a detector that measures the distance from the mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowgauge.domain.folds import fold_of
from flowgauge.evaluation.choices import Choice, Chooser, Costs
from flowgauge.evaluation.estimate import Estimate, Repeat, estimated
from flowgauge.evaluation.intervals import Interval
from flowgauge.evaluation.replicates import Material, Partition, resplit
from flowgauge.training.thresholds import FALSE_ALARMS, Calibration, CalibrationScores

Features = NDArray[Any]
Population = tuple[Features, Features]  # features, and their squared lengths
REPEATS = 10
_OF_PART = 0.7  # share of the features' variance that images of one part have in common

COSTS = Costs(miss=20, false_alarm=1, prevalence=0.05)


@dataclass(frozen=True)
class Factory:
    """`good` and `defects`: how many images of each the data set has, of parts with 1 to `most_images` images. Defects
    lie `separation` away along the first of the `dimensions` and are `width` times as spread.
    """

    good: int
    defects: int
    separation: float
    choice: Choice
    dimensions: int = 4
    width: float = 1.0
    most_images: int = 1
    budget: float = 0.05
    costs: Costs = COSTS

    def __str__(self) -> str:
        parts = f", 1 to {self.most_images} images a part" if self.most_images > 1 else ""
        budget = f" {self.budget:g}" if self.choice is Choice.BUDGET else ""
        return f"{self.good} good, {self.defects} defects, {self.choice}{budget}{parts}"

    def draw(self, groups: NDArray[np.intp], defective: bool, rng: np.random.Generator) -> Features:
        """Features of images of those parts."""
        shape = (len(groups), self.dimensions)
        common = rng.standard_normal((int(groups.max()) + 1, self.dimensions))[groups]
        own = rng.standard_normal(shape)
        mixed = own if self.most_images == 1 else np.sqrt(_OF_PART) * common + np.sqrt(1 - _OF_PART) * own
        return self.placed(np.asarray(mixed), defective)

    def placed(self, features: Features, defective: bool) -> Features:
        if not defective:
            return features
        offset = np.eye(1, self.dimensions, dtype=features.dtype)[0] * self.separation
        return np.asarray(features * self.width + offset)

    def parts(self, images: int, rng: np.random.Generator) -> NDArray[np.intp]:
        sizes = rng.integers(1, self.most_images + 1, size=images)
        return np.repeat(np.arange(images), sizes)[:images]


@dataclass(frozen=True)
class Outcome:
    """An estimate, and what the repeats' detectors and thresholds truly do, on average."""

    estimate: Estimate
    false_alarms: float
    misses: float


@cache
def _population(factory: Factory, parts: int) -> tuple[Population, Population]:
    """Good parts and defects that no data set holds."""
    features = np.random.default_rng(12345).standard_normal((parts, factory.dimensions), dtype=np.float32)
    good, bad = (factory.placed(features, defective) for defective in (False, True))
    return (good, (good**2).sum(axis=1, keepdims=True)), (bad, (bad**2).sum(axis=1, keepdims=True))


def simulated(factory: Factory, seed: int, fresh: int = 100_000) -> Outcome:
    """One data set, its `REPEATS` splits, and the truth on `fresh` other good parts and defects."""
    rng = np.random.default_rng(seed)
    good_parts = factory.parts(factory.good, rng)
    bad_parts = factory.parts(factory.defects, rng) + factory.good
    features = np.concatenate([factory.draw(good_parts, False, rng), factory.draw(bad_parts - factory.good, True, rng)])
    defective = np.arange(len(features)) >= factory.good
    groups = tuple(str(part) for part in np.concatenate([good_parts, bad_parts]))
    material = Material(defective, groups, np.zeros_like(defective))
    done = [_repeat(factory, features, groups, resplit(material, k), k) for k in range(REPEATS)]
    names = {str(number): group for number, group in enumerate(groups)}
    found = estimated([repeat for repeat, _ in done], names, factory.costs, factory.good)
    centres = np.array([centre for _, centre in done])
    thresholds = np.array([repeat.threshold for repeat, _ in done])
    alarms, caught = (_alarms(parts, centres, thresholds) for parts in _population(factory, fresh))
    return Outcome(found, alarms, 1 - caught)


def _alarms(parts: Population, centres: Features, thresholds: Features) -> float:
    """The mean share over detectors; in single precision, for parts are many."""
    features, crops = parts
    inside = features @ (2 * centres.T).astype(np.float32)
    inside -= crops
    return float((inside < ((centres**2).sum(axis=1) - thresholds).astype(np.float32)).mean())


def _distances(features: Features, centres: Features) -> Features:
    """(images, centres), squared."""
    crops = (features**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return np.asarray(crops - 2 * features @ centres.T)


def _repeat(
    factory: Factory, features: Features, groups: Sequence[str], split: Partition, seed: int
) -> tuple[Repeat, Features]:
    """The repeat, and the centre from which its detector measures."""
    centre = features[split.train].mean(axis=0)
    scores = _distances(features, centre[None])[:, 0]
    chosen_by = scores[split.choose_good]
    repeat = Repeat(
        seed=seed,
        threshold=_threshold(factory, features, groups, scores, split),
        median=float(np.median(chosen_by)),
        deviation=Calibration.of(chosen_by).deviation,
        good={str(number): float(scores[number]) for number in split.test_good},
        defect={str(number): float(scores[number]) for number in split.test_defect},
        train_images=len(split.train),
        idle=len(split.idle),
        seconds=0.0,
    )
    return repeat, centre


def _threshold(
    factory: Factory, features: Features, groups: Sequence[str], scores: Features, split: Partition
) -> float:
    good, defect = scores[split.choose_good], scores[split.choose_defect]

    def own() -> float:
        parts = [groups[number] for number in split.train]
        return CalibrationScores.of(_held_out(features[split.train], parts), parts).at(FALSE_ALARMS)

    chooser = Chooser(choice=factory.choice, costs=factory.costs, budget=factory.budget)
    return chooser.threshold(good, defect, own)


def _held_out(features: Features, groups: Sequence[str]) -> Features:
    """Scores of training images by the mean of the other fold's."""
    folds = fold_of(groups, 2)
    means = np.array([features[folds != fold].mean(axis=0) for fold in range(2)])
    return np.asarray(((features - means[folds]) ** 2).sum(axis=1))


@dataclass(frozen=True)
class Coverage:
    """`covered`: the share of simulations whose interval holds the truth; `width`: the mean width in units of 3.92
    deviations of the estimate over the simulations.
    """

    covered: float
    width: float


KINDS = ("interval", "plain_interval", "corrected_interval")


def coverage(outcomes: Sequence[Outcome], figure: str, truth: str) -> dict[str, Coverage]:
    """Of each kind of interval that a figure comes with."""
    figures = [getattr(outcome.estimate, figure) for outcome in outcomes]
    truths = [getattr(outcome, truth) for outcome in outcomes]
    unit = 3.92 * float(np.std([found.mean for found in figures], ddof=1))

    def of(kind: str) -> Coverage:
        ends: list[Interval] = [getattr(found, kind) for found in figures]
        covered = np.mean([low <= true <= high for (low, high), true in zip(ends, truths, strict=True)])
        return Coverage(float(covered), float(np.mean([high - low for low, high in ends])) / unit)

    return {kind: of(kind) for kind in KINDS}
