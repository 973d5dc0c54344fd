"""A sample of what lies in order."""

import numpy as np
from numpy.typing import NDArray


def evenly_spaced(count: int, most: int) -> NDArray[np.intp]:
    """At most `most` of the numbers 0 to `count` - 1, at regular steps from the first to the last; all, if no more."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.intp)
