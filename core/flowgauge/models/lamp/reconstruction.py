"""An autoencoder trained to give back what it is shown, by the losses of LAMP (Park et al.)."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Progress

Loss = Callable[[Tensor, Tensor], Tensor]
"""(image, reconstruction), both (B, C, H, W) with values in [-1, 1] -> (B, C, H, W), 0 where they are alike."""

# side and deviation of SSIM's Gaussian window, in pixels, as in Wang et al., IEEE TIP 2004
_LARGEST_WINDOW = 11
_DEVIATION = 1.5
# keeps the logarithm finite at the worst element: smaller, and that element alone trains; larger, and nothing is
# amplified
_EPSILON = 1e-3


class BaseLoss(StrEnum):
    L1 = "l1"
    L2 = "l2"
    SSIM = "ssim"

    @property
    def function(self) -> Loss:
        return {BaseLoss.L1: absolute, BaseLoss.L2: squared, BaseLoss.SSIM: dissimilarity}[self]


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


class Autoencoder(nn.Module):
    """(B, C, H, W) -> the same, through `layers` convolutions down and as many up; every second one halves the sides,
    which must be divisible by 2^(layers / 2). Without skip connections: what it has not seen should not get through.

    Down: convolution, batch normalisation, leaky ReLU; up: upsampling, convolution, batch normalisation, leaky ReLU
    (LAMP s.3.1); a last convolution gives the values back their range. `width` channels at first, twice as many after
    each halving.
    """

    def __init__(self, channels: int, *, layers: int, width: int, kernel: int) -> None:
        super().__init__()
        widths = [width * 2 ** (layer // 2) for layer in range(layers)]
        down: list[nn.Module] = []
        for layer, (inputs, outputs) in enumerate(zip([channels, *widths[:-1]], widths, strict=True)):
            convolution = nn.Conv2d(inputs, outputs, kernel, stride=1 + layer % 2, padding=kernel // 2, bias=False)
            down.append(nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)))
        up: list[nn.Module] = []
        for layer, (inputs, outputs) in enumerate(zip(widths[::-1], [*widths[-2::-1], width], strict=True)):
            enlarge = [nn.Upsample(scale_factor=2)] if (layers - 1 - layer) % 2 else []
            convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
            up.append(nn.Sequential(*enlarge, convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)))
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        self.leave = nn.Conv2d(width, channels, 1)
        # twice as fast on a CPU
        self.to(memory_format=torch.channels_last)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        reconstruction: Tensor = self.leave(self.decoder(self.encoder(x_BCHW)))
        return reconstruction


def absolute(y_BCHW: Tensor, reconstruction_BCHW: Tensor) -> Tensor:
    return (y_BCHW - reconstruction_BCHW).abs()


def squared(y_BCHW: Tensor, reconstruction_BCHW: Tensor) -> Tensor:
    return (y_BCHW - reconstruction_BCHW).square()


def dissimilarity(y_BCHW: Tensor, reconstruction_BCHW: Tensor) -> Tensor:
    """(1 - SSIM) / 2 of the neighbourhood of each pixel, in [0, 1]."""
    # SSIM = (2 m m' + c1) (2 cov + c2) / ((m^2 + m'^2 + c1) (v + v' + c2)), with Gaussian means m, variances v and
    # covariance of each neighbourhood (Wang et al., IEEE TIP 2004, eq. 13)
    side = min(_LARGEST_WINDOW, *y_BCHW.shape[2:])
    side -= 1 - side % 2
    offsets = torch.arange(side, device=y_BCHW.device, dtype=y_BCHW.dtype) - side // 2
    kernel = torch.exp(-0.5 * (offsets / _DEVIATION) ** 2)
    kernel = kernel / kernel.sum()
    # SSIM is for intensities of at least 0: about 0 a negative would be taken for its positive
    y_BCHW, reconstruction_BCHW = y_BCHW + 1, reconstruction_BCHW + 1
    mean_y, mean_r = (_smoothed(x, kernel) for x in (y_BCHW, reconstruction_BCHW))
    variance_y = _smoothed(y_BCHW.square(), kernel) - mean_y.square()
    variance_r = _smoothed(reconstruction_BCHW.square(), kernel) - mean_r.square()
    covariance = _smoothed(y_BCHW * reconstruction_BCHW, kernel) - mean_y * mean_r
    # the paper's (0.01 L)^2 and (0.03 L)^2: values span L = 2
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    similarity = ((2 * mean_y * mean_r + c1) * (2 * covariance + c2)) / (
        (mean_y.square() + mean_r.square() + c1) * (variance_y + variance_r + c2)
    )
    return (1 - similarity) / 2


def _smoothed(x_BCHW: Tensor, kernel: Tensor) -> Tensor:
    channels, reach = x_BCHW.shape[1], len(kernel) // 2
    padded = F.pad(x_BCHW, (reach,) * 4, mode="replicate")
    columns = F.conv2d(padded, kernel[None, None, :, None].expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(columns, kernel[None, None, None, :].expand(channels, 1, 1, -1), groups=channels)


def amplified(loss: Loss) -> Loss:
    """The loss, amplified (LAMP eq. 1 and 2): the worse an element is reconstructed, the steeper its slope."""

    def wrapped(y_BCHW: Tensor, reconstruction_BCHW: Tensor) -> Tensor:
        base = loss(y_BCHW, reconstruction_BCHW)
        # -log(1 - L'), L' = (1 - epsilon) L / max L over the batch; the maximum is a scale, and no gradient flows
        # through it
        highest = base.detach().max().clamp_min(torch.finfo(base.dtype).tiny)
        return -torch.log1p(-(base / highest * (1 - _EPSILON)))

    return wrapped


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
