"""One repeat of an estimate: fit to what a split leaves to teach, choose the threshold, judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from flowgauge.domain.messages import Part
from flowgauge.evaluation.choices import Choice, Costs, Scores, least_cost, within_budget, youden
from flowgauge.evaluation.estimate import Repeat
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.repartition import Material, Numbers, repartition
from flowgauge.models.detector import Detector, Lesson, Progress
from flowgauge.training.fit import FitSettings, Initialization, Teacher, folds_of, plain_scores
from flowgauge.training.thresholds import Calibration


class Chooser(Part):
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
class Repeating:
    """`data` of all images, which `material` describes in the same order. `clock` gives seconds."""

    data: Embedded
    material: Material
    chooser: Chooser
    settings: FitSettings
    theta: Initialization | None
    clock: Callable[[], float]
    progress: Progress

    def repeat(self, seed: int) -> Repeat:
        """Same data and seed, same repeat. Raises `DatasetError` for too few images."""
        begun = self.clock()
        split = repartition(self.material, seed)
        parts = [self.material.groups[number] for number in split.train]
        lesson = self.data.part(self._names(split.train)).showing(parts)
        teacher = Teacher(self.settings, self.data.shape, seed, self.progress, self.theta)
        detector = teacher.taught(lesson, "all images")
        chosen_by = self._scores(detector, split.choose_good)
        threshold = self.chooser.threshold(
            chosen_by,
            self._scores(detector, split.choose_defect),
            lambda: _own_threshold(teacher, lesson, parts, detector),
        )
        scale = Calibration.of(chosen_by)
        return Repeat(
            seed=seed,
            threshold=threshold,
            median=scale.median,
            deviation=scale.deviation,
            good=self._judged(detector, split.judge_good),
            defect=self._judged(detector, split.judge_defect),
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


def _own_threshold(teacher: Teacher, lesson: Lesson, parts: Sequence[str], detector: Detector) -> float:
    """As `fit` sets it: on scores of images that taught, each by a detector that never saw it."""
    nobody = torch.empty(0, dtype=torch.long)
    folds = folds_of(parts, teacher.settings.folds)
    held_out = teacher.cross_fitted(lesson, folds, nobody, scale_of=detector)
    return teacher.settings.threshold(held_out.image.double().numpy(), folds, parts, teacher.seed).value
