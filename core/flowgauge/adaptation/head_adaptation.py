"""Retuning: the inner loop on a detector's guides, from the anchor's, by defects painted on what the line now shows.

What tells defects from good surface changes with light and texture. Under a guide that only knows the old ones, the
flow can move the threshold, but hardly the ranking; so the guide takes a few steps as well.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from flowgauge.adaptation.inner_loop import InnerLoop, Parameters, inner_loop
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.domain.messages import Part
from flowgauge.domain.seeding import seeded
from flowgauge.domain.trace import GUIDE, Step
from flowgauge.models.adaptable import Adaptable
from flowgauge.models.detector import Embedding, Lesson, length
from flowgauge.models.headflow.head import Guide, LessonLoss
from flowgauge.models.windows import Windows

Kind = TypeVar("Kind", bound=Adaptable)
Windowed = tuple[Embedding, Tensor]


class Retuning(Part):
    """At most so many `images` teach, for their features lie in memory more than once, and so many are shown with a
    `painted` defect too, for those features are what retuning costs most. The inner loop's batch is in windows.
    """

    images: int = Field(256, ge=2)
    painted: int = Field(64, ge=2)
    inner_loop: InnerLoop = InnerLoop(alpha=0.1, steps=40, batch=16, l2=L2Rule(lowest=0.01, highest=0.5))


@dataclass(frozen=True)
class Lessons:
    """Good and painted images that teach, and others that only watch (the validation loss)."""

    taught: Lesson
    watched: Lesson

    @classmethod
    def divided(cls, lesson: Lesson, watching: Tensor) -> "Lessons":
        """The images whose numbers `watching` names watch. Where too few are left on one side, all do both."""
        watched = lesson.only(watching)
        taught = lesson.without(watching)
        if min(map(length, (taught.good, taught.painted, watched.good, watched.painted))) == 0:
            return cls(lesson, lesson)
        return cls(taught, watched)


def retuned(
    detector: Kind, lessons: Lessons, settings: InnerLoop, *, seed: int, round_number: int
) -> tuple[Kind, list[Step]]:
    """A copy of `detector` whose guides took the inner loop's steps, each by itself, and what was measured."""
    copy, steps = deepcopy(detector), list[Step]()
    for guide in copy.guides:
        assert isinstance(guide, Guide), "painted defects teach guides"
        with seeded(seed):
            parameters, taken = _tuned(guide, lessons, settings, seed, round_number)
        _set(guide, parameters)
        steps += taken
    copy.rescale(lessons.taught.good)
    return copy, steps


def _tuned(
    guide: Guide, lessons: Lessons, settings: InnerLoop, seed: int, round_number: int
) -> tuple[Parameters, list[Step]]:
    guide.train()
    draw = WindowDraw(guide, lessons, settings.batch, seed)
    anchor = {name: parameter.detach() for name, parameter in guide.named_parameters()}
    found = inner_loop(anchor, lesson_loss(guide), draw, settings, what=GUIDE, round_number=round_number)
    guide.eval()
    return found


def lesson_loss(guide: Guide) -> Callable[[Parameters, Windowed], Tensor]:
    """(the guide's parameters, windows and their masks) -> its cross-entropy."""
    module = LessonLoss(guide)

    def loss(parameters: Parameters, windows: Windowed) -> Tensor:
        value: Tensor = functional_call(module, {f"guide.{name}": p for name, p in parameters.items()}, windows)
        return value

    return loss


def _set(guide: Guide, parameters: Parameters) -> None:
    own = dict(guide.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)


class WindowDraw:
    """Windows at random: half of them good, half painted."""

    def __init__(self, guide: Guide, lessons: Lessons, batch: int, seed: int) -> None:
        side = guide.config.side(lessons.taught.mask.shape[1])
        self.taught, self.watched = (
            _drawn(lesson, side, batch, seed + number)
            for number, lesson in enumerate((lessons.taught, lessons.watched))
        )


def _drawn(lesson: Lesson, side: int, batch: int, seed: int) -> Callable[[], Windowed]:
    windows, generator = Windows(lesson, side, seed), torch.Generator().manual_seed(seed)
    good, painted = length(lesson.good), length(lesson.painted)

    def draw() -> Windowed:
        goods = torch.randint(good, (batch // 2,), generator=generator)
        paintings = torch.randint(painted, (batch - batch // 2,), generator=generator)
        return windows.of(torch.cat([goods, good + paintings]))

    return draw
