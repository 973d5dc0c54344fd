"""Repeated three-way splits of a data set (Hönel and Nordqvist, From Lab to Factory, section 4.3), one fit for each.

Half of the defects choose the threshold and the other half test it, each with as many good images beside them; all
other good images train. Images of one part are never on two sides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flowgauge.domain.errors import DatasetError
from flowgauge.domain.progress import Progress
from flowgauge.evaluation.choices import Chooser
from flowgauge.evaluation.estimate import Repeat
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.metrics import Mask
from flowgauge.models.detector import Detector
from flowgauge.training.fit import MINIMUM_IMAGES, FitSettings, Initialization, Trainer, folds_of
from flowgauge.training.thresholds import Calibration

MINIMUM_DEFECTS = 4
"""Fewer defective parts leave less than two to choose a threshold and two to test it."""

Numbers = NDArray[np.intp]


@dataclass(frozen=True)
class Material:
    """What there is to divide: for each of N images whether it is `defective`, which part it shows (`groups`), and
    whether it may only train (`trains`, good images alone; all False: every good image may do anything).
    """

    defective: Mask
    groups: tuple[str, ...]
    trains: Mask

    @property
    def half(self) -> int:
        """Defects in each half."""
        return int(self.defective.sum()) // 2

    @property
    def good_half(self) -> int:
        """Good images in each half: as many as defects, but no more than leaves half of all good ones to train, or
        than those offer that do not only train.
        """
        good = ~self.defective
        return min(self.half, int(good.sum()) // 4, int((good & ~self.trains).sum()) // 2)


@dataclass(frozen=True)
class Partition:
    """Numbers of images. `idle`: good images that lie on no side, for they show a part that chooses or tests."""

    train: Numbers
    choose_good: Numbers
    choose_defect: Numbers
    test_good: Numbers
    test_defect: Numbers
    idle: Numbers


def require_divisible(material: Material) -> None:
    """Raises `DatasetError` unless both halves get defects and good images, and enough is left to train."""
    parts = len(np.unique(np.asarray(material.groups)[material.defective]))
    if parts < MINIMUM_DEFECTS:
        raise DatasetError(
            f"{int(material.defective.sum())} defective images of {parts} parts are too few to choose a threshold by "
            "one half and to test it on the other.",
            f"Add defects to test/<class>: at least {MINIMUM_DEFECTS} parts; fifty or more give narrow intervals.",
        )
    if material.good_half < 2:
        raise DatasetError(
            f"{int((~material.defective).sum())} good images are too few to train, to choose and to test.",
            "Add good images; where --keep-apart is given, to test/good.",
        )


def resplit(material: Material, seed: int) -> Partition:
    """Same material and seed, same partition. Both halves have equally many defects, and equally many good images.

    Defective parts are dealt largest first, to the half that has fewer images, ties by chance; of good parts random
    ones fill the halves. What is over where a part does not fit whole is idle, and so are good images of defective
    parts. Raises `DatasetError` for too few images.
    """
    require_divisible(material)
    rng = np.random.default_rng(seed)
    codes = np.unique(np.asarray(material.groups), return_inverse=True)[1]
    bad, good = np.flatnonzero(material.defective), np.flatnonzero(~material.defective)
    choose_defect, test_defect = _equal([bad[np.isin(codes[bad], side)] for side in _dealt(codes[bad], rng)], rng)
    free = good[~np.isin(codes[good], codes[bad])]
    # good parts in random order; the first ones fill one half, and the next ones, from a new part on, the other
    movable = free[~material.trains[free]]
    shuffled = rng.permutation(int(codes.max()) + 1)[codes[movable]]
    in_turn = movable[np.argsort(shuffled, kind="stable")]
    half = material.good_half
    rest = in_turn[half:][codes[in_turn[half:]] != codes[in_turn[half - 1]]]
    choose_good, test_good = _equal([in_turn[:half], rest[:half]], rng)
    halves = np.concatenate([choose_good, test_good])
    train = free[~np.isin(codes[free], codes[halves])]
    if len(train) < MINIMUM_IMAGES:
        raise DatasetError(
            f"{len(train)} good images are left to train; a gauge needs at least {MINIMUM_IMAGES}.",
            "Add good images, or look whether the groups are too large.",
        )
    idle = np.setdiff1d(good, np.concatenate([train, halves]))
    return Partition(train, choose_good, choose_defect, test_good, test_defect, idle)


def _dealt(codes: Numbers, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """The parts of two sides, about equally many images on each."""
    parts, sizes = np.unique(codes, return_counts=True)
    order = np.lexsort((rng.random(len(parts)), -sizes))
    sides: tuple[list[int], list[int]] = ([], [])
    images = np.zeros(2)
    for part in order:
        lighter = int(rng.integers(2)) if images[0] == images[1] else int(np.argmin(images))
        sides[lighter].append(int(parts[part]))
        images[lighter] += sizes[part]
    return sides


def _equal(sides: Sequence[Numbers], rng: np.random.Generator) -> list[Numbers]:
    """As many of each side, by chance, as the smallest has."""
    least = min(len(side) for side in sides)
    return [np.sort(rng.permutation(side)[:least]) for side in sides]


@dataclass(frozen=True)
class Replicates:
    """Fits to what a split leaves to train, chooses the threshold, and tests it. `data` of all images, which `material`
    describes in the same order. `clock` gives seconds.
    """

    data: Embedded
    material: Material
    chooser: Chooser
    settings: FitSettings
    init: Initialization | None
    clock: Callable[[], float]
    progress: Progress

    def repeat(self, seed: int) -> Repeat:
        """Same data and seed, same repeat. Raises `DatasetError` for too few images."""
        begun = self.clock()
        split = resplit(self.material, seed)
        parts = [self.material.groups[number] for number in split.train]
        training_set = self.data.part([self.data.names[number] for number in split.train]).showing(parts)
        trainer = Trainer(self.settings, self.data.shape, seed, self.progress, self.init)
        detector = trainer.trained(training_set, "all images")

        def own_threshold() -> float:
            """As `fit` sets it: on scores of images that trained, each by a detector that never saw it."""
            folds, nobody = folds_of(parts, self.settings.folds), torch.empty(0, dtype=torch.long)
            held_out = trainer.cross_fitted(training_set, folds, nobody, scale_of=detector)
            return self.settings.threshold(held_out.image.double().numpy(), folds, parts, seed).value

        chosen_by = np.array([*self._scores(detector, split.choose_good).values()])
        defects = np.array([*self._scores(detector, split.choose_defect).values()])
        threshold = self.chooser.threshold(chosen_by, defects, own_threshold)
        scale = Calibration.of(chosen_by)
        return Repeat(
            seed=seed,
            threshold=threshold,
            median=scale.median,
            deviation=scale.deviation,
            good=self._scores(detector, split.test_good),
            defect=self._scores(detector, split.test_defect),
            train_images=len(split.train),
            idle=len(split.idle),
            seconds=self.clock() - begun,
        )

    def _scores(self, detector: Detector, numbers: Numbers) -> dict[str, float]:
        """By name; higher is more anomalous."""
        names = [self.data.names[number] for number in numbers]
        return dict(zip(names, self.data.scores(detector, names).tolist(), strict=True))
