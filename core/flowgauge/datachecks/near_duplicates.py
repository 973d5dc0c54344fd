"""Near duplicates: images that show the same thing again, found by their features.

What all images of a line share is their mean; what is left of an image at each place is its own. Two exposures of one
part agree in that, however differently they are lit, and two parts do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from flowgauge.datachecks.outliers import FAMILY
from flowgauge.models.detector import Progress

LIKENESS = 0.5
"""The cosine from which two images share more than half of what is their own: on magnetic tiles, exposures of one tile
have 0.75 in the middle and 0.50 at the lowest tenth, images of different tiles 0.32 at the highest of 1,000."""

CLOSER = 0.6
"""Twins are at most so far apart, as a multiple of how far the crowd is: images that all differ from the rest in one
way (turned alike, say) are a crowd, and no near duplicates."""

_CELLS = 8
_FEWEST_OF_CLUSTER = 12
_ROWS = 256
_SAMPLE = 200_000


@dataclass(frozen=True)
class Pair:
    """Two images by their rows, `first` < `second`; `likeness` is the cosine of what is their own, at most 1."""

    first: int
    second: int
    likeness: float


def near_duplicates(features_NCHW: Tensor, progress: Progress, likeness: float = LIKENESS) -> list[Pair]:
    """All pairs at least so alike, more alike than chance makes any pair of N images, and far closer to each other than
    either is to the crowd around it; most alike first.

    `features_NCHW` are a frozen backbone's, of the whole image, of length 1 at each place. Takes time with N^2 and
    memory with N. Of fewer than three images nobody can say what they share: there are no near duplicates.
    """
    count = len(features_NCHW)
    if count < 3:
        return []
    own_ND = _own(features_NCHW)
    floor = max(likeness, _chance(own_ND))
    cluster_N = torch.empty(count)
    found: list[Pair] = []
    for start in range(0, count, _ROWS):
        cosines = own_ND[start : start + _ROWS] @ own_ND.T
        cluster_N[start : start + _ROWS] = cosines.topk(_cluster(count), dim=1)[0][:, -1]
        rows, columns = torch.nonzero(cosines.triu(diagonal=start + 1) >= floor, as_tuple=True)
        found += [
            Pair(start + row, column, min(1.0, float(cosines[row, column])))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        progress("looking for near duplicates", min(start + _ROWS, count), count)
    apart = (
        pair for pair in found if 1 - pair.likeness <= CLOSER * (1 - float(cluster_N[[pair.first, pair.second]].max()))
    )
    return sorted(apart, key=lambda pair: -pair.likeness)


def _cluster(images: int) -> int:
    """Which neighbour, the image itself counted, stands for the crowd: no part is photographed so often."""
    return min(images, max(_FEWEST_OF_CLUSTER, images // 20) + 1)


def _own(features_NCHW: Tensor) -> Tensor:
    """(N, D) of length 1: what tells each image apart from their mean, place by place, on a coarse grid.

    What is so all over an image (its light, its blur) is left out: it is the camera's and not the part's.
    """
    pooled = torch.cat([F.adaptive_avg_pool2d(part.float(), _CELLS) for part in _chunks(features_NCHW)])
    own_NCHW = F.normalize(pooled, dim=1)
    own_NCHW = own_NCHW - own_NCHW.mean(0)
    return F.normalize((own_NCHW - own_NCHW.mean((2, 3), keepdim=True)).flatten(1), dim=1)


def _chance(own_ND: Tensor) -> float:
    """The cosine that no pair of unrelated images reaches, but with the family's chance.

    Related pairs are few among all pairs, so the quartiles of a sample of them tell what unrelated ones have.
    """
    rng = np.random.default_rng(0)
    count = len(own_ND)
    first = rng.integers(count, size=min(_SAMPLE, 8 * count))
    second = (first + rng.integers(1, count, size=len(first))) % count
    cosines = torch.cat([(own_ND[a] * own_ND[b]).sum(1) for a, b in zip(_split(first), _split(second), strict=True)])
    angles = np.arctanh(cosines.double().numpy().clip(-0.999, 0.999))
    q1, median, q3 = np.quantile(angles, (0.25, 0.5, 0.75))
    far = stats.norm.isf(FAMILY / (count * (count - 1) / 2))
    return float(np.tanh(median + far * (q3 - q1) / 1.349))


def _chunks(tensor: Tensor) -> list[Tensor]:
    return [tensor[start : start + _ROWS] for start in range(0, len(tensor), _ROWS)]


def _split(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    return [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]


def parts_of(pairs: Sequence[Pair], images: int) -> NDArray[np.intp]:
    """(N,) the number of the part that each image shows: near duplicates, and near duplicates of near duplicates, show
    one."""
    first, second = ([getattr(pair, side) for pair in pairs] for side in ("first", "second"))
    links = coo_array((np.ones(len(pairs)), (first, second)), shape=(images, images))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.intp)
