"""Which part each image shows, where nobody wrote it down: by the files' names, or by how alike images are."""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import torch.nn.functional as F
from torch import Tensor

from core.detectors.base import Progress
from core.errors import DatasetError, UserError
from core.evaluation.splits import Groups
from core.messages import Part
from core.twins import parts_of, twins


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


class Twins(Part):
    """Images so alike that they probably show one part: `names` of at least two. `likeness`: of the least alike pair by
    which they hang together, as a cosine (`core.twins`); `across`: some teach and some do not in the data set's own
    split.
    """

    names: tuple[str, ...]
    likeness: float
    across: bool


def near_twins(names: Sequence[str], surface_NCHW: Tensor, train: AbstractSet[str], progress: Progress) -> list[Twins]:
    """Twins by the backbone's features, each group once, the largest first. `train`: names of the images that teach in
    the data set's own split.
    """
    pairs = twins(F.normalize(surface_NCHW.float(), dim=1), progress)
    part = parts_of(pairs, len(names)).tolist()
    members: dict[int, list[str]] = {}
    for name, own in zip(names, part, strict=True):
        members.setdefault(own, []).append(name)
    # pairs come most alike first
    least = {part[pair.first]: pair.likeness for pair in pairs}
    found = [_group(members[own], likeness, train) for own, likeness in least.items()]
    return sorted(found, key=lambda group: (-len(group.names), group.names))


def _group(names: Sequence[str], likeness: float, train: AbstractSet[str]) -> Twins:
    across = 0 < len(train & set(names)) < len(names)
    return Twins(names=tuple(sorted(names)), likeness=likeness, across=across)


def groups_of_twins(names: Sequence[str], twins: Sequence[Twins]) -> Groups:
    """Each image is its own part, but twins are one, by the name of their first."""
    return {name: name for name in names} | {name: group.names[0] for group in twins for name in group.names}
