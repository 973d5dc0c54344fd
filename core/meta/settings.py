"""How theta* is learned, and what each turn tells."""

import math

from pydantic import Field

from core.messages import Part
from core.meta.outer_loop import InnerSteps

_WARM_UP = 0.1
"""The share of the turns in which the outer step grows to its length."""


class MetaTraining(Part):
    """`turns` of the outer loop, a task each; `beta` is the length of Adam's steps at their longest. The support's
    share of defects is drawn from `contamination`.
    """

    turns: int = Field(1200, ge=1)
    beta: float = Field(1e-3, gt=0)
    guide: InnerSteps = InnerSteps(alpha=0.2, steps=12)
    flow: InnerSteps = InnerSteps(alpha=0.2, steps=10)
    contamination: tuple[float, ...] = Field((0.0, 0.1, 0.2, 0.3, 0.5), min_length=1)
    seed: int = 0

    def step_length(self, turn: int) -> float:
        """Grows for the first tenth of the turns, then falls by a cosine to nothing."""
        done = turn / self.turns
        if done < _WARM_UP:
            return self.beta * (done + 1 / self.turns) / _WARM_UP
        return self.beta * 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


class Turn(Part):
    """What a task's query lost after its inner loops: the guide in units of its cross-entropy, the flow in nats per
    dimension; lower is better.
    """

    turn: int
    line: str
    guide_loss: float
    flow_loss: float
