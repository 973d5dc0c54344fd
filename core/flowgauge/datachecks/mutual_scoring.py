"""Mutual scoring: which of many images are suspect, before anything has been fitted to them.

Good surface repeats from image to image; a defect repeats less. So a place is the more suspect, the further it is from
the nearest places of those other images that come nearest to it (after MuSc, ICLR 2024, arXiv 2401.16753). Nothing is
trained, so nothing can have learned the defects. A defect that most images share looks like surface here too.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from flowgauge.domain.messages import FrozenModel
from flowgauge.models.detector import Progress
from flowgauge.training.thresholds import Scores


class MutualScoring(FrozenModel):
    """`near`: the share of other images, nearest first, whose mean distance is a place's score; `patches`: how many of
    an image stand for it; `top`: the share of its places whose mean is an image's score.
    """

    near: float = Field(0.1, gt=0, le=1)
    patches: int = Field(64, ge=1)
    top: float = Field(0.012, gt=0, le=1)


def mutual_scores(
    features_NCHW: Tensor, parts: Sequence[str], settings: MutualScoring, *, seed: int, progress: Progress
) -> Scores:
    """(N,) how suspect each of N images is, in [0, 2] as a cosine's distance; higher is more suspect.

    `features_NCHW` are a frozen backbone's; `parts` names what each image shows, two parts or more: images of one part
    are not compared with one another.
    """
    x_NTD = _patches(features_NCHW)
    bank_NPD = _representatives(x_NTD, settings.patches, seed)
    names, nearest = np.asarray(parts), max(1, round(settings.near * len(parts)))
    most = max(1, round(settings.top * x_NTD.shape[1]))
    scores = np.empty(len(parts))
    for row, (x_TD, part) in enumerate(zip(x_NTD, parts, strict=True)):
        others = bank_NPD[torch.from_numpy(names != part)]
        scores[row] = float(_suspicion(x_TD, others, nearest).topk(most)[0].mean())
        progress("comparing images", row + 1, len(parts))
    return scores


def _patches(features_NCHW: Tensor) -> Tensor:
    """(N, T, C) of length 1, so that light, which lengthens features, tells nothing; each with its neighbourhood."""
    padded = F.pad(features_NCHW.float(), (1, 1, 1, 1), mode="replicate")
    return F.normalize(F.avg_pool2d(padded, 3, stride=1).flatten(2).transpose(1, 2), dim=-1)


def _representatives(x_NTD: Tensor, count: int, seed: int) -> Tensor:
    """(N, P, D): places drawn at random from each image."""
    generator = torch.Generator().manual_seed(seed)
    count = min(count, x_NTD.shape[1])
    return torch.stack([x_TD[torch.randperm(len(x_TD), generator=generator)[:count]] for x_TD in x_NTD])


def _suspicion(x_TD: Tensor, others_NPD: Tensor, nearest: int) -> Tensor:
    """(T,): each place's mean distance to the nearest place of each of the `nearest` images."""
    similarity = (x_TD @ others_NPD.flatten(0, 1).T).view(len(x_TD), len(others_NPD), -1)
    by_image_TN = 1 - similarity.amax(dim=2)
    return by_image_TN.topk(min(nearest, len(others_NPD)), dim=1, largest=False)[0].mean(dim=1)
