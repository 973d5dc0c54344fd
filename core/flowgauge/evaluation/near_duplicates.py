"""Near duplicates: images that show the same part again, found by their features.

What all images of a line share is their mean; the rest of an image, place by place, is its own. Two exposures of one
part agree in that, however they are lit, and two parts do not. Measured on 1,344 magnetic tiles of known parts: of the
pairs that are put together 89 % show one part, and 91 % of such pairs are found.

N images, C channels, H x W places, D numbers that describe an image.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import Progress, silent
from flowgauge.evaluation.metrics import Floats
from flowgauge.evaluation.splits import Groups

LIKENESS = 0.5
"""The cosine from which two images share more than half of what is their own. On magnetic tiles, exposures of one tile
have 0.75 in the median and 0.50 at the lowest tenth, images of different tiles 0.32 at the highest of 1,000: lower
joins different tiles, higher misses exposures in another light."""

CLOSER = 0.6
"""The largest distance of a pair, as a multiple of the distance to the k-th neighbour. Near 1, images that all differ
from the rest in one way (turned alike, say) would be near duplicates; much lower, copies in another light are missed.
"""

# k of the k-th neighbour: 12, or one in 20 images. With a smaller k, a part that was photographed more often than k
# times is its own neighbourhood, and its images are no duplicates; with a larger one, dense clusters pass for them.
_NEIGHBOUR, _NEIGHBOUR_SHARE = 12, 20

# The chance that any pair of unrelated images is taken for near duplicates. Larger names pairs by chance; smaller
# raises the limit above what copies in another light reach.
_FAMILY_WISE_ERROR = 0.01

# Places to a side at which images are compared. More, and a part that is shifted by some pixels is another one; fewer
# do not tell parts of one texture apart.
_GRID = 8

# Images compared with all others at a time: memory is _ROWS * N floats.
_ROWS = 256

# Pairs that tell how alike unrelated images are: quartiles are sure to 1 % of their distance; all pairs would be N^2.
_SAMPLE = 200_000


@dataclass(frozen=True)
class Pair:
    """Two images by their rows, `first` < `second`; `likeness` is the cosine of what is their own, at most 1."""

    first: int
    second: int
    likeness: float


class NearDuplicates(FrozenModel):
    """Images so alike that they probably show one part: `names` of at least two. `distance`: the largest of the pairs
    that were found among them, as a share of the median of any two images; `across`: some train and some do not in the
    data set's own split.
    """

    names: tuple[str, ...]
    distance: float
    across: bool


def near_duplicates(features_NCHW: Tensor, progress: Progress = silent) -> list[Pair]:
    """All pairs with a cosine of `LIKENESS` at least, more alike than chance makes any pair of N unrelated images, and
    far closer to each other than either is to its k-th neighbour; most alike first.

    `features_NCHW` are a frozen backbone's, of the whole image. Takes time with N^2 and memory with N. What fewer than
    three images share cannot be told from what is their own: there are no near duplicates.
    """
    count = len(features_NCHW)
    if count < 3:
        return []
    own_ND = _own(features_NCHW)
    angles = np.arctanh(_sampled_cosines(own_ND).clip(-0.999, 0.999))
    q1, median, q3 = np.quantile(angles, (0.25, 0.5, 0.75))
    # related pairs are few among all pairs, so the quartiles are those of unrelated ones; Fisher's z is nearly normal
    far = stats.norm.isf(_FAMILY_WISE_ERROR / (count * (count - 1) / 2))
    floor = max(LIKENESS, float(np.tanh(median + far * (q3 - q1) / 1.349)))
    k = min(count, max(_NEIGHBOUR, count // _NEIGHBOUR_SHARE) + 1)  # the image itself is its first neighbour
    neighbour_N = torch.empty(count)
    found: list[Pair] = []
    for start in range(0, count, _ROWS):
        cosines = own_ND[start : start + _ROWS] @ own_ND.T
        neighbour_N[start : start + _ROWS] = cosines.topk(k, dim=1)[0][:, -1]
        rows, columns = torch.nonzero(cosines.triu(diagonal=start + 1) >= floor, as_tuple=True)
        found += [
            Pair(start + row, column, min(1.0, float(cosines[row, column])))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        progress("looking for near duplicates", min(start + _ROWS, count), count)
    nearest = [float(neighbour_N[[pair.first, pair.second]].max()) for pair in found]
    close = [p for p, cosine in zip(found, nearest, strict=True) if 1 - p.likeness <= CLOSER * (1 - cosine)]
    return sorted(close, key=lambda pair: -pair.likeness)


def parts_of(pairs: Sequence[Pair], images: int) -> NDArray[np.intp]:
    """(N,) the number of the part that each image shows: near duplicates, and near duplicates of near duplicates, show
    one."""
    first, second = ([getattr(pair, side) for pair in pairs] for side in ("first", "second"))
    links = coo_array((np.ones(len(pairs)), (first, second)), shape=(images, images))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.intp)


def near_duplicates_of(names: Sequence[str], features_NCHW: Floats, train: AbstractSet[str]) -> list[NearDuplicates]:
    """Near duplicates as groups, each once, the largest first. `train`: names of the images that train in the data
    set's own split."""
    features = torch.as_tensor(features_NCHW)
    pairs = near_duplicates(features)
    if not pairs:
        return []
    median = 1 - float(np.median(_sampled_cosines(_own(features))))
    parts, found = parts_of(pairs, len(names)), []
    for part in np.unique(parts[[pair.first for pair in pairs]]):
        alike = tuple(sorted(name for name, own in zip(names, parts, strict=True) if own == part))
        farthest = 1 - min(pair.likeness for pair in pairs if parts[pair.first] == part)
        across = 0 < len(train & set(alike)) < len(alike)
        found.append(NearDuplicates(names=alike, distance=farthest / median, across=across))
    return sorted(found, key=lambda group: (-len(group.names), group.names))


def duplicate_groups(names: Sequence[str], near_duplicates: Sequence[NearDuplicates]) -> Groups:
    """Each image is its own part, but near duplicates are one, by the name of their first."""
    return {name: name for name in names} | {name: group.names[0] for group in near_duplicates for name in group.names}


def _own(features_NCHW: Tensor) -> Tensor:
    """(N, D) of length 1: how each image differs from their mean, place by place, on a coarse grid."""
    pooled = torch.cat([F.adaptive_avg_pool2d(rows.float(), _GRID) for rows in torch.split(features_NCHW, _ROWS)])
    own_NCHW = F.normalize(pooled, dim=1)
    own_NCHW = own_NCHW - own_NCHW.mean(0)
    # what is the same all over an image (its light, its blur) is the camera's and not the part's
    return F.normalize((own_NCHW - own_NCHW.mean((2, 3), keepdim=True)).flatten(1), dim=1)


def _sampled_cosines(own_ND: Tensor) -> NDArray[np.float64]:
    """Of random pairs of two images."""
    rng, count = np.random.default_rng(0), len(own_ND)
    first = rng.integers(count, size=min(_SAMPLE, 8 * count))
    second = (first + rng.integers(1, count, size=len(first))) % count
    blocks = [slice(start, start + _ROWS) for start in range(0, len(first), _ROWS)]
    cosines = torch.cat([(own_ND[first[block]] * own_ND[second[block]]).sum(1) for block in blocks])
    return np.asarray(cosines.double().numpy())
