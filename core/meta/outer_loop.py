"""One turn of the outer loop: how parameters must change so that a few steps from them lead further.

theta' = theta - alpha * grad L(theta, support), some times over, and the gradient of L(theta', query) by theta: MAML
(arXiv 1703.03400), RAD (arXiv 2508.17789 eq. 6 and 7). To first order the inner steps count as constants, so that it is
the gradient by theta' (FOMAML, arXiv 1803.02999); to second order the gradient goes through them.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.func import grad, grad_and_value

from core.adaptation.inner_loop import Parameters
from core.messages import Part

Batch = TypeVar("Batch")
Loss = Callable[[Parameters, Batch], Tensor]
"""(parameters, batch) -> a scalar, differentiable by the parameters."""


class Order(StrEnum):
    FIRST = "first"
    SECOND = "second"


class InnerSteps(Part):
    """`alpha` is the length of a step whose gradient is as long as the first, in parameter space, so that steps do not
    depend on the loss's units. `head`: beginnings of the names of the parameters that move, all where there are none;
    the others are the body, which only the outer loop changes (ANIL, arXiv 1909.09157).
    """

    alpha: float = Field(0.1, gt=0)
    steps: int = Field(10, ge=1)
    batch: int = Field(16, ge=1)
    order: Order = Order.FIRST
    head: tuple[str, ...] = ()

    def moves(self, name: str) -> bool:
        return not self.head or name.startswith(self.head)


def inner_loop(loss: Loss[Batch], theta: Parameters, support: Sequence[Batch], settings: InnerSteps) -> Parameters:
    """theta' after one step on each batch of `support`."""
    differentiate = grad(loss)
    unit: Tensor | None = None
    for batch in support:
        gradient = {name: g for name, g in differentiate(theta, batch).items() if settings.moves(name)}
        unit = _length(gradient) if unit is None else unit
        theta = theta | {name: theta[name] - settings.alpha / unit * g for name, g in gradient.items()}
    return theta


def _length(gradient: Parameters) -> Tensor:
    """A constant, also where the steps are differentiated; never 0, so that it divides."""
    squares = torch.stack([g.detach().square().sum() for g in gradient.values()])
    return squares.sum().sqrt().clamp_min(1e-30)


def meta_gradient(
    loss: Loss[Batch], theta: Parameters, support: Sequence[Batch], query: Batch, settings: InnerSteps
) -> tuple[Parameters, float, Parameters]:
    """The gradient by theta of the loss on `query` after the inner loop on `support`; that loss; and theta'."""
    if settings.order is Order.FIRST:
        adapted = inner_loop(loss, theta, support, settings)
        gradient, value = grad_and_value(loss)(adapted, query)
        return gradient, float(value), adapted

    def after(start: Parameters) -> tuple[Tensor, Parameters]:
        adapted = inner_loop(loss, start, support, settings)
        return loss(adapted, query), adapted

    gradient, (value, adapted) = grad_and_value(after, has_aux=True)(theta)
    return gradient, float(value), {name: tensor.detach() for name, tensor in adapted.items()}
