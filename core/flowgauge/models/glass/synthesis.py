"""Global anomalies: features of good patches, moved away by gradient ascent and kept at a distance (GLASS, s.3.4).

What lies just outside the good features is what a discriminator should refuse; ascent on its own loss finds where it
does not yet. The projection is truncated: no anomaly nearer than `r`, for it would be good, and none farther than 2 r,
for it would train nothing.
"""

from collections.abc import Callable
from enum import StrEnum

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from flowgauge.domain.messages import FrozenModel

Logits = Callable[[Tensor], Tensor]


class Hypothesis(StrEnum):
    """From where distances are measured: from each good feature itself, for those on a manifold; from their mean, for
    those inside a hypersphere.
    """

    MANIFOLD = "manifold"
    HYPERSPHERE = "hypersphere"


class Synthesis(FrozenModel):
    """`noise`: deviation of what is added first; `ascents` of length `step` follow, all in units of the root mean
    square of good features' deviation from their mean, over all dimensions. `radius` is r in the same units.
    """

    hypothesis: Hypothesis = Hypothesis.MANIFOLD
    noise: float = Field(1.5, gt=0)
    ascents: int = Field(5, ge=0)
    step: float = Field(0.05, gt=0)
    radius: float = Field(1.5, gt=0)


def synthesised(good_ND: Tensor, logits: Logits, settings: Synthesis, generator: torch.Generator) -> Tensor:
    """(N, D) anomalous features, one from each good one; `logits` (N,) are higher for what is taken for anomalous."""
    centre = good_ND.mean(dim=0)
    unit = (good_ND - centre).square().sum(dim=1).mean().sqrt()
    noise = torch.randn(good_ND.shape, generator=generator) / good_ND.shape[1] ** 0.5
    moved = ascended(good_ND + settings.noise * unit * noise, logits, settings.step * float(unit), settings.ascents)
    if settings.hypothesis is Hypothesis.MANIFOLD:
        return projected(moved, good_ND, settings.radius * unit)
    distances = (good_ND - centre).norm(dim=1)
    return projected(moved, centre.expand_as(moved), distances.quantile(0.75))


def ascended(x_ND: Tensor, logits: Logits, step: float, steps: int) -> Tensor:
    """Each row moved up the loss of calling it anomalous, by steps of equal length."""
    x_ND = x_ND.detach()
    for _ in range(steps):
        x_ND = x_ND.requires_grad_()
        (gradient,) = torch.autograd.grad(F.softplus(-logits(x_ND)).sum(), x_ND)
        x_ND = (x_ND + step * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)).detach()
    return x_ND


def projected(x_ND: Tensor, origin_ND: Tensor, radius: Tensor) -> Tensor:
    """On the line from its origin, each row is brought to a distance of at least `radius` and at most twice that."""
    away = x_ND - origin_ND
    distance = away.norm(dim=1, keepdim=True).clamp_min(1e-12)
    kept: Tensor = origin_ND + away / distance * distance.clamp(float(radius), 2 * float(radius))
    return kept
