"""How much defects among the images that teach cost: the same fit at rising shares of them, in variants."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from statistics import fmean, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import Part
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.metrics import image_auroc
from flowgauge.evaluation.splits import Groups, Split
from flowgauge.models.detector import Detector, Lesson
from flowgauge.models.headflow.detector import HeadFlow, panel_options
from flowgauge.training.fit import FitSettings, Initialization, Teacher, folds_of, plain_scores
from flowgauge.training.mutual_scoring import MutualScoring
from flowgauge.training.outliers import Rejection, patch_limit
from flowgauge.training.thresholds import Rule


class Variant(StrEnum):
    """`full`: a panel, whose members are each taught without one fold of the parts and start from theta*; all images
    teach. `wide-panel`: five members, each taught without two fifths of the parts. Without an ingredient of `full`:
    `no-panel` teaches one member, `no-meta` starts at random. With one that did not earn its place there: `mutual`
    leaves out images that are suspect beside the others, before anything is fitted; `one-sided` and `iqr` leave out
    images, and places of the other images, by scores of detectors that were fitted without the image in question, in
    two rounds; `image-grain` leaves out the images alone, `patch-grain` the places alone. `no-rejection` and `no-l2`
    are `full`, by the names of what it does not do: the pull to where learning started is for adapting, where there is
    an anchor that has seen the line clean.

    For comparison, one member from a random start: `plain`, all images teach; `replay`, every second image teaches only
    where a detector accepts it that was fitted without it to the others of that half, as a parent's accepted images are
    shown again to its successor (arXiv 2605.24251 finds that hard to beat); `clean-oracle`, those that are mislabelled
    do not teach, which only a benchmark can know. Peers, on the same features: `patchcore` and `padim`, which take all
    images for good.
    """

    FULL = "full"
    WIDE_PANEL = "wide-panel"
    NO_PANEL = "no-panel"
    NO_META = "no-meta"
    NO_L2 = "no-l2"
    NO_REJECTION = "no-rejection"
    MUTUAL = "mutual"
    ONE_SIDED = "one-sided"
    IQR = "iqr"
    IMAGE_GRAIN = "image-grain"
    PATCH_GRAIN = "patch-grain"
    REPLAY = "replay"
    PLAIN = "plain"
    CLEAN_ORACLE = "clean-oracle"
    PATCHCORE = "patchcore"
    PADIM = "padim"


@dataclass(frozen=True)
class _Recipe:
    """`changes` to the settings decide which images teach, `places` whether all of their places do; `meta`: from
    theta*; `panel`: the options of one, where the detector can be one.
    """

    changes: Mapping[str, object]
    places: bool = False
    meta: bool = True
    panel: Mapping[str, object] = field(default_factory=lambda: panel_options(3))

    def rejecting(self, settings: FitSettings) -> FitSettings:
        return settings.model_copy(update=dict(self.changes))

    def teaching(self, settings: FitSettings) -> FitSettings:
        panel = self.panel if settings.detector == HeadFlow.name else {}
        return settings.model_copy(update={"config": settings.config | dict(panel)})


_ONE_MEMBER: Mapping[str, object] = {}
_ALL_TEACH: Mapping[str, object] = {"refine": 0, "mutual": None}
_BY_CROSS_FITTING: Mapping[str, object] = {"refine": 2, "mutual": None}
_RECIPES = {
    Variant.FULL: _Recipe(_ALL_TEACH),
    Variant.WIDE_PANEL: _Recipe(_ALL_TEACH, panel=panel_options(5)),
    Variant.NO_PANEL: _Recipe(_ALL_TEACH, panel=_ONE_MEMBER),
    Variant.NO_META: _Recipe(_ALL_TEACH, meta=False),
    Variant.NO_L2: _Recipe(_ALL_TEACH),
    Variant.NO_REJECTION: _Recipe(_ALL_TEACH),
    Variant.MUTUAL: _Recipe({"refine": 1, "mutual": MutualScoring()}),
    Variant.ONE_SIDED: _Recipe(_BY_CROSS_FITTING, places=True),
    Variant.IQR: _Recipe({**_BY_CROSS_FITTING, "suspect_rule": Rule.IQR}, places=True),
    Variant.IMAGE_GRAIN: _Recipe(_BY_CROSS_FITTING),
    Variant.PATCH_GRAIN: _Recipe(_ALL_TEACH, places=True),
    Variant.REPLAY: _Recipe({"refine": 1, "mutual": None}, meta=False, panel=_ONE_MEMBER),
    Variant.PLAIN: _Recipe(_ALL_TEACH, meta=False, panel=_ONE_MEMBER),
    Variant.CLEAN_ORACLE: _Recipe(_ALL_TEACH, meta=False, panel=_ONE_MEMBER),
}


def needs_theta(variant: Variant) -> bool:
    return variant in _RECIPES and _RECIPES[variant].meta


class Cell(Part):
    """One fit. Shares in [0, 1] of the good and of the mislabelled training images that were kept to teach; the latter
    is None where there were none. `members` of the detector that judged.
    """

    variant: Variant
    noise: float
    seed: int
    members: int
    image_auroc: float
    kept_good_share: float
    kept_mislabelled_share: float | None
    fit_seconds: float


class Point(Part):
    """`image_auroc_std` is the sample deviation over `seeds`; None for one seed."""

    noise: float
    image_auroc_mean: float
    image_auroc_std: float | None
    seeds: tuple[int, ...]


class Curve(Part):
    variant: Variant
    curve: tuple[Point, ...]


def contaminated_fit(
    data: Embedded,
    split: Split,
    groups: Groups,
    variant: Variant,
    settings: FitSettings,
    clock: Callable[[], float],
    theta: Initialization | None = None,
) -> Cell:
    """Fit to the training images of `split` and judge its test images; `variant` is no peer. `clock` gives seconds;
    `theta` is where variants start that start from theta*, and may be None for the others.
    """
    recipe = _RECIPES[variant]
    assert theta is not None or not recipe.meta, f"{variant} starts from theta*"
    begun = clock()
    training = _Training(data, split.train, [groups[name] for name in split.train])
    start = theta if recipe.meta else None
    rejecting = Teacher(recipe.rejecting(settings), data.shape, split.seed, _silent, start)
    mislabelled = np.isin(np.asarray(split.train), np.asarray(split.mislabelled, dtype=str))
    suspects = _suspects(rejecting, training, variant, mislabelled)
    lesson = _doubting(rejecting, training, suspects) if recipe.places else training.lesson
    teaching = Teacher(recipe.teaching(settings), data.shape, split.seed, _silent, start)
    detector = teaching.taught(lesson.without(suspects), "all images")
    seconds = clock() - begun
    kept = np.ones(len(split.train), dtype=bool)
    kept[suspects.numpy()] = False
    return Cell(
        variant=variant,
        noise=split.noise,
        seed=split.seed,
        members=len(detector.panel) if isinstance(detector, HeadFlow) else 1,
        image_auroc=_auroc(detector, data, split),
        kept_good_share=float(kept[~mislabelled].mean()),
        kept_mislabelled_share=float(kept[mislabelled].mean()) if mislabelled.any() else None,
        fit_seconds=seconds,
    )


@dataclass(frozen=True)
class _Training:
    """Images that are to teach, and the part that each shows."""

    data: Embedded
    names: Sequence[str]
    parts: Sequence[str]

    @cached_property
    def lesson(self) -> Lesson:
        return self.data.part(self.names).showing(self.parts)

    def every_second(self) -> "_Training":
        return _Training(self.data, self.names[::2], self.parts[::2])

    def folds(self, teacher: Teacher) -> NDArray[np.intp]:
        return folds_of(self.parts, teacher.settings.folds)


def _suspects(teacher: Teacher, training: _Training, variant: Variant, mislabelled: NDArray[np.bool_]) -> Tensor:
    """The numbers of the images that do not teach."""
    if variant is Variant.CLEAN_ORACLE:
        return torch.from_numpy(np.flatnonzero(mislabelled))
    if variant is Variant.REPLAY:
        half = training.every_second()
        return 2 * teacher.suspects(half.lesson, half.parts, half.folds(teacher))
    return teacher.suspects(training.lesson, training.parts, training.folds(teacher))


def _doubting(teacher: Teacher, training: _Training, suspects: Tensor) -> Lesson:
    """The lesson, without those places of the images that stand out among all, by the rule of adapting."""
    maps = teacher.cross_fitted(training.lesson, training.folds(teacher), suspects).maps
    doubted = maps > patch_limit(maps, Rejection())
    views = teacher.untaught().training_views(len(maps))[: len(training.lesson.image) // len(maps)]
    return replace(training.lesson, doubted=torch.cat([view.move(doubted) for view in views]))


def _auroc(detector: Detector, data: Embedded, split: Split) -> float:
    names = judged(split)
    test = data.part(names)
    return auroc_of(plain_scores(detector, test, len(names), torch.arange(len(names))).image.double().numpy(), split)


def judged(split: Split) -> list[str]:
    return [*split.test_good, *split.test_defect]


def auroc_of(scores: NDArray[np.float64], split: Split) -> float:
    """Of the images that are `judged`, in that order. Raises `DatasetError` where they are of one kind."""
    defective = np.arange(len(scores)) >= len(split.test_good)
    auroc = image_auroc(scores, defective)
    if auroc is None:
        raise DatasetError(
            f"The split of seed {split.seed}, noise {split.noise:g}, judges one kind of images only.",
            "Give it test_good and test_defect.",
        )
    return auroc


def _silent(what: str, done: int, total: int) -> None:
    """A fit is one step of a benchmark."""


def curves(cells: Iterable[Cell]) -> list[Curve]:
    """One per variant, in the order of `Variant`; each with its noise levels ascending."""
    found = list(cells)
    return [
        Curve(variant=variant, curve=tuple(_points([cell for cell in found if cell.variant is variant])))
        for variant in Variant
        if any(cell.variant is variant for cell in found)
    ]


def _points(cells: Sequence[Cell]) -> Iterable[Point]:
    for noise in sorted({cell.noise for cell in cells}):
        level = sorted((cell for cell in cells if cell.noise == noise), key=lambda cell: cell.seed)
        values = [cell.image_auroc for cell in level]
        yield Point(
            noise=noise,
            image_auroc_mean=fmean(values),
            image_auroc_std=stdev(values) if len(values) > 1 else None,
            seeds=tuple(cell.seed for cell in level),
        )
