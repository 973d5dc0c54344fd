"""Which images train and which test: the data set's own folders, or a file of splits; and which part each shows."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from flowgauge.domain.errors import DatasetError, UserError
from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.datasets import Dataset, Entry, evenly, posix

# Shares of defects among the training images. Beyond a half nothing tells which images are the good ones.
CONTAMINATION = (0.0, 0.1, 0.2, 0.3, 0.5)

Groups = Mapping[str, str]
Parsed = TypeVar("Parsed")


class Split(FrozenModel):
    """One entry of a splits file; paths are relative to the data set.

    `mislabelled` are those of `train` that are defective but called good. It is for reports: nothing that fits may
    read it.
    """

    seed: int
    noise: float = 0.0
    train: tuple[str, ...] = Field(min_length=1)
    mislabelled: tuple[str, ...] = ()
    test_good: tuple[str, ...]
    test_defect: tuple[str, ...]

    @property
    def test(self) -> list[str]:
        """Good images first."""
        return [*self.test_good, *self.test_defect]


class Splits(FrozenModel):
    protocol: str = ""
    splits: tuple[Split, ...] = Field(min_length=1)

    def choose(self, seed: int, noise: float | None = None) -> Split:
        """The split of that seed and share of defects in training; `noise` None stands for the lowest there is.

        Raises `DatasetError` naming what there is to choose from.
        """
        level = min(split.noise for split in self.splits) if noise is None else noise
        for split in self.splits:
            if split.seed == seed and abs(split.noise - level) < 1e-9:
                return split
        offered = ", ".join(f"seed {split.seed} noise {split.noise:g}" for split in self.splits)
        raise DatasetError(f"The splits file has no seed {seed} with noise {level:g}.", f"It has: {offered}.")


@dataclass(frozen=True)
class Trial:
    """What one run of an evaluation trains on and tests on. `mislabelled_share` is only reported."""

    seed: int
    noise: float | None
    train: tuple[Entry, ...]
    test: tuple[Entry, ...]
    mislabelled_share: float

    def limited(self, limit: int | None) -> "Trial":
        """At most `limit` training images, test images that are good, and test images of each class of defects."""
        kinds = sorted({entry.kind for entry in self.test})
        test = chain.from_iterable(evenly([e for e in self.test if e.kind == kind], limit) for kind in kinds)
        return replace(self, train=evenly(self.train, limit), test=tuple(test))

    def by_training_size(self, shots: int) -> "Trial":
        """`shots` of the training images, at most as many as there are. Their sequence is cut into `shots` equal parts
        and one image of each is drawn, by the trial's seed: spread over all of them, and other images with other seeds.
        """
        bounds = pairwise(index * len(self.train) // shots for index in range(shots + 1))
        generator = np.random.default_rng((self.seed, shots))
        return replace(self, train=tuple(self.train[generator.integers(low, high)] for low, high in bounds))


def read_splits(path: Path) -> Splits:
    """Raises `DatasetError` for a file that is missing or no file of splits."""
    return _parse(path, TypeAdapter(Splits), "splits: each with seed, noise, train, test_good and test_defect")


def read_groups(path: Path) -> Groups:
    """Image path -> group (one part, say) of a JSON file. Raises `DatasetError` for anything else."""
    given = _parse(path, TypeAdapter(dict[str, str]), "groups: one object that maps each image's path to its group")
    return {posix(name): group for name, group in given.items()} | given


def _parse(path: Path, adapter: TypeAdapter[Parsed], form: str) -> Parsed:
    try:
        return adapter.validate_python(json.loads(path.read_bytes()))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise DatasetError(f"{path} is no file of {form} ({first}).", "Check its contents.") from error


def groups_of(entries: Sequence[Entry], groups: Groups) -> list[str]:
    """Each entry's group. Raises `DatasetError` for an entry that has none."""
    missing = [entry.name for entry in entries if entry.name not in groups]
    if missing:
        raise DatasetError(
            f"{len(missing)} images have no group, {missing[0]} among them.", "Add them to the file given to --groups."
        )
    return [groups[entry.name] for entry in entries]


