"""What defects among the training images cost: the same fit at rising shares of them, in variants and baselines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from flowgauge.domain.errors import DatasetError, UserError
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import silent
from flowgauge.evaluation.ablations import Ablation
from flowgauge.evaluation.comparison import Spread
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.metrics import Floats, auroc_between
from flowgauge.evaluation.splits import Groups, Split
from flowgauge.models.detector import Embedding, FeatureShape
from flowgauge.models.headflow.detector import HeadFlow, ensemble_options
from flowgauge.training.fit import FitSettings, Initialization, Trainer, folds_of
from flowgauge.training.thresholds import Rule

Predictor = Callable[[Embedding], Tensor]
"""Scores (B,) of images: higher is more anomalous, and no image's depends on another's."""

Baseline = Callable[[Embedding, FeatureShape, int], Predictor]
"""Fits to the plain views of images, which are all taken for good, with a seed. Same images and seed, same scores."""


@dataclass(frozen=True)
class _Recipe:
    """`changes` to the settings decide which images train; `meta`: from the meta-learned initialization; `ensemble`:
    the options of one, where the detector can be one.
    """

    changes: Mapping[str, object]
    meta: bool = True
    ensemble: Mapping[str, object] = field(default_factory=lambda: ensemble_options(3))


_ONE_MEMBER: Mapping[str, object] = {}
_ALL_TRAIN: Mapping[str, object] = {"refine": 0}
_BY_CROSS_FITTING: Mapping[str, object] = {"refine": 2}
_RECIPES = {
    Ablation.FULL: _Recipe(_ALL_TRAIN),
    Ablation.WIDE_ENSEMBLE: _Recipe(_ALL_TRAIN, ensemble=ensemble_options(5)),
    Ablation.NO_ENSEMBLE: _Recipe(_ALL_TRAIN, ensemble=_ONE_MEMBER),
    Ablation.NO_META: _Recipe(_ALL_TRAIN, meta=False),
    Ablation.ONE_SIDED: _Recipe(_BY_CROSS_FITTING),
    Ablation.IQR: _Recipe({**_BY_CROSS_FITTING, "suspect_rule": Rule.IQR}),
    Ablation.REPLAY: _Recipe({"refine": 1}, meta=False, ensemble=_ONE_MEMBER),
    Ablation.PLAIN: _Recipe(_ALL_TRAIN, meta=False, ensemble=_ONE_MEMBER),
    Ablation.CLEAN_ORACLE: _Recipe(_ALL_TRAIN, meta=False, ensemble=_ONE_MEMBER),
}
BASELINES = frozenset({Ablation.PATCHCORE, Ablation.PADIM})
VARIANTS = (*_RECIPES, Ablation.PATCHCORE, Ablation.PADIM)


def variant_of(name: str) -> Ablation:
    """Raises `UserError` for one that there is not."""
    if name not in VARIANTS:
        raise UserError(f"{name!r} is not a valid variant.", f"Use one of: {', '.join(VARIANTS)}.")
    return Ablation(name)


def needs_init(variant: Ablation) -> bool:
    return variant in _RECIPES and _RECIPES[variant].meta


class Cell(FrozenModel):
    """One fit. Shares in [0, 1] of the good and of the mislabelled training images that were kept to train; the latter
    is None where there were none. `members` of the detector's ensemble.
    """

    variant: Ablation
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
    variant: Ablation
    curve: tuple[Point, ...]


def contaminated_fit(
    data: Embedded,
    split: Split,
    groups: Groups,
    variant: Ablation,
    settings: FitSettings,
    clock: Callable[[], float],
    init: Initialization | None = None,
) -> Cell:
    """Fit to the training images of `split` and test on its test images; `variant` is no baseline. `clock` gives
    seconds; `init` is where variants start that start from the meta-learned initialization, and may be None for the
    others. Raises `DatasetError` where the test images are of one kind.
    """
    recipe = _RECIPES[variant]
    assert init is not None or not recipe.meta, f"{variant} starts from the meta-learned initialization"
    begun, start = clock(), init if recipe.meta else None
    parts = [groups[name] for name in split.train]
    training_set = data.part(split.train).showing(parts)
    rejecting = Trainer(settings.model_copy(update=dict(recipe.changes)), data.shape, split.seed, silent, start)
    mislabelled = np.isin(np.asarray(split.train), np.asarray(split.mislabelled, dtype=str))
    suspects = _suspects(rejecting, data, split, parts, variant)
    config = settings.config | (dict(recipe.ensemble) if settings.detector == HeadFlow.name else {})
    trainer = Trainer(settings.model_copy(update={"config": config}), data.shape, split.seed, silent, start)
    detector = trainer.trained(training_set.without(suspects), "all images")
    seconds = clock() - begun
    kept = np.ones(len(split.train), dtype=bool)
    kept[suspects.numpy()] = False
    return Cell(
        variant=variant,
        noise=split.noise,
        seed=split.seed,
        members=len(detector.ensemble) if isinstance(detector, HeadFlow) else 1,
        image_auroc=_auroc(data.scores(detector, split.test), split),
        kept_good_share=float(kept[~mislabelled].mean()),
        kept_mislabelled_share=float(kept[mislabelled].mean()) if mislabelled.any() else None,
        fit_seconds=seconds,
    )


def _suspects(trainer: Trainer, data: Embedded, split: Split, parts: Sequence[str], variant: Ablation) -> Tensor:
    """The numbers of the images that do not train."""
    if variant is Ablation.CLEAN_ORACLE:
        return torch.tensor([n for n, name in enumerate(split.train) if name in split.mislabelled], dtype=torch.long)
    step = 2 if variant is Ablation.REPLAY else 1
    names, shown = split.train[::step], parts[::step]
    folds = folds_of(shown, trainer.settings.folds)
    return step * trainer.suspects(data.part(names).showing(shown), folds)


def baseline_fit(
    data: Embedded, split: Split, variant: Ablation, baseline: Baseline, clock: Callable[[], float]
) -> Cell:
    """Fit a detector by others to all training images of `split`, on the same features, and test it on its test images.
    `clock` gives seconds. Raises `DatasetError` where the test images are of one kind.
    """
    begun = clock()
    predictor = baseline(data.plain(split.train), data.shape, split.seed)
    seconds = clock() - begun
    return Cell(
        variant=variant,
        noise=split.noise,
        seed=split.seed,
        members=1,
        image_auroc=_auroc(predictor(data.plain(split.test)).double().numpy(), split),
        kept_good_share=1.0,
        kept_mislabelled_share=1.0 if split.mislabelled else None,
        fit_seconds=seconds,
    )


def _auroc(scores: Floats, split: Split) -> float:
    """Image AUROC in [0, 1] of `scores` (n,) in the order of `split.test`."""
    auroc = auroc_between(*np.split(scores, [len(split.test_good)]))
    if auroc is None:
        raise DatasetError(
            f"The split of seed {split.seed}, noise {split.noise:g}, tests one kind of images only.",
            "Give it test_good and test_defect.",
        )
    return auroc


def curves(cells: Iterable[Cell]) -> list[Curve]:
    """One per variant, in the order of `VARIANTS`; each with its noise levels ascending."""
    by_variant: dict[Ablation, dict[float, list[Cell]]] = {variant: {} for variant in VARIANTS}
    for cell in cells:
        by_variant[cell.variant].setdefault(cell.noise, []).append(cell)
    return [
        Curve(variant=variant, curve=tuple(_point(noise, levels[noise]) for noise in sorted(levels)))
        for variant, levels in by_variant.items()
        if levels
    ]


def _point(noise: float, cells: Sequence[Cell]) -> Point:
    in_order = sorted(cells, key=lambda cell: cell.seed)
    spread = Spread.of([cell.image_auroc for cell in in_order])
    assert spread is not None, "a level has a cell"
    seeds = tuple(cell.seed for cell in in_order)
    return Point(noise=noise, image_auroc_mean=spread.mean, image_auroc_std=spread.deviation, seeds=seeds)
