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

from flowgauge.adaptation.head_adaptation import Lessons, Retuning, retuned
from flowgauge.adaptation.inner_loop import InnerLoop, Parameters, StepRule, Teaching, adapted, parameters_of
from flowgauge.domain.folds import fold_of
from flowgauge.domain.messages import Part
from flowgauge.domain.trace import Round, Step
from flowgauge.models.adaptable import Adaptable, Ensemble
from flowgauge.models.detector import Embedding, Lesson, Progress, joined, length, select
from flowgauge.models.flows.flow import Flow
from flowgauge.training.outliers import Rejection, Suspicion, suspect


class MemberSettings(Part):
    """How an ensemble's members adapt. Every further round takes as long as the first.

    Plain gradient steps hardly move flows of 96 dimensions: at the end of the tiles' drift (seed 0) 40 of them gave an
    image AUROC of 0.70, 100 of Adam's on realigned features 0.81, a fit from scratch 0.84 (decision 25).
    """

    rounds: int = Field(1, ge=1)
    inner_loop: InnerLoop = InnerLoop(rule=StepRule.ADAM, alpha=4e-3, steps=100, batch=512, noise=0.05)


class RefinementSettings(Part):
    """`folds` of cross-fitting; at most `rounds` of score, reject and adapt. `inner_loop` is the flow's; without
    `retuning`, the guides stay the anchor's. An ensemble has a fold for each member, and adapts by `members`.
    """

    rounds: int = Field(3, ge=1)
    folds: int = Field(2, ge=2)
    retuning: Retuning | None = Retuning()
    inner_loop: InnerLoop = InnerLoop()
    members: MemberSettings = MemberSettings()
    rejection: Rejection = Rejection()


Painting = Callable[[Tensor], tuple[Embedding, Tensor]]
"""Numbers (n,) of buffered images -> copies of those with a painted defect each, and the masks (n, h, w) in [0, 1]."""


@dataclass(frozen=True)
class Evidence:
    """The buffered images as a detector sees them: one embedding for each of its views, all (N, ...). `painted` is
    asked for some of them where the detector has guides. Further views, `mirrored`, teach an ensemble and no more.
    """

    views: tuple[Embedding, ...]
    painted: Painting
    mirrored: tuple[Embedding, ...] = ()

    def __len__(self) -> int:
        return length(self.views[0])


