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
from flowgauge.evaluation.bootstrap import REPLICATES, Interval, draw, interval, weighted_auroc
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.splits import Groups, Split
from flowgauge.models.detector import Detector, TrainingSet
from flowgauge.models.multidirectional.detector import Multidirectional
from flowgauge.training.fit import FitSettings, Trainer, plain_scores

GOOD = "good"


class LeftOutClass(FrozenModel):
    """One class left out under one seed. `names` were judged, `kinds` is the class of each, `labelled` trained.

    `with_labels` and `without` are their scores (higher is more anomalous) by the same features, trained by the same
    good images. `overlap`, in [-1, 1]: the cosine between where the features of the unseen class and of the labelled
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
        """With labels, and without."""
        once = np.ones(len(self.names), dtype=np.intp)
        return self.weighted(self.with_labels, once), self.weighted(self.without, once)

    def gain(self, counts: NDArray[np.intp]) -> float:
        """What labels add to AUROC where the images count so many times each."""
        return self.weighted(self.with_labels, counts) - self.weighted(self.without, counts)

    def weighted(self, scores: Sequence[float], counts: NDArray[np.intp]) -> float:
        """Image AUROC of `scores` where the images count so many times each."""
        return weighted_auroc(np.array(scores), np.array(self.kinds) != GOOD, counts)


class Gain(FrozenModel):
    """What labels add to image AUROC on unseen classes, averaged over `by_class` and seeds; `interval` covers 95 % of
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

    @property
    def kinds(self) -> list[str]:
        """The classes of defects. Raises `DatasetError` where there are fewer than two."""
        found = sorted({kind_of(name) for name in self.split.test_defect})
        if len(found) < 2:
            raise DatasetError("Leaving a class out takes two classes of defects.", "Give a data set that has more.")
        return found

    def left_out(self, kind: str) -> LeftOutClass:
        """Train with labels of the other classes, and judge `kind` and the good test images."""
        names = [*self.split.test_good, *(name for name in self.split.test_defect if kind_of(name) == kind)]
        labelled = self._labelled(kind, {self.parts[name] for name in names})
        training_set = self._training_set.labelled(self.data.plain(labelled), [kind_of(name) for name in labelled])
        detector = self._trained(training_set, {})
        return LeftOutClass(
            seed=self.split.seed,
            kind=kind,
            labelled=tuple(labelled),
            names=tuple(names),
            kinds=tuple(kind_of(name) if name in self.split.test_defect else GOOD for name in names),
            with_labels=self._scores(detector, names),
            without=self._scores(self._unlabelled, names),
            overlap=self._overlap(labelled, [name for name in names if name in self.split.test_defect]),
        )

    def _labelled(self, kind: str, judged: set[str]) -> list[str]:
        """Of the other classes in turn, at random, each of another part than all that is judged or labelled."""
        generator = np.random.default_rng((self.split.seed, self.kinds.index(kind)))
        others = [other for other in self.kinds if other != kind]
        pools = {other: [name for name in self.split.test_defect if kind_of(name) == other] for other in others}
        order = {other: [pools[other][rank] for rank in generator.permutation(len(pools[other]))] for other in others}
        chosen, taken = list[str](), set(judged)
        while len(chosen) < self.labels and any(order.values()):
            for other in others:
                name = _next(order[other], taken, self.parts)
                if name is not None and len(chosen) < self.labels:
                    chosen.append(name)
                    taken.add(self.parts[name])
        return chosen

    @cached_property
    def _training_set(self) -> TrainingSet:
        return self.data.part(self.split.train).showing([self.parts[name] for name in self.split.train])

    @cached_property
    def _unlabelled(self) -> Multidirectional:
        return self._trained(self._training_set, {"episodes": 0})

    def _trained(self, training_set: TrainingSet, changes: Mapping[str, object]) -> Multidirectional:
        settings = self.settings.model_copy(update={"config": self.settings.config | dict(changes)})
        detector = Trainer(settings, self.data.shape, self.split.seed, _silent).trained(training_set, "all images")
        assert isinstance(detector, Multidirectional), "the one detector that learns from labels"
        return detector

    def _scores(self, detector: Detector, names: Sequence[str]) -> tuple[float, ...]:
        scores = plain_scores(detector, self.data.part(names), len(names), torch.arange(len(names)))
        return tuple(scores.image.double().tolist())

    def _overlap(self, labelled: Sequence[str], left_out: Sequence[str]) -> float:
        ours, theirs = (self._unlabelled.departure(self.data.plain(names)) for names in (labelled, left_out))
        return float(torch.cosine_similarity(ours, theirs, dim=0))


def _next(pool: list[str], taken: set[str], parts: Groups) -> str | None:
    while pool:
        name = pool.pop(0)
        if parts[name] not in taken:
            return name
    return None


def kind_of(name: str) -> str:
    """The class of an image in the MVTec AD layout: `test/<class>/<file>`."""
    return name.split("/")[-2]


def gain(cells: Sequence[LeftOutClass], parts: Groups) -> Gain:
    """Over all cells; the test images of several seeds are largely the same, so a part is drawn for all of them."""
    names = sorted({name for cell in cells for name in cell.names})
    members, strata = _strata(names, cells, parts)
    row_of = {name: number for number, name in enumerate(names)}
    rows = [np.array([row_of[name] for name in cell.names]) for cell in cells]
    generator, replicates = np.random.default_rng(0), []
    for _ in range(REPLICATES):
        counts = draw(generator, strata)[members]
        replicates.append(fmean(cell.gain(counts[own]) for cell, own in zip(cells, rows, strict=True)))
    by_class = {kind: _mean_gain([cell for cell in cells if cell.kind == kind]) for kind in sorted(_kinds(cells))}
    return Gain(mean=_mean_gain(cells), interval=interval(np.array(replicates)), by_class=by_class)


def _mean_gain(cells: Sequence[LeftOutClass]) -> float:
    return fmean(cell.gain(np.ones(len(cell.names), dtype=np.intp)) for cell in cells)


def _kinds(cells: Sequence[LeftOutClass]) -> set[str]:
    return {cell.kind for cell in cells}


def _strata(
    names: Sequence[str], cells: Sequence[LeftOutClass], parts: Groups
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Each image's part, as an index, and each part's stratum: the parts that show the same classes are drawn as one,
    so every resample keeps all classes.
    """
    kind = {name: kind for cell in cells for name, kind in zip(cell.names, cell.kinds, strict=True)}
    found, members = np.unique([parts[name] for name in names], return_inverse=True)
    shown = [set[str]() for _ in found]
    for name, member in zip(names, members, strict=True):
        shown[member].add(kind[name])
    _, strata = np.unique(["+".join(sorted(kinds)) for kinds in shown], return_inverse=True)
    return members, strata


def _silent(what: str, done: int, total: int) -> None:
    """A fit is one step of a benchmark."""
