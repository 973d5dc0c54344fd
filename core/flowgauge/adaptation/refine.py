"""Iterative refinement: score, reject, adapt on the rest, until the same images are kept (arXiv 2503.01569).

Scores that decide what to reject come from parameters that were not fitted on the image in question: before the first
step from the anchor, afterwards from cross-fitting over folds. The paper stops on a validation AUROC, which needs
labels; here it ends when the kept set is stable.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from flowgauge.adaptation.head_adaptation import HeadAdaptation, HeadData, with_adapted_heads
from flowgauge.adaptation.inner_loop import (
    InnerLoop,
    Parameters,
    StepRule,
    TrainingTokens,
    adapted,
    parameters_of,
    set_parameters,
)
from flowgauge.domain.even_spacing import evenly_spaced
from flowgauge.domain.folds import fold_of
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import labelled, reported
from flowgauge.domain.trace import Round, Step
from flowgauge.models.adaptable import Adaptable, Ensemble
from flowgauge.models.detector import Embedding, Progress, TrainingSet, joined, length, select
from flowgauge.models.flows.flow import Flow
from flowgauge.training.outliers import Rejection, Suspicion, suspect


class MemberSettings(FrozenModel):
    """How an ensemble's members adapt. Every further round takes as long as the first.

    Plain gradient steps hardly move flows of 96 dimensions: at the end of the tiles' drift (seed 0) 40 of them gave an
    image AUROC of 0.70, 100 of Adam's on realigned features 0.81, a fit from scratch 0.84 (decision 25). Longer
    steps rank images better where focus or texture has changed, but the demonstration's line then alarms too often.
    """

    rounds: int = Field(1, ge=1)
    inner_loop: InnerLoop = InnerLoop(rule=StepRule.ADAM, alpha=4e-3, steps=100, batch=512, noise=0.05)


class RefinementSettings(FrozenModel):
    """`folds` of cross-fitting; at most `rounds` of score, reject and adapt. `inner_loop` is the flow's; without
    `head_adaptation`, the heads stay the anchor's. An ensemble has a fold for each member, and adapts by `members`.
    """

    rounds: int = Field(3, ge=1)
    folds: int = Field(2, ge=2)
    head_adaptation: HeadAdaptation | None = HeadAdaptation()
    inner_loop: InnerLoop = InnerLoop()
    members: MemberSettings = MemberSettings()
    rejection: Rejection = Rejection()


Synthesise = Callable[[Tensor], tuple[Embedding, Tensor]]
"""Numbers (n,) of buffered images -> copies of those with a synthetic anomaly each, and the masks (n, h, w) in [0,
1]."""


@dataclass(frozen=True)
class AdaptationData:
    """The buffered images as a detector sees them: one embedding for each of its views, all (N, ...). `synthetic` is
    asked for some of them where the detector has heads. Further views, `mirrored`, train an ensemble and no more.
    """

    views: tuple[Embedding, ...]
    synthetic: Synthesise
    mirrored: tuple[Embedding, ...] = ()

    def __len__(self) -> int:
        return length(self.views[0])


@dataclass(frozen=True)
class Refined:
    """`scores` (N,) and `maps` (N, h, w) are cross-fitted, over all images and before any truncation; `detector` was
    trained by the kept ones.
    """

    detector: Adaptable
    scores: NDArray[np.float64]
    maps: Tensor
    folds: NDArray[np.intp]
    suspicion: Suspicion
    rounds: tuple[Round, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Division:
    """Of N images: the fold (N,) of each, and which (N,) bool are for the validation loss of
    the fit to all of them. Parts stay whole.
    """

    folds: NDArray[np.intp]
    validation: NDArray[np.bool_]

    @classmethod
    def of(cls, parts: Sequence[str], folds: int) -> "Division":
        """By the part that each image shows, as many folds as there are parts for."""
        eighths = fold_of(parts, min(_WATCHING, len(set(parts))))
        return cls(fold_of(parts, folds), eighths == int(eighths.max()) // 2)


_WATCHING = 8
"""One of so many parts does not train the candidate itself: on it, the validation loss is taken."""


def refine(
    anchor: Adaptable,
    data: AdaptationData,
    image_ids: Sequence[str],
    division: Division,
    settings: RefinementSettings,
    *,
    default_k: float,
    seed: int,
    progress: Progress,
) -> Refined:
    """Adapt a copy of `anchor` to what `data` shows; the anchor stays as it is."""
    anchor = _realigned(anchor, data, division, progress)
    refinement = _Refinement(anchor, data, image_ids, division, settings, default_k, seed, progress)
    return refinement.of_members(anchor) if isinstance(anchor, Ensemble) else refinement.of_one()


@dataclass(frozen=True)
class _Rounds:
    """Score, reject, adapt, until the same images are kept: what came of it, and what the last round left."""

    fold_models: list["_FoldModel"]
    token_scores: Tensor
    suspicion: Suspicion
    rounds: tuple[Round, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class _Refinement:
    """`anchor` is realigned to `data`, whose images are called `image_ids`."""

    anchor: Adaptable
    data: AdaptationData
    image_ids: Sequence[str]
    division: Division
    settings: RefinementSettings
    default_k: float
    seed: int
    progress: Progress

    def of_members(self, anchor: Ensemble) -> Refined:
        """Each member adapts without its fold. The members are the candidate: nothing is fitted to all images once
        more, and their out-of-fold scores reject, set the scales and set the threshold.
        """
        cross = []
        for member in range(anchor.member_count):
            seen = partial(anchor.member_tokens, member)
            tokens = partial(_tokens, seen, self.data.views)
            mirrored = tuple(partial(_tokens, seen, (view,)) for view in self.data.mirrored)
            held_out = self.division.folds == member
            cross.append(_Start(anchor, anchor.member_flow(member), tokens, held_out, [], mirrored))
        everyone = torch.arange(len(self.data))
        before = [
            token_scores_under(start.flow, parameters_of(start.flow), start.tokens(everyone))
            for start in reported(cross, "scoring the buffer", self.progress)
        ]
        made = self._rounds(cross, self._suspicion(torch.cat(before, dim=2)), self.settings.members)
        detector = deepcopy(anchor)
        for member, fold_model in enumerate(made.fold_models):
            set_parameters(detector.member_flow(member), fold_model.parameters)
        kept = torch.from_numpy(np.flatnonzero(made.suspicion.kept))
        detector.calibrate(made.token_scores[kept], select(self.data.views[0], kept))
        scores = image_scores(detector, self.data, made.token_scores)
        return self._refined(made, detector, scores, detector.maps(made.token_scores))

    def of_one(self) -> Refined:
        """Fold models, heads and flows, reject and set the threshold; one more adapts to all images that are kept."""
        anchor, settings = self.anchor, self.settings
        tokens = _tokens(anchor.tokens, self.data.views, torch.arange(len(self.data)))
        token_scores = token_scores_under(anchor.flow, parameters_of(anchor.flow), tokens)
        suspicion = self._suspicion(token_scores)
        training_set = _training_set(anchor, self.data, suspicion, settings.head_adaptation)
        starts = _Starts(anchor, self.data, training_set, settings, self.seed, self.progress)
        cross = starts.cross_fitted(self.division)
        made = self._rounds(cross, suspicion, settings)
        whole = starts.without(made.suspicion).start(self.division.validation, len(cross) + 1)
        last = _fold_model(whole, made.suspicion.kept, settings.inner_loop, self.seed, len(made.rounds), self.progress)
        made = replace(made, steps=(*made.steps, *whole.steps, *last.steps))
        scores = image_scores(anchor, self.data, made.token_scores)
        return self._refined(made, last.detector, scores, _held_out_maps(made.fold_models, self.data))

    def _rounds(
        self, cross: Sequence["_Start"], suspicion: Suspicion, how: "RefinementSettings | MemberSettings"
    ) -> _Rounds:
        rounds = [round_of(suspicion, self.settings.rejection, self.image_ids)]
        steps = [step for start in cross for step in start.steps]
        for number in range(1, how.rounds + 1):
            fold_models = [
                _fold_model(
                    start,
                    suspicion.kept,
                    how.inner_loop,
                    self.seed,
                    number,
                    labelled(self.progress, f"{rank} of {len(cross)}"),
                )
                for rank, start in enumerate(cross, 1)
            ]
            token_scores = _held_out_token_scores(fold_models, self.progress)
            before, suspicion = suspicion, self._suspicion(token_scores)
            rounds.append(round_of(suspicion, self.settings.rejection, self.image_ids))
            steps += [step for fold_model in fold_models for step in fold_model.steps]
            if np.array_equal(before.kept, suspicion.kept):
                break
        return _Rounds(fold_models, token_scores, suspicion, tuple(rounds), tuple(steps))

    def _suspicion(self, token_scores: Tensor) -> Suspicion:
        scores = image_scores(self.anchor, self.data, token_scores)
        return suspect(scores, self.settings.rejection, self.default_k)

    def _refined(self, made: _Rounds, detector: Adaptable, scores: NDArray[np.float64], maps: Tensor) -> Refined:
        return Refined(
            detector=detector,
            scores=scores,
            maps=maps,
            folds=self.division.folds,
            suspicion=made.suspicion,
            rounds=made.rounds,
            steps=made.steps,
        )


@dataclass(frozen=True)
class _Start:
    """What one fold, or one member, starts from: a detector whose heads were adapted without the images that are
    `held_out` (N,), the flow that is to be adapted (its own, or one member's), and what gives that flow's `tokens` of
    some images, by their numbers (n,): (n, V * T, D), and those of each further view that trains. They are made when
    they are asked for: those of all members together would take gigabytes.
    """

    detector: Adaptable
    flow: Flow
    tokens: Callable[[Tensor], Tensor]
    held_out: NDArray[np.bool_]
    steps: list[Step]
    mirrored: tuple[Callable[[Tensor], Tensor], ...] = ()


@dataclass(frozen=True)
class _Starts:
    """Makes starts. `training_set` None: the heads stay the anchor's."""

    anchor: Adaptable
    data: AdaptationData
    training_set: TrainingSet | None
    settings: RefinementSettings
    seed: int
    progress: Progress

    def cross_fitted(self, division: Division) -> list[_Start]:
        """One for each fold, which it holds out."""
        return [self.start(division.folds == fold, fold + 1) for fold in range(int(division.folds.max()) + 1)]

    def without(self, suspicion: Suspicion) -> "_Starts":
        """The same, where what has become suspect since does not train."""
        if self.training_set is None:
            return self
        left = self.training_set.without(torch.from_numpy(np.flatnonzero(~suspicion.kept)))
        return replace(self, training_set=left if length(left.good) and length(left.synthetic) else None)

    def start(self, held_out: NDArray[np.bool_], number: int) -> _Start:
        """The `number`th."""
        if self.training_set is None or self.settings.head_adaptation is None:
            return _Start(self.anchor, self.anchor.flow, lambda rows: self._anchors_tokens[rows], held_out, [])
        head_data = HeadData.divided(self.training_set, torch.from_numpy(np.flatnonzero(held_out)))
        loop = self.settings.head_adaptation.inner_loop
        progress = labelled(self.progress, f"{number} of {self.settings.folds + 1}")
        detector, steps = with_adapted_heads(
            self.anchor, head_data, loop, seed=self.seed, round_number=number, progress=progress
        )
        tokens = _tokens(detector.tokens, self.data.views, torch.arange(len(self.data)))
        return _Start(detector, detector.flow, lambda rows: tokens[rows], held_out, steps)

    @cached_property
    def _anchors_tokens(self) -> Tensor:
        return _tokens(self.anchor.tokens, self.data.views, torch.arange(len(self.data)))


def round_of(suspicion: Suspicion, rejection: Rejection, image_ids: Sequence[str]) -> Round:
    """What a round of refinement leaves in the trace."""
    return Round(
        rule=rejection.rule.value,
        threshold=suspicion.threshold,
        kept=int(suspicion.kept.sum()),
        rejected=tuple(name for name, kept in zip(image_ids, suspicion.kept, strict=True) if not kept),
    )


def _training_set(
    anchor: Adaptable, data: AdaptationData, suspicion: Suspicion, settings: HeadAdaptation | None
) -> TrainingSet | None:
    """Kept images, and some of them with synthetic anomalies; None where no head is to be trained."""
    if settings is None or not anchor.heads:
        return None
    kept = np.flatnonzero(suspicion.kept)
    sample = kept[evenly_spaced(len(kept), settings.images)]
    numbers, chosen = torch.from_numpy(sample), torch.from_numpy(sample[evenly_spaced(len(sample), settings.synthetic)])
    synthetic, mask = data.synthetic(chosen)
    return TrainingSet(
        good=select(data.views[0], numbers), image=numbers, synthetic=synthetic, synthetic_image=chosen, mask=mask
    )


def _realigned(anchor: Adaptable, data: AdaptationData, division: Division, progress: Progress) -> Adaptable:
    """A copy of `anchor` that knows where the line's recent images are; an ensemble's members each without a fold."""
    copy = deepcopy(anchor)
    if isinstance(copy, Ensemble):
        for member in reported(range(copy.member_count), "realigning the features", progress):
            rows = torch.from_numpy(np.flatnonzero(division.folds != member))
            seen = [select(view, rows) for view in (*data.views, *data.mirrored)]
            copy.realign_member(member, joined(seen), images=len(rows))
    else:
        copy.realign(joined(data.views))
    return copy


def with_flow(detector: Adaptable, parameters: Parameters) -> Adaptable:
    """A copy of `detector` whose flow has `parameters`."""
    copy = deepcopy(detector)
    set_parameters(copy.flow, parameters)
    return copy


def _tokens(seen: Callable[[Embedding], Tensor], views: Sequence[Embedding], rows: Tensor) -> Tensor:
    with torch.no_grad():
        return _joined([seen(select(view, rows)) for view in views], dim=1)


def _joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The concatenation, and no copy of a single part: tokens of a large buffer are hundreds of megabytes."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def token_scores_under(flow: Flow, parameters: Parameters, tokens_NTD: Tensor) -> Tensor:
    """(N, T) under the flow with `parameters`, (N, T, K) under a product of K flows."""
    with torch.no_grad():
        scored = [
            flow.token_scores_of(*functional_call(flow, parameters, (rows,)))
            for rows in torch.split(tokens_NTD.flatten(0, 1), min(flow.most_rows, _ROWS))
        ]
    token_scores = torch.cat(scored)
    return token_scores.view(*tokens_NTD.shape[:2], *token_scores.shape[1:])


_ROWS = 2**16
"""Tokens that pass a flow at once: more take hundreds of MiB for hidden units, fewer gain no memory beside theirs."""


def image_scores(detector: Adaptable, data: AdaptationData, token_scores_NT: Tensor) -> NDArray[np.float64]:
    """(N,) averaged over the views, whose tokens stand one view after the other."""
    per_view = token_scores_NT.chunk(len(data.views), dim=1)
    scores = [
        detector.image_scores(token_scores, view) for token_scores, view in zip(per_view, data.views, strict=True)
    ]
    return torch.stack(scores).mean(dim=0).double().numpy()


@dataclass(frozen=True)
class _FoldModel:
    """What the inner loop made of a start's flow, without those that held_out."""

    start: _Start
    parameters: Parameters
    steps: list[Step]

    @property
    def detector(self) -> Adaptable:
        return with_flow(self.start.detector, self.parameters)


def _fold_model(
    start: _Start, may_train: NDArray[np.bool_], settings: InnerLoop, seed: int, number: int, progress: Progress
) -> _FoldModel:
    """Images that may train do, but for those held out, which validate; where that leaves one side empty, both do."""
    train, validation = may_train & ~start.held_out, may_train & start.held_out
    if not train.any() or not validation.any():
        train = validation = may_train
    rows, held_out = (torch.from_numpy(np.flatnonzero(each)) for each in (train, validation))
    tokens = _joined([seen(rows).flatten(0, 1) for seen in (start.tokens, *start.mirrored)])
    training = TrainingTokens(tokens, start.tokens(held_out).flatten(0, 1))
    made = adapted(start.flow, training, settings, seed=seed, round_number=number, progress=progress)
    return _FoldModel(start, *made)


def _held_out_token_scores(fold_models: Sequence[_FoldModel], progress: Progress) -> Tensor:
    """(N, T) or (N, T, K): each image's patches by the model that holds it out. With fewer parts than members, some
    members hold out no image.
    """
    held_out = [(fold_model, torch.from_numpy(np.flatnonzero(fold_model.start.held_out))) for fold_model in fold_models]
    token_scores = [
        token_scores_under(fold_model.start.flow, fold_model.parameters, fold_model.start.tokens(rows))
        for fold_model, rows in reported(held_out, "scoring the buffer", progress)
        if len(rows)
    ]
    return torch.cat(token_scores)[torch.argsort(torch.cat([rows for _, rows in held_out]))]


def _held_out_maps(fold_models: Sequence[_FoldModel], data: AdaptationData) -> Tensor:
    """(N, h, w): the same for the anomaly maps, averaged over the views."""
    views = fold_models[0].start.detector.views
    maps = torch.zeros(len(data), *fold_models[0].start.detector.grid)
    for fold_model in fold_models:
        rows, detector = torch.from_numpy(np.flatnonzero(fold_model.start.held_out)), fold_model.detector
        for view, embedding in zip(views, data.views, strict=True):
            with torch.no_grad():
                seen = detector.score_embedding(select(embedding, rows)).maps
            maps[rows] += view.undo(seen) / len(views)
    return maps