def groups_by_name(names: Sequence[str], pattern: str) -> Groups:
    """The part is what `pattern`, a regular expression, finds in the path: its groups, or all of it where it has none.

    Raises `UserError` for a pattern that is none, `DatasetError` for a name in which it finds nothing.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}.", "Mend the pattern of --group.") from error
    found = {name: expression.search(name) for name in names}
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise DatasetError(
            f"{pattern!r} finds nothing in {len(missing)} names, {missing[0]} among them.",
            "Mend the pattern of --group, or give --groups.",
        )
    return {name: "|".join(match.groups("") or (match[0],)) for name, match in found.items() if match is not None}


def own_trial(dataset: Dataset, seed: int) -> Trial:
    """The split that the data set's folders make. Raises `DatasetError` where there are no test images."""
    if not dataset.test:
        raise DatasetError(
            f"{dataset.root} holds no test images, so there is nothing to evaluate on.",
            "Add test/good and test/<class>, or give --splits.",
        )
    return Trial(seed, None, dataset.train, dataset.test, 0.0)


def contaminated_splits(dataset: Dataset, seeds: Iterable[int]) -> list[Split]:
    """Of the data set's own folders, for each seed and share of defects in `CONTAMINATION`. Every second defect of a
    class may be among the training images, the others are tested, so what contaminates recurs in the test. All shares
    have the same test and as many training images: twice as many as there are defects that may be among them, or all
    good ones where these are fewer.

    Raises `DatasetError` without good test images, or where the least share would be less than one image.
    """
    kinds = sorted({entry.kind for entry in dataset.test if entry.defective})
    of_kind = [[entry.name for entry in dataset.test if entry.kind == kind] for kind in kinds]
    tested, mixed_in = (tuple(chain.from_iterable(names[half::2] for names in of_kind)) for half in range(2))
    test_good = tuple(entry.name for entry in dataset.test if not entry.defective)
    count = min(2 * len(mixed_in), len(dataset.train))
    if not test_good or count * min(filter(None, CONTAMINATION)) < 1:
        raise DatasetError(
            f"{dataset.root} has {len(test_good)} good test images and {len(mixed_in)} defects that may train beside"
            f" {len(dataset.train)} good images: too few.",
            "Ten good images to train, one to test and ten defects of a class are the least; or give --splits.",
        )
    found = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        good, defects = (generator.permutation(names) for names in ([entry.name for entry in dataset.train], mixed_in))
        for share in CONTAMINATION:
            mislabelled = tuple(defects[: round(share * count)])
            train = (*good[: count - len(mislabelled)], *mislabelled)
            found.append(
                Split(
                    seed=seed,
                    noise=share,
                    train=train,
                    mislabelled=mislabelled,
                    test_good=test_good,
                    test_defect=tested,
                )
            )
    return found


def trial(dataset: Dataset, split: Split) -> Trial:
    """`split` of `dataset`. Raises `DatasetError` for a path that is not there or on both sides."""
    train = [dataset.entry(name) for name in split.train]
    good, defects = ([dataset.entry(name) for name in names] for names in (split.test_good, split.test_defect))
    shared = sorted({entry.name for entry in train} & {entry.name for entry in (*good, *defects)})
    if shared:
        raise DatasetError(
            f"The split of seed {split.seed} trains and tests on {len(shared)} images alike, {shared[0]} among them.",
            "Keep each image on one side.",
        )
    wrong = [entry.name for entry in good if entry.defective] + [e.name for e in defects if not e.defective]
    if wrong:
        raise DatasetError(
            f"The split of seed {split.seed} and the folders disagree on whether {wrong[0]} is defective.",
            "Move the image to its class, or mend the split.",
        )
    return Trial(split.seed, split.noise, tuple(train), (*good, *defects), len(split.mislabelled) / len(split.train))
