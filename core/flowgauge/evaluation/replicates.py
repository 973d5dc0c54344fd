"""One repeat of an estimate: fit to what a split leaves to train, choose the threshold, judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.choices import Choice, Costs, Scores, least_cost, within_budget, youden
from flowgauge.evaluation.estimate import Repeat
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.resplit import Material, Numbers, resplit
from flowgauge.models.detector import Detector, Progress, TrainingSet
from flowgauge.training.fit import FitSettings, Initialization, Trainer, folds_of, plain_scores
from flowgauge.training.thresholds import Calibration


class Chooser(FrozenModel):
    """How the threshold is chosen. `budget`: the share of false alarms that is allowed, in (0, 1)."""

    choice: Choice = Choice.YOUDEN
    costs: Costs = Costs()
    budget: float = Field(0.05, gt=0, lt=1)

    def threshold(self, good: Scores, defect: Scores, own: Callable[[], float]) -> float:
        """From the scores of the half that chooses; `own` gives the gauge's threshold, which takes fits of its own."""
        match self.choice:
            case Choice.YOUDEN:
                return youden(good, defect)
            case Choice.COST:
                return least_cost(good, defect, self.costs)
            case Choice.BUDGET:
                return within_budget(good, self.budget)
            case Choice.OWN:
                return own()


@dataclass(frozen=True)
class Replicates:
    """`data` of all images, which `material` describes in the same order. `clock` gives seconds."""

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
        training_set = self.data.part(self._names(split.train)).showing(parts)
        trainer = Trainer(self.settings, self.data.shape, seed, self.progress, self.init)
        detector = trainer.trained(training_set, "all images")
        chosen_by = self._scores(detector, split.choose_good)
        threshold = self.chooser.threshold(
            chosen_by,
            self._scores(detector, split.choose_defect),
            lambda: _own_threshold(trainer, training_set, parts, detector),
        )
        scale = Calibration.of(chosen_by)
        return Repeat(
            seed=seed,
            threshold=threshold,
            median=scale.median,
            deviation=scale.deviation,
            good=self._judged(detector, split.test_good),
            defect=self._judged(detector, split.test_defect),
            train_images=len(split.train),
            idle=len(split.idle),
            seconds=self.clock() - begun,
        )

    def _names(self, numbers: Numbers) -> list[str]:
        return [self.data.names[number] for number in numbers]

    def _scores(self, detector: Detector, numbers: Numbers) -> Scores:
        part = self.data.part(self._names(numbers))
        found = plain_scores(detector, part, len(numbers), torch.arange(len(numbers)))
        return np.asarray(found.image.double().numpy())

    def _judged(self, detector: Detector, numbers: Numbers) -> dict[str, float]:
        return dict(zip(self._names(numbers), self._scores(detector, numbers).tolist(), strict=True))


def _own_threshold(trainer: Trainer, training_set: TrainingSet, parts: Sequence[str], detector: Detector) -> float:
    """As `fit` sets it: on scores of images that trained, each by a detector that never saw it."""
    nobody = torch.empty(0, dtype=torch.long)
    folds = folds_of(parts, trainer.settings.folds)
    held_out = trainer.cross_fitted(training_set, folds, nobody, scale_of=detector)
    return trainer.settings.threshold(held_out.image.double().numpy(), folds, parts, trainer.seed).value
