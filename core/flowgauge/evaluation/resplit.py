"""The repeated three-way split of a data set (Hönel and Nordqvist, From Lab to Factory, section 4.3).

Half of the defects choose the threshold and the other half judge it, each with as many good images beside them; all
other good images train. Images of one part are never on two sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowgauge.domain.errors import DatasetError
from flowgauge.evaluation.metrics import Mask
from flowgauge.training.fit import MINIMUM_IMAGES

MINIMUM_DEFECTS = 4
"""Fewer defective parts leave less than two to choose a threshold and two to judge it."""

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
    """Numbers of images. `idle`: good images that lie on no side, for they show a part that chooses or judges."""

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
            "one half and to judge it by the other.",
            f"Add defects to test/<class>: at least {MINIMUM_DEFECTS} parts; fifty or more give narrow intervals.",
        )
    if material.good_half < 2:
        raise DatasetError(
            f"{int((~material.defective).sum())} good images are too few to train, to choose and to judge.",
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
    choose_good, test_good = _equal(_filled(material, codes, free, rng), rng)
    halves = np.concatenate([choose_good, test_good])
    train = free[~np.isin(codes[free], codes[halves])]
    _require_enough_training_images(len(train))
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


def _filled(material: Material, codes: Numbers, free: Numbers, rng: np.random.Generator) -> list[Numbers]:
    """`good_half` images each, or what there is, of random parts of which at least one image may do anything."""
    movable = free[~material.trains[free]]
    shuffled = rng.permutation(int(codes.max()) + 1)[codes[movable]]
    in_turn = movable[np.argsort(shuffled, kind="stable")]
    half = material.good_half
    begun = in_turn[half:][codes[in_turn[half:]] != codes[in_turn[half - 1]]]
    return [in_turn[:half], begun[:half]]


def _require_enough_training_images(images: int) -> None:
    if images < MINIMUM_IMAGES:
        raise DatasetError(
            f"{images} good images are left to train; a gauge needs at least {MINIMUM_IMAGES}.",
            "Add good images, or look whether the groups are too large.",
        )
