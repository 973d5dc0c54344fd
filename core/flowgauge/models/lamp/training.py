"""An autoencoder trained to give back what it is shown."""

from enum import StrEnum

import torch
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Progress
from flowgauge.models.lamp.amplification import amplified
from flowgauge.models.lamp.losses import BaseLoss


class Optimiser(StrEnum):
    SGD = "sgd"
    RMSPROP = "rmsprop"
    ADAM = "adam"


class Reconstructing(FrozenModel):
    """`steps` of `batch` images each; the loss is the mean over all elements. SGD has a momentum of 0.9."""

    loss: BaseLoss = BaseLoss.L2
    amplified: bool = True
    optimiser: Optimiser = Optimiser.ADAM
    learning_rate: float = Field(1e-3, gt=0)
    steps: int = Field(400, ge=1)
    batch: int = Field(16, ge=2)


def fit_reconstruction(
    net: nn.Module, images_NCHW: Tensor, settings: Reconstructing, *, seed: int, progress: Progress
) -> None:
    """Fit `net` in place to give back the images, with values in [-1, 1]. Deterministic for a seed on one machine."""
    loss = amplified(settings.loss.function) if settings.amplified else settings.loss.function
    optimiser, generator = _optimiser(net, settings), torch.Generator().manual_seed(seed)
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


def _optimiser(net: nn.Module, settings: Reconstructing) -> torch.optim.Optimizer:
    parameters, rate = net.parameters(), settings.learning_rate
    match settings.optimiser:
        case Optimiser.SGD:
            return torch.optim.SGD(parameters, lr=rate, momentum=0.9)
        case Optimiser.RMSPROP:
            return torch.optim.RMSprop(parameters, lr=rate)
        case Optimiser.ADAM:
            return torch.optim.Adam(parameters, lr=rate)
