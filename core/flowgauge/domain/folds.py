"""Folds of cross-fitting: groups of images stay whole."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Stretches of time that each fold is made of. With one, every fold is another time of day, and scores of images that a
# fold leaves out show the light's change as well as new parts: on magnetic tiles, sorted by exposure, they lay at
# a median of 11 and 4 in the two folds where new tiles had 3. With many, neighbours in time that show one part without
# anybody having said so fall into different folds, and thresholds come out too low.
_BLOCKS_A_FOLD = 5


def fold_of(groups: Sequence[str], folds: int) -> NDArray[np.intp]:
    """The fold (n,) of each image: groups stay whole, and each fold has blocks of groups that follow one another in the
    order given, taken in turn from all of it.
    """
    names = {name: rank for rank, name in enumerate(dict.fromkeys(groups))}
    ranks = np.array([names[group] for group in groups])
    blocks = max(folds, min(folds * _BLOCKS_A_FOLD, len(names) // folds * folds))
    return np.asarray(ranks * blocks // len(names) % folds, dtype=np.intp)
