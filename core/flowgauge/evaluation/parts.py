"""Which part each image shows, where nobody wrote it down: by the files' names, or by how alike images are."""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from flowgauge.domain.errors import DatasetError, UserError
from flowgauge.domain.messages import FrozenModel
from flowgauge.evaluation.metrics import Floats
from flowgauge.evaluation.splits import Groups

_NEAR_DUPLICATES = (
    0.5  # of the median distance: photographs of one tile have 0.1 to 0.3 of it, other tiles' nearest 0.6 to 0.8
)
_KINDS = 0.1  # of all images: what is larger is a kind of parts, or a lot, and is searched by itself


def groups_by_name(names: Sequence[str], pattern: str) -> Groups:
    """The part is what `pattern`, a regular expression, finds in the path: its groups, or all of it where it has none.

    Raises `UserError` for a pattern that is none, `DatasetError` for a name in which it finds nothing.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}.", "Mend the pattern of --group.") from error
    found = {name: expression.search(name) for name in names}
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise DatasetError(
            f"{pattern!r} finds nothing in {len(missing)} names, {missing[0]} among them.",
            "Mend the pattern of --group, or give --groups.",
        )
    return {name: "|".join(match.groups("") or (match[0],)) for name, match in found.items() if match is not None}


class NearDuplicates(FrozenModel):
    """Images so alike that they probably show one part: `names` of at least two. `distance`: the largest among them, as
    a share of the median of any two images; `across`: some train and some do not in the data set's own split.
    """

    names: tuple[str, ...]
    distance: float
    across: bool


def near_duplicates_of(names: Sequence[str], features_NCHW: Floats, train: AbstractSet[str]) -> list[NearDuplicates]:
    """Near duplicates by the backbone's features, each group once, the largest first. `train`: names of the images that
    train in the data set's own split.

    Each image is its features on a grid of 8 x 8 places at most, of length one at each place, less the mean image:
    light changes their length more than their direction. Images are joined by average linkage of the cosine distance
    while groups stay closer than half the median. Takes 8 bytes for each pair of images.
    """
    descriptors_ND = _descriptors(features_NCHW)
    median = float(np.median(_distances(descriptors_ND))) if len(names) > 1 else 0.0
    found = []
    for members in _groups(descriptors_ND, np.arange(len(names))):
        alike = tuple(sorted(names[number] for number in members))
        farthest = float(_distances(descriptors_ND[members]).max())
        across = 0 < len(train & set(alike)) < len(alike)
        found.append(NearDuplicates(names=alike, distance=farthest / (median or 1.0), across=across))
    return sorted(found, key=lambda near_duplicates: (-len(near_duplicates.names), near_duplicates.names))


def duplicate_groups(names: Sequence[str], near_duplicates: Sequence[NearDuplicates]) -> Groups:
    """Each image is its own part, but near duplicates are one, by the name of their first."""
    return {name: name for name in names} | {name: group.names[0] for group in near_duplicates for name in group.names}


def _descriptors(features_NCHW: Floats) -> Floats:
    pooled = _pooled(features_NCHW)
    directions = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-9)
    flat = directions.reshape(len(directions), -1)
    centred = flat - flat.mean(axis=0)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9))


def _pooled(features_NCHW: Floats, grid: int = 8) -> Floats:
    """Means over equal cells; a surface of no more places than the grid, or of odd ones, stays as it is."""
    n, c, h, w = features_NCHW.shape
    if h % grid or w % grid:
        return features_NCHW
    return np.asarray(features_NCHW.reshape(n, c, grid, h // grid, grid, w // grid).mean(axis=(3, 5)))


def _groups(descriptors_ND: Floats, members: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Members that belong together, two at least."""
    distances = _distances(descriptors_ND[members])
    if len(members) < 3 or not (median := float(np.median(distances))):
        return [members] if len(members) > 1 else []
    labels = fcluster(linkage(distances, "average"), _NEAR_DUPLICATES * median, "distance")
    groups = [members[labels == label] for label in np.unique(labels)]
    found: list[NDArray[np.intp]] = []
    for group in groups:
        if len(group) > max(_KINDS * len(descriptors_ND), 12):
            found += _groups(descriptors_ND - descriptors_ND[group].mean(axis=0), group)
        elif len(group) > 1:
            found.append(group)
    return found


def _distances(descriptors_ND: Floats) -> Floats:
    """Condensed cosine distances, at least 0."""
    lengths = np.maximum(np.linalg.norm(descriptors_ND, axis=1, keepdims=True), 1e-9)
    unit = descriptors_ND / lengths
    square = np.maximum(1 - unit @ unit.T, 0)
    np.fill_diagonal(square, 0)
    return np.asarray(squareform(square, checks=False))
