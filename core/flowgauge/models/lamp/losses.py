"""What a reconstruction differs by from its image, element by element: the losses of LAMP (Park et al.)."""

from collections.abc import Callable
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

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
        return _LOSSES[self]


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


_LOSSES: dict[BaseLoss, Loss] = {BaseLoss.L1: absolute, BaseLoss.L2: squared, BaseLoss.SSIM: dissimilarity}


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
