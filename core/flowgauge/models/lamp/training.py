"""An autoencoder trained to give back what it is shown."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Progress
from flowgauge.models.lamp.losses import BaseLoss, amplified


class Optimiser(StrEnum):
    SGD = "sgd"
    RMSPROP = "rmsprop"
    ADAM = "adam"


class Reconstructing(FrozenModel):
    loss: BaseLoss = Field(BaseLoss.L2, description="base loss; its mean over all elements is minimised")
    amplified: bool = Field(True, description="LAMP's loss amplification")
    optimiser: Optimiser = Optimiser.ADAM
    learning_rate: float = Field(1e-3, gt=0)
    steps: int = Field(400, ge=1, description="of the optimiser")
    batch: int = Field(16, ge=2, description="images of a step")


def fit_reconstruction(
    net: nn.Module, images_NCHW: Tensor, settings: Reconstructing, *, seed: int, progress: Progress
) -> None:
    """Fit `net` in place to give back the images, with values in [-1, 1]. Deterministic for a seed on one machine."""
    loss = amplified(settings.loss.function) if settings.amplified else settings.loss.function
    makers: dict[Optimiser, Callable[..., torch.optim.Optimizer]] = {
        Optimiser.SGD: partial(torch.optim.SGD, momentum=0.9),
        Optimiser.RMSPROP: torch.optim.RMSprop,
        Optimiser.ADAM: torch.optim.Adam,
    }
    optimiser = makers[settings.optimiser](net.parameters(), lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    net.train()
    for step in range(settings.steps):
        rows = torch.randint(len(images_NCHW), (settings.batch,), generator=generator)
        batch = images_NCHW[rows].float()
        optimiser.zero_grad(set_to_none=True)
        loss(batch, net(batch)).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        progress("training the autoencoder", step + 1, settings.steps)
    net.zero_grad(set_to_none=True)
    net.eval()
