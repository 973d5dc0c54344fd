"""Head adaptation: the inner loop on a detector's heads, from the anchor's, by synthetic anomalies on recent images.

What separates defects from good surface changes with light and texture. Under a head that was trained with the old
ones, adapting the flow moves the threshold, but hardly the ranking; so the head takes a few steps as well.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from flowgauge.adaptation.inner_loop import InnerLoop, Parameters, inner_loop, set_parameters
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import Progress, silent
from flowgauge.domain.seeding import seeded
from flowgauge.domain.trace import HEAD, Step
from flowgauge.models.adaptable import Adaptable
from flowgauge.models.detector import Embedding, TrainingSet, length
from flowgauge.models.headflow.head import Head, HeadObjective
from flowgauge.models.windows import Windows

Kind = TypeVar("Kind", bound=Adaptable)
Windowed = tuple[Embedding, Tensor]


class HeadAdaptation(FrozenModel):
    """How many images train a head, and the inner loop, whose batch is in windows."""

    # more take more memory, for features lie there more than once; fewer are no sample of the line
    images: int = Field(256, ge=2, description="At most so many good images train.")
    # more take longer, for their features are most of the cost; with fewer, some kinds of anomalies are missing
    synthetic: int = Field(64, ge=2, description="At most so many of them train with a synthetic anomaly too.")
    inner_loop: InnerLoop = InnerLoop(alpha=0.1, steps=40, batch=16, l2=L2Rule(lowest=0.01, highest=0.5))


@dataclass(frozen=True)
class HeadData:
    """Images that train, and others for the validation loss."""

    train: TrainingSet
    validation: TrainingSet

    @classmethod
    def divided(cls, training_set: TrainingSet, validation: Tensor) -> "HeadData":
        """The images whose numbers `validation` names are for the validation loss. Where too few are left on one side,
        all are on both.
        """
        split = cls(training_set.without(validation), training_set.only(validation))
        sides = (split.train.good, split.train.synthetic, split.validation.good, split.validation.synthetic)
        return split if min(map(length, sides)) else cls(training_set, training_set)


def with_adapted_heads(
    detector: Kind, data: HeadData, settings: InnerLoop, *, seed: int, round_number: int, progress: Progress = silent
) -> tuple[Kind, list[Step]]:
    """A copy of `detector` whose heads took the inner loop's steps, each by itself, and what was measured."""
    copy, steps = deepcopy(detector), list[Step]()
    for head in copy.heads:
        assert isinstance(head, Head), "synthetic anomalies train heads"
        with seeded(seed):
            head.train()
            draw = WindowDraw(head, data, settings.batch, seed)
            anchor = {name: parameter.detach() for name, parameter in head.named_parameters()}
            parameters, taken = inner_loop(
                anchor, head_objective(head), draw, settings, what=HEAD, round_number=round_number, progress=progress
            )
            head.eval()
        set_parameters(head, parameters)
        steps += taken
    copy.rescale(data.train.good)
    return copy, steps


def head_objective(head: Head) -> Callable[[Parameters, Windowed], Tensor]:
    """(the head's parameters, windows and their masks) -> its cross-entropy."""
    module = HeadObjective(head)

    def loss(parameters: Parameters, windows: Windowed) -> Tensor:
        value: Tensor = functional_call(module, {f"head.{name}": p for name, p in parameters.items()}, windows)
        return value

    return loss


class WindowDraw:
    """Windows at random: half of them good, half with a synthetic anomaly."""

    def __init__(self, head: Head, data: HeadData, batch: int, seed: int) -> None:
        side = head.config.side(data.train.mask.shape[1])
        self.train_batch, self.validation_batch = (
            _drawn(training_set, side, batch, seed + number)
            for number, training_set in enumerate((data.train, data.validation))
        )


def _drawn(training_set: TrainingSet, side: int, batch: int, seed: int) -> Callable[[], Windowed]:
    windows, generator = Windows(training_set, side, seed), torch.Generator().manual_seed(seed)
    good, synthetic = length(training_set.good), length(training_set.synthetic)

    def draw() -> Windowed:
        goods = torch.randint(good, (batch // 2,), generator=generator)
        anomalies = torch.randint(synthetic, (batch - batch // 2,), generator=generator)
        return windows.of(torch.cat([goods, good + anomalies]))

    return draw
