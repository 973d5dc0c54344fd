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

from flowgauge.adaptation.head_adaptation import Retuning
from flowgauge.adaptation.inner_loop import Parameters
from flowgauge.adaptation.refine import Division, Evidence, RefinementSettings, refine, with_flow
from flowgauge.domain.messages import Part
from flowgauge.evaluation.metrics import image_auroc
from flowgauge.meta.learners import parameters_of
from flowgauge.meta.settings import MetaTraining
from flowgauge.meta.tasks import MetaLine
from flowgauge.meta.training import MetaState, meta_train
from flowgauge.models.detector import Embedding, Lesson, Progress, select
from flowgauge.models.headflow.detector import FLOW, HeadFlow
from flowgauge.models.headflow.head import Guide
from flowgauge.synthetic.procedural import DEFECTS, Condition, ProceduralLine
from flowgauge.training.outliers import Rejection
from flowgauge.training.training_set import Embedder

SUPPORT, QUERY = 24, 16
"""Images that a line adapts to, and good and defective ones, so many of each, that judge it."""


class Choice(Part):
    """`alpha`: the length of the guide's steps in the inner loop, which are twice as long in the outer loop's; `beta`:
    that of the outer loop's steps; `k`: of the one-sided rule that rejects images.
    """

    alpha: float = Field(gt=0)
    beta: float = Field(gt=0)
    k: float = Field(gt=0)


DEFAULTS = Choice(alpha=0.1, beta=1e-3, k=5.0)


class SearchSettings(Part):
    """`turns` of the outer loop for each choice; `levels`: shares of defects that nobody points out."""

    turns: int = Field(40, ge=1)
    levels: tuple[float, ...] = Field((0.0, 0.2, 0.5), min_length=1)
    seed: int = 0


@dataclass(frozen=True)
class JudgedLine:
    """`lesson`: good images, then as many defects as half of a support, all with painted copies; `good` and `defects`
    judge.
    """

    name: str
    lesson: Lesson
    good: Embedding
    defects: Embedding

    def support(self, share: float) -> Lesson:
        """`SUPPORT` images, of which `share`, in [0, 0.5], are defects."""
        wrong = round(share * SUPPORT)
        return self.lesson.only(torch.cat([torch.arange(SUPPORT - wrong), SUPPORT + torch.arange(wrong)]))


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
        lesson=embedder.lesson(shown, seed=seed, progress=progress),
        good=embedder.embed(good[SUPPORT:], progress),
        defects=embedder.embed(bad[SUPPORT // 2 :], progress),
    )


@dataclass(frozen=True)
class Arena:
    """Where choices are compared: `detector` lends its modules, `taught` lines teach theta*, `judged` lines are adapted
    to. Its pooled term has nothing meta-learned, so its weight is to be 0.
    """

    detector: HeadFlow
    taught: Sequence[MetaLine]
    judged: Sequence[JudgedLine]
    settings: SearchSettings

    def aurocs(self, choice: Choice, progress: Progress) -> tuple[float, ...]:
        """The mean image AUROC over the judged lines at each of the levels. Same choice, same figures."""
        theta = self._theta(choice, progress)
        total, done, found = len(self.settings.levels) * len(self.judged), 0, []
        for level in self.settings.levels:
            of_lines = []
            for line in self.judged:
                progress("adapting", done, total)
                of_lines.append(self._auroc(line, level, choice, theta))
                done += 1
            found.append(fmean(of_lines))
        return tuple(found)

    def _theta(self, choice: Choice, progress: Progress) -> Parameters:
        training = MetaTraining(
            turns=self.settings.turns,
            beta=choice.beta,
            guide=MetaTraining().guide.model_copy(update={"alpha": 2 * choice.alpha}),
            seed=self.settings.seed,
        )
        state = MetaState(parameters_of(self.detector))
        meta_train(self.detector, self.taught, training, state, _told(progress, self.settings.turns))
        return state.theta

    def _auroc(self, line: JudgedLine, level: float, choice: Choice, theta: Parameters) -> float:
        support = line.support(level)
        anchor = _begun(self.detector, theta, support.good)
        names = [str(number) for number in support.image.tolist()]
        settings = _refinement(choice)
        refined = refine(
            anchor,
            Evidence((support.good,), _paintings(support)),
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
    loop = Retuning().inner_loop.model_copy(update={"alpha": choice.alpha})
    return RefinementSettings(retuning=Retuning(inner_loop=loop), rejection=Rejection(image_k=choice.k))


def mixed(division: Division, seed: int) -> Division:
    """Folds follow the order of images, and a support's defects come last: at random instead."""
    order = np.random.default_rng(seed).permutation(len(division.folds))
    return Division(division.folds[order], division.watching[order])


def _begun(detector: HeadFlow, theta: Parameters, good: Embedding) -> HeadFlow:
    """A copy that starts at `theta`, guide and flow, and has measured its inputs."""
    anchor = deepcopy(detector)
    anchor.load_init(theta)
    for guide in anchor.guides:
        assert isinstance(guide, Guide)
        guide.measure(good)
        guide.eval()
    anchor.rescale(good)
    flow = {name.removeprefix(FLOW): value for name, value in theta.items() if name.startswith(FLOW)}
    started = with_flow(anchor, flow)
    assert isinstance(started, HeadFlow)
    return started.eval()


def _paintings(lesson: Lesson) -> Callable[[Tensor], tuple[Embedding, Tensor]]:
    """Looks painted copies up: the first one of each image, whose places in the support are asked for."""

    def painted(places: Tensor) -> tuple[Embedding, Tensor]:
        numbers = lesson.image[places]
        rows = torch.stack([(lesson.painted_image == number).nonzero()[0, 0] for number in numbers])
        return select(lesson.painted, rows), lesson.mask[rows]

    return painted


def _told(progress: Progress, turns: int) -> Callable[[MetaState], None]:
    return lambda state: progress("outer loop", len(state.turns), turns)


def _silent(what: str, done: int, total: int) -> None:
    """An adaptation is one step of a search."""
