"""Iterative refinement: score, reject, adapt on the rest, until the same images are kept (arXiv 2503.01569).

Scores that decide what to reject come from parameters that were not fitted on the image in question: before the first
step from the anchor, afterwards from cross-fitting over folds. The paper stops on a validation AUROC, which needs
labels; here it ends when the kept set is stable.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from core.adaptation.inner_loop import InnerLoop, Parameters, Teaching, adapted, parameters_of
from core.adaptation.rejection import Rejection, Suspicion, suspect
from core.adaptation.trace import Round, Step
from core.detectors.base import Detector, Embedding, Progress, joined, length, select
from core.messages import Part


class RefinementSettings(Part):
    """`folds` of cross-fitting; at most `rounds` of score, reject and adapt."""

    rounds: int = Field(3, ge=1)
    folds: int = Field(2, ge=2)
    inner_loop: InnerLoop = InnerLoop()
    rejection: Rejection = Rejection()


@dataclass(frozen=True)
class Evidence:
    """The buffered images as a detector sees them: one embedding for each of its views, all (N, ...)."""

    views: tuple[Embedding, ...]

    def __len__(self) -> int:
        return length(self.views[0])


@dataclass(frozen=True)
class Refined:
    """`scores` (N,) and `maps` (N, h, w) are cross-fitted, over all images and before any truncation; `detector` was
    taught by the kept ones.
    """

    detector: Detector
    scores: NDArray[np.float64]
    maps: Tensor
    folds: NDArray[np.intp]
    suspicion: Suspicion
    rounds: tuple[Round, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class _Buffer:
    """The tokens (N, V * T, D) of all views, and the fold (N,) of each image."""

    tokens: Tensor
    folds: NDArray[np.intp]


def refine(
    anchor: Detector,
    evidence: Evidence,
    image_ids: Sequence[str],
    folds: NDArray[np.intp],
    settings: RefinementSettings,
    *,
    default_k: float,
    seed: int,
    progress: Progress,
) -> Refined:
    """Adapt a copy of `anchor` to what `evidence` shows; the anchor stays as it is."""
    anchor = recentred(anchor, evidence)
    buffer = _Buffer(_tokens(anchor, evidence), folds)
    start = parameters_of(anchor.flow)
    nll = token_nll(anchor, start, buffer.tokens)
    suspicion = suspect(image_scores(anchor, evidence, nll), nll, settings.rejection, default_k)
    rounds, steps = [_round(suspicion, settings.rejection, image_ids)], list[Step]()
    for number in range(1, settings.rounds + 1):
        progress("refining, round", number, settings.rounds)
        students = _students(anchor, buffer, suspicion.patches, settings.inner_loop, seed, number)
        nll = _held_out_nll(anchor, buffer, [student.parameters for student in students])
        before = suspicion
        suspicion = suspect(image_scores(anchor, evidence, nll), nll, settings.rejection, default_k)
        rounds.append(_round(suspicion, settings.rejection, image_ids))
        steps += [step for student in students for step in student.steps]
        if np.array_equal(before.kept, suspicion.kept):
            break
    last = _student(anchor, buffer, suspicion.patches, settings.inner_loop, seed, len(rounds), fold=int(folds.max()))
    return Refined(
        detector=with_flow(anchor, last.parameters),
        scores=image_scores(anchor, evidence, nll),
        maps=_held_out_maps(anchor, evidence, folds, [student.parameters for student in students]),
        folds=folds,
        suspicion=suspicion,
        rounds=tuple(rounds),
        steps=(*steps, *last.steps),
    )


def recentred(detector: Detector, evidence: Evidence) -> Detector:
    """A copy of `detector` that knows where the line's recent images are."""
    copy = deepcopy(detector)
    copy.recentre(joined(evidence.views))
    return copy


def with_flow(detector: Detector, parameters: Parameters) -> Detector:
    """A copy of `detector` whose flow has `parameters`."""
    copy = deepcopy(detector)
    own = dict(copy.flow.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)
    return copy


def _tokens(detector: Detector, evidence: Evidence) -> Tensor:
    with torch.no_grad():
        return torch.cat([detector.tokens(embedding) for embedding in evidence.views], dim=1)


def token_nll(detector: Detector, parameters: Parameters, tokens_NTD: Tensor) -> Tensor:
    """(N, T) under the flow with `parameters`."""
    with torch.no_grad():
        z, log_det = functional_call(detector.flow, parameters, (tokens_NTD.flatten(0, 1),))
        return detector.flow.nll_of(z, log_det).view(tokens_NTD.shape[:2])


def image_scores(detector: Detector, evidence: Evidence, nll_NT: Tensor) -> NDArray[np.float64]:
    """(N,) averaged over the views, whose tokens stand one view after the other."""
    per_view = nll_NT.chunk(len(evidence.views), dim=1)
    scores = [detector.image_scores(nll, view) for nll, view in zip(per_view, evidence.views, strict=True)]
    return torch.stack(scores).mean(dim=0).double().numpy()


@dataclass(frozen=True)
class _Student:
    """What the inner loop made of the anchor's flow without one fold, which gave the validation loss."""

    parameters: Parameters
    steps: list[Step]


def _students(
    anchor: Detector, buffer: _Buffer, may_teach: Tensor, settings: InnerLoop, seed: int, number: int
) -> list[_Student]:
    folds = range(int(buffer.folds.max()) + 1)
    return [_student(anchor, buffer, may_teach, settings, seed + fold, number, fold) for fold in folds]


def _student(
    anchor: Detector, buffer: _Buffer, may_teach: Tensor, settings: InnerLoop, seed: int, number: int, fold: int
) -> _Student:
    watched = torch.from_numpy(buffer.folds == fold)[:, None]
    teaching = Teaching(taught=buffer.tokens[may_teach & ~watched], watched=buffer.tokens[may_teach & watched])
    return _Student(*adapted(anchor.flow, teaching, settings, seed=seed, round_number=number))


def _held_out_nll(anchor: Detector, buffer: _Buffer, parameters: Sequence[Parameters]) -> Tensor:
    """(N, T): each image's patches under the parameters that were adapted without its fold."""
    nll = torch.empty(buffer.tokens.shape[:2])
    for fold, values in enumerate(parameters):
        rows = torch.from_numpy(buffer.folds == fold)
        nll[rows] = token_nll(anchor, values, buffer.tokens[rows])
    return nll


def _held_out_maps(
    anchor: Detector, evidence: Evidence, folds: NDArray[np.intp], parameters: Sequence[Parameters]
) -> Tensor:
    """(N, h, w): the same for the anomaly maps, averaged over the views."""
    maps = torch.zeros(len(evidence), *anchor.grid)
    for fold, values in enumerate(parameters):
        rows = torch.from_numpy(np.flatnonzero(folds == fold))
        student = with_flow(anchor, values)
        for view, embedding in zip(anchor.views, evidence.views, strict=True):
            with torch.no_grad():
                seen = student.score_embedding(select(embedding, rows)).maps
            maps[rows] += view.undo(seen) / len(anchor.views)
    return maps


def _round(suspicion: Suspicion, rule: Rejection, image_ids: Sequence[str]) -> Round:
    return Round(
        rule=rule.image_rule.value,
        threshold=suspicion.threshold,
        kept=int(suspicion.kept.sum()),
        rejected=tuple(name for name, kept in zip(image_ids, suspicion.kept, strict=True) if not kept),
        patch_share_rejected=suspicion.patch_share_rejected,
    )
