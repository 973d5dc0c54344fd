"""Projection of features on their principal components."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Whitening(nn.Module):
    """(..., C) -> (..., D): standardised channels on their first D principal components, each of unit variance."""

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(channels))
        self.projection = nn.Buffer(torch.eye(channels, dimensions))

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Take mean and principal components of patches (N, C), which come in parts to save memory."""
        # PCA of the correlation matrix R = S^-1 Sigma S^-1 = V L V^T, S the channels' deviations: the projection
        # S^-1 V_D L_D^-1/2 gives the D largest components unit variance
        mean_C, covariance_CC = _moments(parts, len(self.mean))
        deviation_C = covariance_CC.diagonal().clamp_min(1e-12).sqrt()
        values, vectors = torch.linalg.eigh(covariance_CC / deviation_C / deviation_C[:, None])
        kept = self.projection.shape[1]
        # eigh sorts ascending; directions in which patches do not vary must not be blown up
        scale_D = values.flip(0)[:kept].clamp_min(1e-6 * float(values[-1])).sqrt()
        self.mean.copy_(mean_C)
        self.projection.copy_(vectors.flip(1)[:, :kept] / scale_D / deviation_C[:, None])

    def realign(self, parts: Iterable[Tensor], weight: float) -> None:
        """Give patches (N, C) of a changed line the mean 0 and unit covariance again. Mean and covariance are mixed
        with those before; `weight` in [0, 1] is the new ones'.
        """
        mean_C, covariance_CC = _moments(parts, len(self.mean))
        projection_CD = self.projection.double()
        # P <- P C^-1/2, C = w P^T Sigma P + (1 - w) I: of all roots the symmetric one turns the axes, which the flows
        # know, the least (CORAL, arXiv 1511.05547)
        seen_DD = weight * projection_CD.T @ covariance_CC @ projection_CD
        seen_DD = seen_DD + (1 - weight) * torch.eye(len(seen_DD), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(seen_DD)
        # a direction in which the line no longer varies is stretched tenfold at most
        root_DD = vectors * values.clamp_min(0.01).rsqrt() @ vectors.T
        self.mean.copy_((1 - weight) * self.mean + weight * mean_C)
        self.projection.copy_(projection_CD @ root_DD)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.projection


def _moments(parts: Iterable[Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) of rows (N, C), in double precision: E[x x^T] - E[x] E[x]^T."""
    count, sum_C, product_CC = 0, torch.zeros(channels).double(), torch.zeros(channels, channels).double()
    for x_NC in parts:
        count, sum_C = count + len(x_NC), sum_C + x_NC.sum(dim=0).double()
        product_CC += (x_NC.T @ x_NC).double()
    mean_C = sum_C / count
    return mean_C, product_CC / count - mean_C[:, None] * mean_C
