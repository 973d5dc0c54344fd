"""Features pooled over the whole image, and how far an image's lie from those of good ones.

What is spread thin over an image, such as a hairline or a tone, moves its pooled statistics more than any one place.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

_SHRINKAGE = 0.1
"""Towards uncorrelated channels: there are more channels than many lines have good images."""

_STATISTICS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda flat: flat.mean(dim=2),
    lambda flat: flat.std(dim=2, correction=0),
    lambda flat: flat.amax(dim=2),
)


def pooled(features: Sequence[Tensor]) -> Tensor:
    """(B, 3 * sum C): mean, deviation and maximum of every channel of the (B, C, H, W) features."""
    flat = [feature.float().flatten(2) for feature in features]
    return torch.cat([torch.cat([statistic(f) for f in flat], dim=1) for statistic in _STATISTICS], dim=1)


class PooledDistance(nn.Module):
    """Squared Mahalanobis distances (B,) of pooled features (B, P), over P: about 1 for good images, more for others.

    The covariance is that of good images' standardised features, shrunk towards the identity.
    """

    centre: Tensor
    whitening: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(dimensions))
        self.register_buffer("whitening", torch.eye(dimensions))

    def measure(self, pooled_NP: Tensor) -> None:
        """Take centre and covariance from good images, N >= 2."""
        x = pooled_NP.double()
        deviation = x.std(dim=0).clamp_min(1e-6)
        covariance = torch.cov(((x - x.mean(dim=0)) / deviation).T)
        identity = torch.eye(len(covariance), dtype=torch.float64)
        factor = torch.linalg.cholesky((1 - _SHRINKAGE) * covariance + _SHRINKAGE * identity)
        self.centre.copy_(x.mean(dim=0))
        self.whitening.copy_(torch.linalg.solve_triangular(factor, identity, upper=False) / deviation)

    def recentre(self, pooled_NP: Tensor) -> None:
        """Move the centre to the images' median, which holds while fewer than half of them are defects."""
        self.centre.copy_(pooled_NP.float().median(dim=0)[0])

    def forward(self, pooled_BP: Tensor) -> Tensor:
        distance: Tensor = ((pooled_BP.float() - self.centre) @ self.whitening.T).square().mean(dim=1)
        return distance