@dataclass(frozen=True)
class Refined:
    """`scores` (N,) and `maps` (N, h, w) are cross-fitted, over all images and before any truncation; `detector` was
    taught by the kept ones.
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
    """Of N images: the fold (N,) of each, and which (N,) bool only watch the fit to all of them. Parts stay whole."""

    folds: NDArray[np.intp]
    watching: NDArray[np.bool_]

    @classmethod
    def of(cls, parts: Sequence[str], folds: int) -> "Division":
        """By the part that each image shows, as many folds as there are parts for."""
        eighths = fold_of(parts, min(_WATCHING, len(set(parts))))
        return cls(fold_of(parts, folds), eighths == int(eighths.max()) // 2)


_WATCHING = 8
"""One of so many parts does not teach the candidate itself: on it, the validation loss is taken."""


def refine(
    anchor: Adaptable,
    evidence: Evidence,
    image_ids: Sequence[str],
    division: Division,
    settings: RefinementSettings,
    *,
    default_k: float,
    seed: int,
    progress: Progress,
) -> Refined:
    """Adapt a copy of `anchor` to what `evidence` shows; the anchor stays as it is."""
    anchor = _recentred(anchor, evidence, division)
    rarity = token_rarity(anchor.flow, parameters_of(anchor.flow), _tokens(anchor.tokens, evidence))
    suspicion = _suspicion(anchor, evidence, rarity, settings.rejection, default_k)
    rounds, steps = [_round(suspicion, settings.rejection, image_ids)], list[Step]()
    school = _School(
        anchor, evidence, _lesson(anchor, evidence, suspicion, settings.retuning), settings, seed, progress
    )
    cross = school.cross_fitted(division)
    how = settings.members if isinstance(anchor, Ensemble) else settings
    for number in range(1, how.rounds + 1):
        progress("refining, round", number, how.rounds)
        students = [_student(start, suspicion.patches, how.inner_loop, seed, number) for start in cross]
        rarity = _held_out_rarity(students)
        before = suspicion
        suspicion = _suspicion(anchor, evidence, rarity, settings.rejection, default_k)
        rounds.append(_round(suspicion, settings.rejection, image_ids))
        steps += [step for student in students for step in student.steps]
        if np.array_equal(before.kept, suspicion.kept):
            break
    steps = [*(step for start in cross for step in start.steps), *steps]
    if isinstance(anchor, Ensemble):
        refined = _of_members(anchor, students, evidence, rarity, suspicion)
    else:
        whole = school.without(suspicion).start(division.watching, len(cross) + 1)
        last = _student(whole, suspicion.patches, settings.inner_loop, seed, len(rounds))
        steps += [*whole.steps, *last.steps]
        refined = _Refitted(last.detector, image_scores(anchor, evidence, rarity), _held_out_maps(students, evidence))
    return Refined(
        detector=refined.detector,
        scores=refined.scores,
        maps=refined.maps,
        folds=division.folds,
        suspicion=suspicion,
        rounds=tuple(rounds),
        steps=tuple(steps),
    )


@dataclass(frozen=True)
class _Refitted:
    """What was adapted, and the cross-fitted scores (N,) and maps (N, h, w) that its threshold is set by."""

    detector: Adaptable
    scores: NDArray[np.float64]
    maps: Tensor


def _of_members(
    anchor: Ensemble, students: Sequence["_Student"], evidence: Evidence, rarity: Tensor, suspicion: Suspicion
) -> _Refitted:
    """The members that were cross-fitted are the candidate: nothing is fitted to all images once more."""
    detector = deepcopy(anchor)
    for member, student in enumerate(students):
        _set(detector.member_flow(member), student.parameters)
    kept = torch.from_numpy(np.flatnonzero(suspicion.kept))
    detector.calibrate(rarity[kept], select(evidence.views[0], kept))
    return _Refitted(detector, image_scores(detector, evidence, rarity), detector.maps(rarity))


def _suspicion(detector: Adaptable, evidence: Evidence, rarity: Tensor, rule: Rejection, default_k: float) -> Suspicion:
    return suspect(image_scores(detector, evidence, rarity), detector.patch_scores(rarity), rule, default_k)


@dataclass(frozen=True)
class _Start:
    """A detector whose guides were tuned without the images that watch, the flow that is to be adapted (its own, or one
    member's) and what that flow sees of all images: tokens (N, V * T, D), and those of each further view that teaches.
    """

    detector: Adaptable
    flow: Flow
    tokens: Tensor
    watched: NDArray[np.bool_]
    steps: list[Step]
    mirrored: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class _School:
    """Makes starts. `lesson` None: the guides stay the anchor's."""

    anchor: Adaptable
    evidence: Evidence
    lesson: Lesson | None
    settings: RefinementSettings
    seed: int
    progress: Progress

    def cross_fitted(self, division: Division) -> list[_Start]:
        """One for each fold, which watches it; of an ensemble, one for each member."""
        anchor = self.anchor
        if isinstance(anchor, Ensemble):
            return [self._of_member(anchor, member, division.folds == member) for member in range(anchor.member_count)]
        return [self.start(division.folds == fold, fold + 1) for fold in range(int(division.folds.max()) + 1)]

    def _of_member(self, anchor: Ensemble, member: int, watched: NDArray[np.bool_]) -> _Start:
        seen = partial(anchor.member_tokens, member)
        mirrored = tuple(seen(view) for view in self.evidence.mirrored)
        return _Start(anchor, anchor.member_flow(member), _tokens(seen, self.evidence), watched, [], mirrored)

    def without(self, suspicion: Suspicion) -> "_School":
        """The same, where what has become suspect since does not teach."""
        if self.lesson is None:
            return self
        left = self.lesson.without(torch.from_numpy(np.flatnonzero(~suspicion.kept)))
        return replace(self, lesson=left if length(left.good) and length(left.painted) else None)

    def start(self, watched: NDArray[np.bool_], number: int) -> _Start:
        """The `number`th."""
        self.progress("retuning the guide", number, self.settings.folds + 1)
        if self.lesson is None or self.settings.retuning is None:
            return _Start(self.anchor, self.anchor.flow, self._anchors_tokens, watched, [])
        lessons = Lessons.divided(self.lesson, torch.from_numpy(np.flatnonzero(watched)))
        loop = self.settings.retuning.inner_loop
        detector, steps = retuned(self.anchor, lessons, loop, seed=self.seed, round_number=number)
        return _Start(detector, detector.flow, _tokens(detector.tokens, self.evidence), watched, steps)

    @cached_property
    def _anchors_tokens(self) -> Tensor:
        return _tokens(self.anchor.tokens, self.evidence)


def _lesson(anchor: Adaptable, evidence: Evidence, suspicion: Suspicion, settings: Retuning | None) -> Lesson | None:
    """Kept images, and some of them with painted defects; None where no guide is to be taught."""
    if settings is None or not anchor.guides:
        return None
    numbers = _spread_out(torch.from_numpy(np.flatnonzero(suspicion.kept)), settings.images)
    chosen = _spread_out(numbers, settings.painted)
    painted, mask = evidence.painted(chosen)
    return Lesson(
        good=select(evidence.views[0], numbers), image=numbers, painted=painted, painted_image=chosen, mask=mask
    )


def _spread_out(numbers: Tensor, most: int) -> Tensor:
    """So many of them at regular steps, or all."""
    return numbers[torch.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().long()]


def _recentred(anchor: Adaptable, evidence: Evidence, division: Division) -> Adaptable:
    """A copy of `anchor` that knows where the line's recent images are; an ensemble's members each without a fold."""
    copy = deepcopy(anchor)
    if isinstance(copy, Ensemble):
        for member in range(copy.member_count):
            rows = torch.from_numpy(np.flatnonzero(division.folds != member))
            seen = [select(view, rows) for view in (*evidence.views, *evidence.mirrored)]
            copy.recentre_member(member, joined(seen), images=len(rows))
    else:
        copy.recentre(joined(evidence.views))
    return copy


def with_flow(detector: Adaptable, parameters: Parameters) -> Adaptable:
    """A copy of `detector` whose flow has `parameters`."""
    copy = deepcopy(detector)
    _set(copy.flow, parameters)
    return copy


def _set(flow: Flow, parameters: Parameters) -> None:
    own = dict(flow.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)


def _tokens(seen: Callable[[Embedding], Tensor], evidence: Evidence) -> Tensor:
    with torch.no_grad():
        return torch.cat([seen(embedding) for embedding in evidence.views], dim=1)


def token_rarity(flow: Flow, parameters: Parameters, tokens_NTD: Tensor) -> Tensor:
    """(N, T) under the flow with `parameters`, (N, T, K) under a product of K flows."""
    with torch.no_grad():
        told = [
            flow.rarity_of(*functional_call(flow, parameters, (rows,)))
            for rows in torch.split(tokens_NTD.flatten(0, 1), min(flow.most_rows, _ROWS))
        ]
    rarity = torch.cat(told)
    return rarity.view(*tokens_NTD.shape[:2], *rarity.shape[1:])


_ROWS = 2**16
"""Tokens that pass a flow at once: more take hundreds of MiB for hidden units, fewer gain no memory beside theirs."""


def image_scores(detector: Adaptable, evidence: Evidence, rarity_NT: Tensor) -> NDArray[np.float64]:
    """(N,) averaged over the views, whose tokens stand one view after the other."""
    per_view = rarity_NT.chunk(len(evidence.views), dim=1)
    scores = [detector.image_scores(rarity, view) for rarity, view in zip(per_view, evidence.views, strict=True)]
    return torch.stack(scores).mean(dim=0).double().numpy()


@dataclass(frozen=True)
class _Student:
    """What the inner loop made of a start's flow, without those that watched."""

    start: _Start
    parameters: Parameters
    steps: list[Step]

    @property
    def detector(self) -> Adaptable:
        return with_flow(self.start.detector, self.parameters)


def _student(start: _Start, may_teach: Tensor, settings: InnerLoop, seed: int, number: int) -> _Student:
    teaching = _teaching(start, may_teach)
    return _Student(start, *adapted(start.flow, teaching, settings, seed=seed, round_number=number))


def _teaching(start: _Start, may_teach: Tensor) -> Teaching:
    """Where nothing is left on one side, all that may teach does both. Of a mirrored view all patches of an image teach
    of which any may: which of them are suspect is known of the plain view alone.
    """
    watched = torch.from_numpy(start.watched)[:, None]
    taught, watching = start.tokens[may_teach & ~watched], start.tokens[may_teach & watched]
    if not len(taught) or not len(watching):
        taught = watching = start.tokens[may_teach]
    images = (may_teach.any(dim=1) & ~watched[:, 0]).nonzero().flatten()
    return Teaching(torch.cat([taught, *(view[images].flatten(0, 1) for view in start.mirrored)]), watching)


def _held_out_rarity(students: Sequence[_Student]) -> Tensor:
    """(N, T) or (N, T, K): each image's patches by the student that it watched. With fewer parts than members, some
    members' students are watched by no image.
    """
    watched = [(student, torch.from_numpy(np.flatnonzero(student.start.watched))) for student in students]
    rarity = [
        token_rarity(student.start.flow, student.parameters, student.start.tokens[rows])
        for student, rows in watched
        if len(rows)
    ]
    return torch.cat(rarity)[torch.argsort(torch.cat([rows for _, rows in watched]))]


def _held_out_maps(students: Sequence[_Student], evidence: Evidence) -> Tensor:
    """(N, h, w): the same for the anomaly maps, averaged over the views."""
    views = students[0].start.detector.views
    maps = torch.zeros(len(evidence), *students[0].start.detector.grid)
    for student in students:
        rows, detector = torch.from_numpy(np.flatnonzero(student.start.watched)), student.detector
        for view, embedding in zip(views, evidence.views, strict=True):
            with torch.no_grad():
                seen = detector.score_embedding(select(embedding, rows)).maps
            maps[rows] += view.undo(seen) / len(views)
    return maps


def _round(suspicion: Suspicion, rule: Rejection, image_ids: Sequence[str]) -> Round:
    return Round(
        rule=rule.image_rule.value,
        threshold=suspicion.threshold,
        kept=int(suspicion.kept.sum()),
        rejected=tuple(name for name, kept in zip(image_ids, suspicion.kept, strict=True) if not kept),
        patch_share_rejected=suspicion.patch_share_rejected,
    )
