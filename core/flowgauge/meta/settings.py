"""How the meta-learned initialization is learned, and what each turn tells."""

import math

from pydantic import Field

from flowgauge.adaptation.inner_loop import InnerLoop
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.domain.messages import FrozenModel
from flowgauge.meta.outer_loop import Order

_WARM_UP = 0.1
"""The share of the turns in which the outer step grows to its length."""


class MetaTraining(FrozenModel):
    """`turns` of the outer loop, a task each; `beta` is the length of Adam's steps at their longest. The support's
    share of defects is drawn from `contamination`. `head` and `flow` are the inner loops, with fewer and longer steps
    than an adaptation's: a turn of 40 takes four times as long.
    """

    turns: int = Field(1200, ge=1)
    beta: float = Field(1e-3, gt=0)
    head: InnerLoop = InnerLoop(alpha=0.2, steps=12, batch=16, warm_up=4, l2=L2Rule(lowest=0.01, highest=0.5))
    flow: InnerLoop = InnerLoop(alpha=0.2, steps=10, warm_up=4)
    order: Order = Order.FIRST
    contamination: tuple[float, ...] = Field((0.0, 0.1, 0.2, 0.3, 0.5), min_length=1)
    seed: int = 0

    def step_length(self, turn: int) -> float:
        """Grows for the first tenth of the turns, then falls by a cosine to nothing."""
        done = turn / self.turns
        if done < _WARM_UP:
            return self.beta * (done + 1 / self.turns) / _WARM_UP
        return self.beta * 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


class Turn(FrozenModel):
    """What a task's query lost after its inner loops: the head in units of its cross-entropy, the flow in nats per
    dimension; lower is better.
    """

    turn: int
    line: str
    head_loss: float
    flow_loss: float
