"""What a choice of alpha, beta and k is worth: meta-learn a little with it, and adapt by it to lines not seen before.

RAD (arXiv 2508.17789 s.4) looks for the three by Bayesian optimisation. Here a choice is as good as it is at the share
of defects where it is worst, on procedural lines alone.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from flowgauge.adaptation.head_adaptation import HeadAdaptation
from flowgauge.adaptation.inner_loop import Parameters
from flowgauge.adaptation.refine import AdaptationData, Division, RefinementSettings, refine, with_flow
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import silent
from flowgauge.evaluation.metrics import auroc_between
from flowgauge.meta.outer_loop import MetaState, MetaTraining, meta_train, parameters_of
from flowgauge.meta.tasks import MetaLine
from flowgauge.models.adaptable import FLOW
from flowgauge.models.detector import Embedding, Progress, TrainingSet, select
from flowgauge.models.headflow.detector import HeadFlow
from flowgauge.models.headflow.head import Head
from flowgauge.synthetic.procedural import DEFECTS, Condition, ProceduralLine
from flowgauge.training.outliers import Rejection
from flowgauge.training.training_set import Embedder

SUPPORT, QUERY = 24, 16
"""Images that a line adapts to, and good and defective ones, so many of each, that it is then tested on."""


class Choice(FrozenModel):
    """`alpha`: the length of the head's steps in the inner loop, which are twice as long in the outer loop's; `beta`:
    that of the outer loop's steps; `k`: of the one-sided rule that rejects images.
    """

    alpha: float = Field(gt=0)
    beta: float = Field(gt=0)
    k: float = Field(gt=0)


DEFAULTS = Choice(alpha=0.1, beta=1e-3, k=5.0)


class SearchSettings(FrozenModel):
    """`turns` of the outer loop for each choice; `levels`: shares of defects that nobody points out."""

    turns: int = Field(40, ge=1)
    levels: tuple[float, ...] = Field((0.0, 0.2, 0.5), min_length=1)
    seed: int = 0


@dataclass(frozen=True)
class ValidationLine:
    """`training_set`: good images, then as many defects as half of a support, each with copies that have synthetic
    anomalies; `good` and `defects` are test images.
    """

    name: str
    training_set: TrainingSet
    good: Embedding
    defects: Embedding

    def support(self, share: float) -> TrainingSet:
        """`SUPPORT` images, of which `share`, in [0, 0.5], are defects."""
        wrong = round(share * SUPPORT)
        return self.training_set.only(torch.cat([torch.arange(SUPPORT - wrong), SUPPORT + torch.arange(wrong)]))


def validation_line(material: str, seed: int, embedder: Embedder, progress: Progress) -> ValidationLine:
    """A procedural line under a condition that its seed draws."""
    line = ProceduralLine(material, seed, embedder.preprocessing.size)
    condition = Condition.drifted(float(np.random.default_rng([seed, len(material)]).uniform()))
    good = np.stack([line.good(index, condition).pixels for index in range(SUPPORT + QUERY)])
    bad = np.stack(
        [
            line.defect(SUPPORT + QUERY + index, DEFECTS[index % len(DEFECTS)], condition).pixels
            for index in range(SUPPORT // 2 + QUERY)
        ]
    )
    shown = np.concatenate([good[:SUPPORT], bad[: SUPPORT // 2]])
    return ValidationLine(
        name=f"{material} {seed}",
        training_set=embedder.training_set(shown, seed=seed, progress=progress),
        good=embedder.embed(good[SUPPORT:], progress),
        defects=embedder.embed(bad[SUPPORT // 2 :], progress),
    )


@dataclass(frozen=True)
class SearchSetup:
    """Where choices are compared: `detector` lends its modules, `trained` lines train the meta-learned initialization,
    `validation` lines are adapted to. Its pooled term has nothing meta-learned, so its weight is to be 0.
    """

    detector: HeadFlow
    trained: Sequence[MetaLine]
    validation: Sequence[ValidationLine]
    settings: SearchSettings

    def aurocs(self, choice: Choice, progress: Progress) -> tuple[float, ...]:
        """The mean image AUROC over the validation lines at each of the levels. Same choice, same figures."""
        turns, levels = self.settings.turns, self.settings.levels
        training = MetaTraining(
            turns=turns,
            beta=choice.beta,
            head=MetaTraining().head.model_copy(update={"alpha": 2 * choice.alpha}),
            seed=self.settings.seed,
        )
        state = MetaState(parameters_of(self.detector))
        meta_train(
            self.detector, self.trained, training, state, lambda now: progress("outer loop", len(now.turns), turns)
        )
        found = []
        for rank, level in enumerate(levels):
            of_lines = []
            for number, line in enumerate(self.validation):
                progress("adapting", rank * len(self.validation) + number, len(levels) * len(self.validation))
                of_lines.append(self._auroc(line, level, choice, state.init))
            found.append(fmean(of_lines))
        return tuple(found)

    def _auroc(self, line: ValidationLine, level: float, choice: Choice, init: Parameters) -> float:
        support = line.support(level)
        names = [str(number) for number in support.image.tolist()]
        loop = HeadAdaptation().inner_loop.model_copy(update={"alpha": choice.alpha})
        settings = RefinementSettings(
            head_adaptation=HeadAdaptation(inner_loop=loop), rejection=Rejection(image_k=choice.k)
        )

        def synthetic(patches: Tensor) -> tuple[Embedding, Tensor]:
            """The first copy with synthetic anomalies of each image, whose rows in the support are asked for."""
            numbers = support.image[patches]
            rows = torch.stack([(support.synthetic_image == number).nonzero()[0, 0] for number in numbers])
            return select(support.synthetic, rows), support.mask[rows]

        refined = refine(
            self._started(init, support.good),
            AdaptationData((support.good,), synthetic),
            names,
            mixed(Division.of(names, settings.folds), self.settings.seed),
            settings,
            default_k=choice.k,
            seed=self.settings.seed,
            progress=silent,
        )
        with torch.inference_mode():
            good, bad = (refined.detector.score_embedding(e).image.double() for e in (line.good, line.defects))
        auroc = auroc_between(good.numpy(), bad.numpy())
        assert auroc is not None, "both kinds are there"
        return auroc

    def _started(self, init: Parameters, good: Embedding) -> HeadFlow:
        """A copy of the detector that starts at `init`, head and flow, and has measured its inputs."""
        anchor = deepcopy(self.detector)
        anchor.load_init(init)
        for head in anchor.heads:
            assert isinstance(head, Head)
            head.measure(good)
            head.eval()
        anchor.rescale(good)
        flow = {name.removeprefix(FLOW): value for name, value in init.items() if name.startswith(FLOW)}
        started = with_flow(anchor, flow)
        assert isinstance(started, HeadFlow)
        return started.eval()


def mixed(division: Division, seed: int) -> Division:
    """Folds follow the order of images, and a support's defects come last: at random instead."""
    order = np.random.default_rng(seed).permutation(len(division.folds))
    return Division(division.folds[order], division.validation[order])
