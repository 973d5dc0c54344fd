"""What may not train: images, and patches of those that may, whose scores stand out."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from flowgauge.domain.messages import FrozenModel
from flowgauge.training.thresholds import QuartileRule, Rule, cut

_MOST_PATCHES = 200_000
"""Quantiles of so many patches are as good as those of all."""


class Rejection(FrozenModel):
    """The rules at both grains. `image_k` None: the k that the anchor's clean scores had under the one-sided rule.

    Patches take T = Q3 + k IQR with a large k by default: few patches of an image are defects, and most that stand out
    a little are none.
    """

    image_rule: QuartileRule = Rule.ONE_SIDED
    image_k: float | None = Field(None, gt=0)
    patch_rule: QuartileRule = Rule.IQR
    patch_k: float = Field(3.0, gt=0)
    images: bool = True
    patches: bool = True


@dataclass(frozen=True)
class Suspicion:
    """`kept` (N,) bool: images that may train; `patches` (N, T) bool: places that may (none of a suspect image's)."""

    kept: NDArray[np.bool_]
    patches: Tensor
    threshold: float

    @property
    def patch_share_rejected(self) -> float:
        kept = self.patches[torch.from_numpy(self.kept)]
        return float(1 - kept.float().mean()) if len(kept) else 0.0


def suspect(scores: NDArray[np.float64], nll_NT: Tensor, rule: Rejection, default_k: float) -> Suspicion:
    """Sort out by scores (N,) and the places' negative log-likelihoods (N, T) under flows that did not fit them."""
    k = rule.image_k if rule.image_k is not None else default_k
    threshold = cut(scores, rule.image_rule, k)
    kept = scores <= threshold if rule.images else np.ones(len(scores), dtype=bool)
    limit = patch_limit(nll_NT, rule) if rule.patches else float("inf")
    patches = (nll_NT <= limit) & torch.from_numpy(kept)[:, None]
    return Suspicion(kept, patches, threshold)


def patch_limit(nll_NT: Tensor, rule: Rejection) -> float:
    values = nll_NT.flatten()
    stride = max(1, len(values) // _MOST_PATCHES)
    return cut(values[::stride].double().numpy(), rule.patch_rule, rule.patch_k)
