"""Loss amplification: a trick for any reconstruction loss (LAMP, Park et al., eq. 1 and 2)."""

import torch
from torch import Tensor

from flowgauge.models.lamp.losses import Loss


def amplified(loss: Loss, epsilon: float = 1e-3) -> Loss:
    """-log(1 - L'), where L' = L / max L * (1 - epsilon): the worse an element is reconstructed, the steeper its slope.

    The maximum goes over all elements of a batch, and is a scale: no gradient flows through it. `epsilon`, in (0, 1),
    keeps the logarithm finite at the worst element.
    """

    def wrapped(y_BCHW: Tensor, reconstruction_BCHW: Tensor) -> Tensor:
        base = loss(y_BCHW, reconstruction_BCHW)
        highest = base.detach().max().clamp_min(torch.finfo(base.dtype).tiny)
        return -torch.log1p(-(base / highest * (1 - epsilon)))

    return wrapped
