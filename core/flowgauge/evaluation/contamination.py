"""How much defects among the images that train cost: the same fit at rising shares of them, in variants."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from statistics import fmean, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.metrics import image_auroc
from flowgauge.evaluation.splits import Groups, Split
from flowgauge.models.detector import Detector, TrainingSet
from flowgauge.models.headflow.detector import HeadFlow, ensemble_options
from flowgauge.training.fit import FitSettings, Initialization, Trainer, folds_of, plain_scores
from flowgauge.training.thresholds import Rule


class Variant(StrEnum):
    """`full`: an ensemble, whose members are each trained without one fold of the parts and start from the meta-learned
    initialization; all images train. `wide-ensemble`: five members, each trained without two fifths of the parts.
    Without an ingredient of `full`: `no-ensemble` trains one member, `no-meta` starts at random. With one that did not
    earn its place there: `one-sided` and `iqr` leave out images by scores of detectors that were fitted without the
    image in question, in two rounds.

    For comparison, one member from a random start: `plain`, all images train; `replay`, every second image trains only
    where a detector accepts it that was fitted without it to the others of that half, as a parent's accepted images are
    shown again to its successor (arXiv 2605.24251 finds that hard to beat); `clean-oracle`, those that are mislabelled
    do not train, which only a benchmark can know. Baselines, on the same features: `patchcore` and `padim`, which take
    all images for good.
    """

    FULL = "full"
    WIDE_ENSEMBLE = "wide-ensemble"
    NO_ENSEMBLE = "no-ensemble"
    NO_META = "no-meta"
    ONE_SIDED = "one-sided"
    IQR = "iqr"
    REPLAY = "replay"
    PLAIN = "plain"
    CLEAN_ORACLE = "clean-oracle"
    PATCHCORE = "patchcore"
    PADIM = "padim"


@dataclass(frozen=True)
class _Recipe:
    """`changes` to the settings decide which images train; `meta`: from the meta-learned initialization; `ensemble`:
    the options of one, where the detector can be one.
    """

    changes: Mapping[str, object]
    meta: bool = True
    ensemble: Mapping[str, object] = field(default_factory=lambda: ensemble_options(3))

    def rejecting(self, settings: FitSettings) -> FitSettings:
        return settings.model_copy(update=dict(self.changes))

    def trainer(self, settings: FitSettings) -> FitSettings:
        ensemble = self.ensemble if settings.detector == HeadFlow.name else {}
        return settings.model_copy(update={"config": settings.config | dict(ensemble)})


_ONE_MEMBER: Mapping[str, object] = {}
_ALL_TRAIN: Mapping[str, object] = {"refine": 0}
_BY_CROSS_FITTING: Mapping[str, object] = {"refine": 2}
_RECIPES = {
    Variant.FULL: _Recipe(_ALL_TRAIN),
    Variant.WIDE_ENSEMBLE: _Recipe(_ALL_TRAIN, ensemble=ensemble_options(5)),
    Variant.NO_ENSEMBLE: _Recipe(_ALL_TRAIN, ensemble=_ONE_MEMBER),
    Variant.NO_META: _Recipe(_ALL_TRAIN, meta=False),
    Variant.ONE_SIDED: _Recipe(_BY_CROSS_FITTING),
    Variant.IQR: _Recipe({**_BY_CROSS_FITTING, "suspect_rule": Rule.IQR}),
    Variant.REPLAY: _Recipe({"refine": 1}, meta=False, ensemble=_ONE_MEMBER),
    Variant.PLAIN: _Recipe(_ALL_TRAIN, meta=False, ensemble=_ONE_MEMBER),
    Variant.CLEAN_ORACLE: _Recipe(_ALL_TRAIN, meta=False, ensemble=_ONE_MEMBER),
}


def needs_init(variant: Variant) -> bool:
    return variant in _RECIPES and _RECIPES[variant].meta


class Cell(FrozenModel):
    """One fit. Shares in [0, 1] of the good and of the mislabelled training images that were kept to train; the latter
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


class Point(FrozenModel):
    """`image_auroc_std` is the sample deviation over `seeds`; None for one seed."""

    noise: float
    image_auroc_mean: float
    image_auroc_std: float | None
    seeds: tuple[int, ...]


class Curve(FrozenModel):
    variant: Variant
    curve: tuple[Point, ...]


def contaminated_fit(
    data: Embedded,
    split: Split,
    groups: Groups,
    variant: Variant,
    settings: FitSettings,
    clock: Callable[[], float],
    init: Initialization | None = None,
) -> Cell:
    """Fit to the training images of `split` and judge its test images; `variant` is no baseline. `clock` gives seconds;
    `init` is where variants start that start from the meta-learned initialization, and may be None for the others.
    """
    recipe = _RECIPES[variant]
    assert init is not None or not recipe.meta, f"{variant} starts from the meta-learned initialization"
    begun = clock()
    training = _Training(data, split.train, [groups[name] for name in split.train])
    start = init if recipe.meta else None
    rejecting = Trainer(recipe.rejecting(settings), data.shape, split.seed, _silent, start)
    mislabelled = np.isin(np.asarray(split.train), np.asarray(split.mislabelled, dtype=str))
    suspects = _suspects(rejecting, training, variant, mislabelled)
    trainer = Trainer(recipe.trainer(settings), data.shape, split.seed, _silent, start)
    detector = trainer.trained(training.training_set.without(suspects), "all images")
    seconds = clock() - begun
    kept = np.ones(len(split.train), dtype=bool)
    kept[suspects.numpy()] = False
    return Cell(
        variant=variant,
        noise=split.noise,
        seed=split.seed,
        members=len(detector.ensemble) if isinstance(detector, HeadFlow) else 1,
        image_auroc=_auroc(detector, data, split),
        kept_good_share=float(kept[~mislabelled].mean()),
        kept_mislabelled_share=float(kept[mislabelled].mean()) if mislabelled.any() else None,
        fit_seconds=seconds,
    )


@dataclass(frozen=True)
class _Training:
    """Images that are to train, and the part that each shows."""

    data: Embedded
    names: Sequence[str]
    parts: Sequence[str]

    @cached_property
    def training_set(self) -> TrainingSet:
        return self.data.part(self.names).showing(self.parts)

    def every_second(self) -> "_Training":
        return _Training(self.data, self.names[::2], self.parts[::2])

    def folds(self, trainer_of_folds: Trainer) -> NDArray[np.intp]:
        return folds_of(self.parts, trainer_of_folds.settings.folds)


def _suspects(
    trainer_of_folds: Trainer, training: _Training, variant: Variant, mislabelled: NDArray[np.bool_]
) -> Tensor:
    """The numbers of the images that do not train."""
    if variant is Variant.CLEAN_ORACLE:
        return torch.from_numpy(np.flatnonzero(mislabelled))
    if variant is Variant.REPLAY:
        half = training.every_second()
        return 2 * trainer_of_folds.suspects(half.training_set, half.folds(trainer_of_folds))
    return trainer_of_folds.suspects(training.training_set, training.folds(trainer_of_folds))


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
