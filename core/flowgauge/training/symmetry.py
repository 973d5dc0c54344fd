"""Views under which the good images of a line look alike, found from these images themselves.

A texture without direction may be mirrored: its mirror images are further examples of it. A screw may not, for its
thread turns to one side, and neither may parts whose light falls from one side. Likelihoods of held-out images do not
tell the two apart; how far mirror images lie from plain images of other parts does (decision 30).
"""

from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.domain.even_spacing import evenly_spaced
from flowgauge.domain.folds import fold_of
from flowgauge.models.whitening import Whitening
from flowgauge.vision.augmentation import PLAIN, View

# Images of either half that are compared. Of 33, screws have an AUROC of 0.84 in place of 0.90; more cost time alone.
_COMPARED = 48
# Patches of a half that the other half's are compared with. With a few hundred, the nearest is no near one.
_PATCHES = 6000
# Principal components of a patch. Without whitening, screws have 0.85 and magnetic tiles up to 0.69.
_DIMENSIONS = 96
# The highest AUROC of distances at which a view counts as alike. Magnetic tiles have 0.53 to 0.62, screws 0.87 and more
# in their likest view; above, views that are only much alike train and the flows lose what tells the line from them.
_ALIKE = 0.65

PatchFeatures = Callable[[View, NDArray[np.intp]], Tensor]
"""A view, and numbers (n,) of images -> features (n, C, h, w) of the patches of that view of each."""


def symmetries(candidates: Sequence[View], features: PatchFeatures, parts: Sequence[str]) -> tuple[View, ...]:
    """Those of `candidates` under which good images lie hardly further from the images of other parts.

    `parts` names the part that each image shows, in the order of capture. The parts are halved; an image's distance is
    that of its patches to their nearest ones in the other half, on average. A candidate is a symmetry where a moved
    image is further than a plain one with a probability (AUROC, in [0, 1]) of at most 0.65, mean of both halves.
    """
    fold_N = fold_of(parts, 2)
    halves = [np.flatnonzero(fold_N == half) for half in range(2)]
    if not all(map(len, halves)):
        return ()
    halves = [half[evenly_spaced(len(half), _COMPARED)] for half in halves]
    banks = [_distances_to(features(PLAIN, half)) for half in halves]

    def distances(view: View) -> list[Tensor]:
        return [bank(features(view, other)) for bank, other in zip(banks, halves[::-1], strict=True)]

    plain = distances(PLAIN)

    def auroc(view: View) -> float:
        return fmean(float((m[:, None] > p).float().mean()) for m, p in zip(distances(view), plain, strict=True))

    return tuple(view for view in candidates if auroc(view) <= _ALIKE)


def _distances_to(bank_NCHW: Tensor) -> Callable[[Tensor], Tensor]:
    """Features (N, C, h, w) of images -> (N,) the mean over an image's patches of the distance to the nearest patch of
    the bank, both whitened as the bank's are.
    """
    rows_MC = _rows(bank_NCHW).flatten(0, 1)
    whiten = Whitening(rows_MC.shape[1], min(_DIMENSIONS, rows_MC.shape[1]))
    whiten.measure([rows_MC])
    chosen = torch.randperm(len(rows_MC), generator=torch.Generator().manual_seed(0))[:_PATCHES]
    patches_MD = whiten(rows_MC[chosen])

    def distances(features_NCHW: Tensor) -> Tensor:
        return torch.stack([torch.cdist(x_TD, patches_MD).amin(1).mean() for x_TD in whiten(_rows(features_NCHW))])

    return distances


def _rows(features_NCHW: Tensor) -> Tensor:
    return features_NCHW.float().flatten(2).transpose(1, 2)
