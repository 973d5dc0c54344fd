"""What a reconstruction differs by from its image, element by element: the base losses of LAMP."""

from collections.abc import Callable
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""(image, reconstruction), both (B, C, H, W) with values in [-1, 1] -> (B, C, H, W), 0 where they are alike."""

_LARGEST_WINDOW = 11
_DEVIATION = 1.5
"""Of the Gaussian window, in pixels, as in Wang et al., IEEE TIP 2004."""


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
    """(1 - SSIM) / 2 of the neighbourhood of each pixel, in [0, 1] (Wang et al., IEEE TIP 2004, eq. 13)."""
    # SSIM is for intensities of at least 0: about 0 a negative would be taken for its positive
    y_BCHW, reconstruction_BCHW = y_BCHW + 1, reconstruction_BCHW + 1
    kernel = _window(min(_LARGEST_WINDOW, *y_BCHW.shape[2:]), y_BCHW)
    mean_y, mean_r = (_smoothed(x, kernel) for x in (y_BCHW, reconstruction_BCHW))
    variance_y = _smoothed(y_BCHW.square(), kernel) - mean_y.square()
    variance_r = _smoothed(reconstruction_BCHW.square(), kernel) - mean_r.square()
    covariance = _smoothed(y_BCHW * reconstruction_BCHW, kernel) - mean_y * mean_r
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # values span 2
    similarity = ((2 * mean_y * mean_r + c1) * (2 * covariance + c2)) / (
        (mean_y.square() + mean_r.square() + c1) * (variance_y + variance_r + c2)
    )
    return (1 - similarity) / 2


_LOSSES: dict[BaseLoss, Loss] = {BaseLoss.L1: absolute, BaseLoss.L2: squared, BaseLoss.SSIM: dissimilarity}


def _window(side: int, like: Tensor) -> Tensor:
    side -= 1 - side % 2
    offsets = torch.arange(side, device=like.device, dtype=like.dtype) - side // 2
    kernel = torch.exp(-0.5 * (offsets / _DEVIATION) ** 2)
    return kernel / kernel.sum()


def _smoothed(x_BCHW: Tensor, kernel: Tensor) -> Tensor:
    channels, reach = x_BCHW.shape[1], len(kernel) // 2
    padded = F.pad(x_BCHW, (reach,) * 4, mode="replicate")
    columns = F.conv2d(padded, kernel[None, None, :, None].expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(columns, kernel[None, None, None, :].expand(channels, 1, 1, -1), groups=channels)
