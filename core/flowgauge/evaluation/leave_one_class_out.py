"""Whether a few labelled defects help with classes of defects that nobody has labelled: each is left out in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import silent
from flowgauge.evaluation.datasets import GOOD
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.intervals import REPLICATES, Interval, draw, interval, weighted_auroc
from flowgauge.evaluation.splits import Groups, Split
from flowgauge.models.detector import TrainingSet
from flowgauge.models.multidirectional.detector import Multidirectional
from flowgauge.training.fit import FitSettings, Trainer


class LeftOutClass(FrozenModel):
    """One class left out under one seed. `names` were tested, `kinds` is the class of each, `labelled` trained.

    `with_labels` and `without` are their scores (higher is more anomalous) by the same features, trained by the same
    good images. `overlap`, in [-1, 1]: the cosine between where the features of the left_out class and of the labelled
    images stand out from good ones.
    """

    seed: int
    kind: str
    labelled: tuple[str, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    with_labels: tuple[float, ...]
    without: tuple[float, ...]
    overlap: float

    @property
    def auroc(self) -> tuple[float, float]:
        """In [0, 1], with labels, and without."""
        return self._weighted(np.ones(len(self.names), dtype=np.intp))

    def gain(self, counts: NDArray[np.intp]) -> float:
        """What labels add to AUROC where the images count so many times each."""
        with_labels, without = self._weighted(counts)
        return with_labels - without

    def _weighted(self, counts: NDArray[np.intp]) -> tuple[float, float]:
        defective = np.array(self.kinds) != GOOD
        with_labels, without = (np.array(scores) for scores in (self.with_labels, self.without))
        return weighted_auroc(with_labels, defective, counts), weighted_auroc(without, defective, counts)


class Gain(FrozenModel):
    """What labels add to image AUROC on left_out classes, averaged over `by_class` and seeds; `interval` covers 95 % of
    resamples of the parts, each drawn for all classes and seeds at once.
    """

    mean: float
    interval: Interval
    by_class: dict[str, float]


@dataclass(frozen=True)
class LeftOutClasses:
    """Leaves out each class of `split` in turn. `parts` names the part that each image shows; `labels` is how many
    images of the other classes are labelled.
    """

    data: Embedded
    split: Split
    parts: Groups
    settings: FitSettings
    labels: int

    @cached_property
    def kinds(self) -> list[str]:
        """The classes of defects. Raises `DatasetError` where there are fewer than two."""
        found = sorted({kind_of(name) for name in self.split.test_defect})
        if len(found) < 2:
            raise DatasetError("Leaving a class out takes two classes of defects.", "Give a data set that has more.")
        return found

    def left_out(self, kind: str) -> LeftOutClass:
        """Train with labels of the other classes, and test on `kind` and the good test images."""
        left_out = [name for name in self.split.test_defect if kind_of(name) == kind]
        names = [*self.split.test_good, *left_out]
        labelled = self._labelled(kind, {self.parts[name] for name in names})
        training_set = self._training_set.labelled(self.data.plain(labelled), [kind_of(name) for name in labelled])
        detector = self._trained(training_set, {})
        ours, theirs = (self._unlabelled.departure(self.data.plain(some)) for some in (labelled, left_out))
        return LeftOutClass(
            seed=self.split.seed,
            kind=kind,
            labelled=tuple(labelled),
            names=tuple(names),
            kinds=(*[GOOD] * len(self.split.test_good), *[kind] * len(left_out)),
            with_labels=tuple(self.data.scores(detector, names).tolist()),
            without=tuple(self.data.scores(self._unlabelled, names).tolist()),
            overlap=float(torch.cosine_similarity(ours, theirs, dim=0)),
        )

    def _labelled(self, kind: str, taken: set[str]) -> list[str]:
        """Of the other classes in turn, at random, each of another part than all that is tested or labelled."""
        generator = np.random.default_rng((self.split.seed, self.kinds.index(kind)))
        order: dict[str, list[str]] = {}
        for other in self.kinds:
            pool = [name for name in self.split.test_defect if kind_of(name) == other]
            if other != kind:
                order[other] = [pool[rank] for rank in generator.permutation(len(pool))]
        chosen = list[str]()
        while len(chosen) < self.labels and any(order.values()):
            for pool in order.values():
                while pool and self.parts[pool[0]] in taken:
                    pool.pop(0)
                if pool and len(chosen) < self.labels:
                    chosen.append(pool.pop(0))
                    taken.add(self.parts[chosen[-1]])
        return chosen

    @cached_property
    def _training_set(self) -> TrainingSet:
        return self.data.part(self.split.train).showing([self.parts[name] for name in self.split.train])

    @cached_property
    def _unlabelled(self) -> Multidirectional:
        return self._trained(self._training_set, {"episodes": 0})

    def _trained(self, training_set: TrainingSet, changes: Mapping[str, object]) -> Multidirectional:
        settings = self.settings.model_copy(update={"config": self.settings.config | dict(changes)})
        detector = Trainer(settings, self.data.shape, self.split.seed, silent).trained(training_set, "all images")
        assert isinstance(detector, Multidirectional), "the one detector that learns from labels"
        return detector


def kind_of(name: str) -> str:
    """The class of an image in the MVTec AD layout: `test/<class>/<file>`."""
    return name.split("/")[-2]


def gain(cells: Sequence[LeftOutClass], parts: Groups) -> Gain:
    """Over all cells; the test images of several seeds are largely the same, so a part is drawn for all of them."""
    kind = {name: kind for cell in cells for name, kind in zip(cell.names, cell.kinds, strict=True)}
    names = sorted(kind)
    row_of = {name: row for row, name in enumerate(names)}
    rows = [np.array([row_of[name] for name in cell.names]) for cell in cells]
    found, members = np.unique([parts[name] for name in names], return_inverse=True)
    # the parts that show the same classes are one stratum, so every resample keeps all classes
    shown = [{kind[names[row]] for row in np.flatnonzero(members == part)} for part in range(len(found))]
    _, strata = np.unique(["+".join(sorted(kinds)) for kinds in shown], return_inverse=True)
    generator, replicates = np.random.default_rng(0), []
    for _ in range(REPLICATES):
        counts = draw(generator, strata)[members]
        replicates.append(fmean(cell.gain(counts[own]) for cell, own in zip(cells, rows, strict=True)))
    gains = [(cell.kind, cell.auroc[0] - cell.auroc[1]) for cell in cells]
    by_class = {name: fmean(value for kind, value in gains if kind == name) for name in sorted(dict(gains))}
    return Gain(mean=fmean(value for _, value in gains), interval=interval(np.array(replicates)), by_class=by_class)
