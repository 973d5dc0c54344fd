"""The outer loop: how parameters must change so that a few steps from them lead further, task after task.

theta' = theta - alpha * grad L(theta, support), some times over, and the gradient of L(theta', query) by theta: MAML
(arXiv 1703.03400), RAD (arXiv 2508.17789 eq. 6 and 7). To first order the inner steps count as constants, so that it is
the gradient by theta' (FOMAML, arXiv 1803.02999); to second order the gradient goes through them. Meta-learned are the
flow of one member of `featureflow`, at which all members start, or `headflow`'s head and the flow over its embedding.
The loop is seeded and continues where it was interrupted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from enum import StrEnum
from typing import TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from flowgauge.adaptation.head_adaptation import HeadData, WindowDraw, head_objective
from flowgauge.adaptation.inner_loop import (
    Draw,
    InnerLoop,
    Loss,
    Parameters,
    StepRule,
    TokenDraw,
    TrainingTokens,
    inner_loop,
    loss_of,
)
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.domain import trace
from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.seeding import seeded
from flowgauge.meta.tasks import MetaLine, Task, draw_task
from flowgauge.models.adaptable import FLOW
from flowgauge.models.detector import length
from flowgauge.models.featureflow.detector import FeatureFlow
from flowgauge.models.headflow.detector import HEAD, HeadFlow

Batch = TypeVar("Batch")

# The share of the turns in which the outer step grows to its length. Adam's moments are those of few tasks at first:
# full steps by them leave the start for nothing, and a longer warm-up is time without learning.
_WARM_UP = 0.1

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Order(StrEnum):
    FIRST = "first"
    SECOND = "second"


class MetaTraining(FrozenModel):
    """`turns` of the outer loop, a task each; `beta` is the length of Adam's steps at their longest. The support's
    share of defects is drawn from `contamination`. The inner loops have fewer and longer steps than an adaptation's: a
    turn of 40 takes four times as long. `head` and `flow` are those of `headflow`; `member` is that of `featureflow`,
    whose rule, longest step and noise are those with which it is fitted.
    """

    turns: int = Field(1200, ge=1)
    beta: float = Field(1e-3, gt=0)
    head: InnerLoop = InnerLoop(alpha=0.2, steps=12, batch=16, warm_up=4, l2=L2Rule(lowest=0.01, highest=0.5))
    flow: InnerLoop = InnerLoop(alpha=0.2, steps=10, warm_up=4)
    member: InnerLoop = InnerLoop(rule=StepRule.ADAM, alpha=0.01, steps=25, batch=384, noise=0.05, warm_up=2)
    order: Order = Order.FIRST
    contamination: tuple[float, ...] = Field((0.0, 0.1, 0.2, 0.3, 0.5), min_length=1)
    seed: int = 0

    def step_length(self, turn: int) -> float:
        """Grows linearly in the warm-up, then falls by a cosine to nothing."""
        done = turn / self.turns
        if done < _WARM_UP:
            return self.beta * (done + 1 / self.turns) / _WARM_UP
        return self.beta * 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


class Turn(FrozenModel):
    """What a task's query lost after its inner loops: the head, where the detector has one, in units of its
    cross-entropy, the flow in nats per dimension; lower is better.
    """

    turn: int
    line: str
    head_loss: float | None = None
    flow_loss: float


def meta_gradient(
    loss: Loss[Batch], init: Parameters, draw: Draw[Batch], settings: InnerLoop, order: Order, *, what: str
) -> tuple[Parameters, float, Parameters]:
    """The gradient by theta of the loss on the query after the inner loop on the support; that loss; and theta'.

    `draw` trains on the support and validates on the query, whose losses set lambda and nothing else in the loop.
    """
    query = draw.validation_batch()

    def after(start: Parameters) -> tuple[Tensor, Parameters]:
        adapted, _ = inner_loop(start, loss, draw, settings, what=what)
        return loss(adapted, query), adapted

    if order is Order.FIRST:
        _, adapted = after(init)
        gradient, value = grad_and_value(loss)(adapted, query)
    else:
        gradient, (value, adapted) = grad_and_value(after, has_aux=True)(init)
    return gradient, float(value), {name: tensor.detach() for name, tensor in adapted.items()}


MetaLearner = FeatureFlow | HeadFlow


def parameters_of(detector: MetaLearner) -> Parameters:
    """Copies of what is meta-learned, by the names that `load_init` knows."""
    modules: dict[str, nn.Module] = (
        {HEAD: detector.ensemble[0].head, FLOW: detector.flow}
        if isinstance(detector, HeadFlow)
        else {FLOW: detector.member_flow(0)}
    )
    return {
        prefix + name: parameter.detach().clone()
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def task_gradient(
    detector: MetaLearner, task: Task, settings: MetaTraining, init: Parameters, seed: int
) -> tuple[Parameters, float | None, float]:
    """The gradient by all of `init`, and what the head, if there is one, and the flow lose on the query after their
    inner loops.

    The detector lends its modules and statistics; its parameters stay as they are.
    """
    if isinstance(detector, FeatureFlow):
        return _of_member(detector, task, settings, init, seed)
    return _of_head_and_flow(detector, task, settings, init, seed)


def _of_member(
    detector: FeatureFlow, task: Task, settings: MetaTraining, init: Parameters, seed: int
) -> tuple[Parameters, None, float]:
    lent, flow = deepcopy(detector), detector.member_flow(0)
    lent.align_member(0, task.support.good, torch.arange(length(task.support.good)))
    with torch.no_grad():
        support, query = (lent.member_tokens(0, images.good).flatten(0, 1) for images in (task.support, task.query))
    draw = TokenDraw(TrainingTokens(support, query), settings.member.batch, settings.member.noise, seed)
    start = {name.removeprefix(FLOW): value for name, value in init.items()}
    gradient, loss, _ = meta_gradient(loss_of(flow), start, draw, settings.member, settings.order, what=trace.FLOW)
    return {FLOW + name: g for name, g in gradient.items()}, None, loss


def _of_head_and_flow(
    detector: HeadFlow, task: Task, settings: MetaTraining, init: Parameters, seed: int
) -> tuple[Parameters, float, float]:
    head, flow = detector.ensemble[0].head, detector.flow
    of_head, of_flow = (
        {name.removeprefix(prefix): value for name, value in init.items() if name.startswith(prefix)}
        for prefix in (HEAD, FLOW)
    )
    head.measure(task.support.good)
    with seeded(seed):
        windows = WindowDraw(head, HeadData(task.support, task.query), settings.head.batch, seed)
        head.train()
        by_head, head_loss, adapted = meta_gradient(
            head_objective(head), of_head, windows, settings.head, settings.order, what=trace.HEAD
        )
        # the flow learns the embedding of the adapted head, standardised by the support
        head.eval()
        with torch.no_grad():
            support, query = (
                functional_call(head, adapted, (images.good,)).flatten(2).transpose(1, 2).flatten(0, 1)
                for images in (task.support, task.query)
            )
        centre, spread = support.mean(dim=0), support.std(dim=0).mean()
        tokens = TrainingTokens((support - centre) / spread, (query - centre) / spread)
        rows = min(settings.flow.batch, flow.most_rows)
        by_flow, flow_loss, _ = meta_gradient(
            loss_of(flow),
            of_flow,
            TokenDraw(tokens, rows, settings.flow.noise, seed),
            settings.flow,
            settings.order,
            what=trace.FLOW,
        )
    gradient = {HEAD + name: g for name, g in by_head.items()} | {FLOW + name: g for name, g in by_flow.items()}
    return gradient, head_loss, flow_loss


class MetaState:
    """Everything that the next turn depends on: theta, the outer optimiser, and the turns that were made."""

    def __init__(
        self, init: Parameters, turns: Sequence[Turn] = (), moments: Mapping[str, Tensor] | None = None
    ) -> None:
        """`moments` are those that the property gave after `turns`."""
        self.init = {name: value.clone() for name, value in init.items()}
        self.turns = list(turns)
        self._optimiser = torch.optim.Adam(self.init.values())
        if moments:
            for name, value in self.init.items():
                kept = {key: moments[f"{key}.{name}"].clone() for key in _MOMENTS}
                self._optimiser.state[value] = kept | {"step": torch.tensor(float(len(self.turns)))}

    @property
    def moments(self) -> dict[str, Tensor]:
        """The optimiser's; empty before the first turn."""
        kept = self._optimiser.state
        return {
            f"{key}.{name}": kept[value][key] for name, value in self.init.items() if value in kept for key in _MOMENTS
        }

    def step(self, gradient: Parameters, length: float) -> None:
        for name, value in self.init.items():
            value.grad = gradient[name]
        self._optimiser.param_groups[0]["lr"] = length
        self._optimiser.step()


def meta_train(
    detector: MetaLearner,
    lines: Sequence[MetaLine],
    settings: MetaTraining,
    state: MetaState,
    after: Callable[[MetaState], None],
) -> None:
    """Turn by turn until `settings.turns` are done, in place; `after` is called at the end of each.

    Raises `UserError` for a turn whose gradient is not finite; `state` is that of the turn before.
    """
    while len(state.turns) < settings.turns:
        number = len(state.turns)
        # every turn has a generator of its own, so that a run that was interrupted gives the same as one that was not
        rng = np.random.default_rng([settings.seed, number])
        line = lines[int(rng.integers(len(lines)))]
        task = draw_task(line, settings.contamination, rng)
        gradient, head_loss, flow_loss = task_gradient(
            detector, task, settings, state.init, seed=int(rng.integers(2**31))
        )
        if not all(bool(g.isfinite().all()) for g in gradient.values()):
            raise UserError(
                f"Meta-training diverged: turn {number + 1}, on {line.name}, has a gradient that is not finite.",
                "Give another --seed, or fewer --turns.",
            )
        state.step(gradient, settings.step_length(number))
        state.turns.append(Turn(turn=number, line=line.name, head_loss=head_loss, flow_loss=flow_loss))
        after(state)
