"""Whether loss amplification helps a reconstruction find anomalies (LAMP, Park et al., s.3): the same network, trained
from the same start with the same images in the same order, by a base loss and by that loss amplified.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import silent
from flowgauge.domain.seeding import seeded
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.metrics import auroc_between, image_auroc
from flowgauge.evaluation.splits import Groups, Split
from flowgauge.models.lamp.detector import LampConfig
from flowgauge.models.lamp.reconstruction import (
    Autoencoder,
    BaseLoss,
    Optimiser,
    Reconstructing,
    fit_reconstruction,
    squared,
)
from flowgauge.training.fit import FitSettings, Trainer

RATES: Mapping[Optimiser, tuple[float, ...]] = {
    Optimiser.SGD: (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    Optimiser.RMSPROP: (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    Optimiser.ADAM: (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
"""Learning rates to choose among: an amplified loss is another scale, so each needs a rate of its own."""

# Chooses the rates, and is none of those that are reported: else the better of two rates would be luck.
_TUNING_SEED = 1000
# More take time in proportion; one alone would choose a rate for its own shape.
_TUNING_CLASSES = (0, 3, 8)
# Of the good images, the share that trains. With more, few good ones are left to test; with fewer, few train.
_TRAINED = 0.6
_BATCH = 32
_LAYERS, _WIDTH = 4, 8


class Setting(FrozenModel):
    """What one table cell stands for. `where`: the data set."""

    where: str
    loss: BaseLoss
    optimiser: Optimiser
    amplified: bool


class Amplified(FrozenModel):
    """One setting under one seed: image AUROC of the squared error, by task; a task is what counts as good."""

    setting: Setting
    seed: int
    learning_rate: float
    auroc: dict[str, float]

    @property
    def mean(self) -> float:
        return fmean(self.auroc.values())


class Comparison(FrozenModel):
    """A base loss and the same one amplified: mean AUROC over seeds and tasks, and the deviation over seeds.

    `higher` of `pairs` fits, one per task and seed, have the higher AUROC with amplification.
    """

    where: str
    loss: BaseLoss
    optimiser: Optimiser
    base: float
    base_std: float
    amplified: float
    amplified_std: float
    higher: int
    pairs: int

    @property
    def gain(self) -> float:
        return self.amplified - self.base


@dataclass(frozen=True)
class OneClassDigits:
    """scikit-learn's 8x8 digits: one class is good, the other nine are not, each class in turn."""

    steps: int = 150
    name = "digits"

    def run(self, setting: Setting, seed: int, learning_rate: float, classes: Sequence[int] = range(10)) -> Amplified:
        digits = load_digits()
        images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
        training = _training(setting, Reconstructing(steps=self.steps, batch=_BATCH), learning_rate)
        auroc = {str(digit): self._auroc(images, digits.target == digit, training, seed) for digit in classes}
        return Amplified(setting=setting, seed=seed, learning_rate=learning_rate, auroc=auroc)

    def best_rate(self, setting: Setting) -> float:
        """By a few classes under another seed than those that are reported."""
        rates = RATES[setting.optimiser]
        found = {rate: self.run(setting, _TUNING_SEED, rate, _TUNING_CLASSES).mean for rate in rates}
        return max(found, key=lambda rate: found[rate])

    def _auroc(self, images: Tensor, good: NDArray[np.bool_], training: Reconstructing, seed: int) -> float:
        """Of the part of the good ones that did not train, against all others."""
        order = np.random.default_rng(seed).permutation(np.flatnonzero(good))
        trained = order[: round(_TRAINED * len(order))]
        tested = np.setdiff1d(np.arange(len(good)), trained)
        with seeded(seed):
            net = Autoencoder(1, layers=_LAYERS, width=_WIDTH, kernel=3)
        fit_reconstruction(net, images[trained], training, seed=seed, progress=silent)
        with torch.inference_mode():
            errors = squared(images[tested], net(images[tested])).mean(dim=(1, 2, 3))
        auroc = image_auroc(errors.double().numpy(), ~good[tested])
        assert auroc is not None, "both kinds are there"
        return auroc


@dataclass(frozen=True)
class LargeImages:
    """A data set of large images, patch by patch, by the detector `lamp`."""

    name: str
    data: Embedded
    splits: Mapping[int, Split]
    parts: Groups
    settings: FitSettings

    def run(self, setting: Setting, seed: int, learning_rate: float) -> Amplified:
        split = self.splits[seed]
        own = LampConfig.model_validate(self.settings.config)
        config = own.model_copy(update={"training": _training(setting, own.training, learning_rate)})
        settings = self.settings.model_copy(update={"config": config.model_dump()})
        training_set = self.data.part(split.train).showing([self.parts[name] for name in split.train])
        detector = Trainer(settings, self.data.shape, seed, silent).trained(training_set, "")
        auroc = auroc_between(*np.split(self.data.scores(detector, split.test), [len(split.test_good)]))
        assert auroc is not None, "both kinds are there"
        return Amplified(setting=setting, seed=seed, learning_rate=learning_rate, auroc={"good": auroc})


def _training(setting: Setting, like: Reconstructing, learning_rate: float) -> Reconstructing:
    own = {"loss": setting.loss, "optimiser": setting.optimiser, "amplified": setting.amplified}
    return like.model_copy(update=own | {"learning_rate": learning_rate})


def settings_of(where: str, optimisers: Iterable[Optimiser]) -> list[Setting]:
    return [
        Setting(where=where, loss=loss, optimiser=optimiser, amplified=amplified)
        for loss, optimiser, amplified in product(BaseLoss, optimisers, (False, True))
    ]


def comparisons(cells: Sequence[Amplified]) -> list[Comparison]:
    """One per data set, loss and optimiser that has both sides, in the order of `cells`. Seeds that one side alone has,
    as an interrupted run leaves them, do not count.
    """
    sides: dict[Setting, list[Amplified]] = {}
    for cell in cells:
        sides.setdefault(cell.setting, []).append(cell)
    found = []
    for plain in dict.fromkeys(cell.setting.model_copy(update={"amplified": False}) for cell in cells):
        both = [sides.get(plain.model_copy(update={"amplified": amplified}), []) for amplified in (False, True)]
        seeds = set.intersection(*({cell.seed for cell in side} for side in both))
        base, steep = ([cell for cell in side if cell.seed in seeds] for side in both)
        if not seeds:
            continue
        theirs, ours = (
            {(cell.seed, task): value for cell in side for task, value in cell.auroc.items()} for side in (base, steep)
        )
        pairs = theirs.keys() & ours.keys()
        comparison = Comparison(
            where=plain.where,
            loss=plain.loss,
            optimiser=plain.optimiser,
            base=fmean(cell.mean for cell in base),
            base_std=stdev(cell.mean for cell in base) if len(base) > 1 else 0.0,
            amplified=fmean(cell.mean for cell in steep),
            amplified_std=stdev(cell.mean for cell in steep) if len(steep) > 1 else 0.0,
            higher=sum(ours[key] > theirs[key] for key in pairs),
            pairs=len(pairs),
        )
        found.append(comparison)
    return found
