"""One turn of the outer loop: how parameters must change so that a few steps from them lead further.

theta' = theta - alpha * grad L(theta, support), some times over, and the gradient of L(theta', query) by theta: MAML
(arXiv 1703.03400), RAD (arXiv 2508.17789 eq. 6 and 7). To first order the inner steps count as constants, so that it is
the gradient by theta' (FOMAML, arXiv 1803.02999); to second order the gradient goes through them.
"""

from enum import StrEnum
from typing import TypeVar

from torch import Tensor
from torch.func import grad_and_value

from flowgauge.adaptation.inner_loop import Draw, InnerLoop, Loss, Parameters, inner_loop

Batch = TypeVar("Batch")


class Order(StrEnum):
    FIRST = "first"
    SECOND = "second"


def meta_gradient(
    loss: Loss[Batch], init: Parameters, draw: Draw[Batch], settings: InnerLoop, order: Order, *, what: str
) -> tuple[Parameters, float, Parameters]:
    """The gradient by theta of the loss on the query after the inner loop on the support; that loss; and theta'.

    `draw` trains with the support and watches the query, whose losses set lambda and nothing else in the loop.
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
