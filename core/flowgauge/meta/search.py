"""What a choice of alpha, beta and k is worth: meta-learn a little with it, and adapt by it to lines not seen before.

RAD (arXiv 2508.17789 s.4) looks for the three by Bayesian optimisation. Here a choice is as good as it is at the share
of defects where it is worst, on procedural lines alone.
"""

from collections.abc import Callable, Sequence
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
from flowgauge.evaluation.metrics import image_auroc
from flowgauge.meta.learners import parameters_of
from flowgauge.meta.settings import MetaTraining
from flowgauge.meta.tasks import MetaLine
from flowgauge.meta.training import MetaState, meta_train
from flowgauge.models.detector import Embedding, Progress, TrainingSet, select
from flowgauge.models.headflow.detector import FLOW, HeadFlow
from flowgauge.models.headflow.head import Head
from flowgauge.synthetic.procedural import DEFECTS, Condition, ProceduralLine
from flowgauge.training.outliers import Rejection
from flowgauge.training.training_set import Embedder

SUPPORT, QUERY = 24, 16
"""Images that a line adapts to, and good and defective ones, so many of each, that judge it."""


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
class JudgedLine:
    """`training_set`: good images, then as many defects as half of a support, each with copies that have synthetic
    anomalies; `good` and `defects` judge.
    """

    name: str
    training_set: TrainingSet
    good: Embedding
    defects: Embedding

    def support(self, share: float) -> TrainingSet:
        """`SUPPORT` images, of which `share`, in [0, 0.5], are defects."""
        wrong = round(share * SUPPORT)
        return self.training_set.only(torch.cat([torch.arange(SUPPORT - wrong), SUPPORT + torch.arange(wrong)]))


def judged_line(material: str, seed: int, embedder: Embedder, progress: Progress) -> JudgedLine:
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
    return JudgedLine(
        name=f"{material} {seed}",
        training_set=embedder.training_set(shown, seed=seed, progress=progress),
        good=embedder.embed(good[SUPPORT:], progress),
        defects=embedder.embed(bad[SUPPORT // 2 :], progress),
    )


@dataclass(frozen=True)
class SearchSetup:
    """Where choices are compared: `detector` lends its modules, `trained` lines train the meta-learned initialization,
    `judged` lines are adapted to. Its pooled term has nothing meta-learned, so its weight is to be 0.
    """

    detector: HeadFlow
    trained: Sequence[MetaLine]
    judged: Sequence[JudgedLine]
    settings: SearchSettings

    def aurocs(self, choice: Choice, progress: Progress) -> tuple[float, ...]:
        """The mean image AUROC over the judged lines at each of the levels. Same choice, same figures."""
        init = self._init(choice, progress)
        total, done, found = len(self.settings.levels) * len(self.judged), 0, []
        for level in self.settings.levels:
            of_lines = []
            for line in self.judged:
                progress("adapting", done, total)
                of_lines.append(self._auroc(line, level, choice, init))
                done += 1
            found.append(fmean(of_lines))
        return tuple(found)

    def _init(self, choice: Choice, progress: Progress) -> Parameters:
        training = MetaTraining(
            turns=self.settings.turns,
            beta=choice.beta,
            head=MetaTraining().head.model_copy(update={"alpha": 2 * choice.alpha}),
            seed=self.settings.seed,
        )
        state = MetaState(parameters_of(self.detector))
        meta_train(self.detector, self.trained, training, state, _outer_progress(progress, self.settings.turns))
        return state.init

    def _auroc(self, line: JudgedLine, level: float, choice: Choice, init: Parameters) -> float:
        support = line.support(level)
        anchor = _begun(self.detector, init, support.good)
        names = [str(number) for number in support.image.tolist()]
        settings = _refinement(choice)
        refined = refine(
            anchor,
            AdaptationData((support.good,), _synthetic_of(support)),
            names,
            mixed(Division.of(names, settings.folds), self.settings.seed),
            settings,
            default_k=choice.k,
            seed=self.settings.seed,
            progress=_silent,
        )
        with torch.inference_mode():
            good, bad = (refined.detector.score_embedding(e).image.double() for e in (line.good, line.defects))
        auroc = image_auroc(torch.cat([good, bad]).numpy(), np.arange(len(good) + len(bad)) >= len(good))
        assert auroc is not None, "both kinds judge"
        return auroc


def _refinement(choice: Choice) -> RefinementSettings:
    loop = HeadAdaptation().inner_loop.model_copy(update={"alpha": choice.alpha})
    return RefinementSettings(head_adaptation=HeadAdaptation(inner_loop=loop), rejection=Rejection(image_k=choice.k))


def mixed(division: Division, seed: int) -> Division:
    """Folds follow the order of images, and a support's defects come last: at random instead."""
    order = np.random.default_rng(seed).permutation(len(division.folds))
    return Division(division.folds[order], division.validation[order])


def _begun(detector: HeadFlow, init: Parameters, good: Embedding) -> HeadFlow:
    """A copy that starts at `init`, head and flow, and has measured its inputs."""
    anchor = deepcopy(detector)
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


def _synthetic_of(training_set: TrainingSet) -> Callable[[Tensor], tuple[Embedding, Tensor]]:
    """Looks up copies with synthetic anomalies: the first one of each image, whose places in the support are asked
    for."""

    def synthetic(patches: Tensor) -> tuple[Embedding, Tensor]:
        numbers = training_set.image[patches]
        rows = torch.stack([(training_set.synthetic_image == number).nonzero()[0, 0] for number in numbers])
        return select(training_set.synthetic, rows), training_set.mask[rows]

    return synthetic


def _outer_progress(progress: Progress, turns: int) -> Callable[[MetaState], None]:
    return lambda state: progress("outer loop", len(state.turns), turns)


def _silent(what: str, done: int, total: int) -> None:
    """An adaptation is one step of a search."""
