"""What a candidate may do on trial, as a test that may be looked at after every image.

Each bound says of a share that it is at most p0, for example that the candidate rejects at most p0 of the images. For
every p above p0, the likelihood ratio of p against p0 after k of n images,

    L(p) = (p / p0)^k ((1 - p) / (1 - p0))^(n - k),

is a supermartingale where each image counts with a probability of at most p0, given those before it. Images that come
in waves (a tool breaks, and 20 rejects follow) do not keep to that, though their share may be smaller. The mean of L
over p uniform on (p0, 1), the evidence e, is a supermartingale too. By Ville's inequality e reaches 1 / a at any time
with a probability of at most a (Robbins, Statistical methods related to the law of the iterated logarithm, 1970): a
candidate that keeps the bound is stopped with this probability at most, however long its trial lasts. The bounds of one
trial share `ERROR` equally.
"""

from dataclasses import dataclass
from math import log, log1p

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

ERROR = 0.05
"""The probability that a trial stops a candidate that keeps all bounds. Smaller, and a bad one decides more images
before it is stopped; larger, and more good ones are stopped."""


@dataclass(frozen=True)
class Bound:
    """That a share is at most `most`, in (0, 1), of which `count` of `images` were seen. `name` and `message` are for
    people.
    """

    name: str
    count: int
    images: int
    most: float
    message: str


def log_evidence(count: ArrayLike, images: ArrayLike, most: float) -> NDArray[np.float64]:
    """log e after `count` of `images`, any shapes that broadcast: 0 before the first image; the higher, the less the
    share is at most `most`, in (0, 1).
    """
    k, n = np.asarray(count, np.float64), np.asarray(images, np.float64)
    rest = n - k
    with np.errstate(divide="ignore"):  # far below the bound nothing above it is likely: log 0, no evidence at all
        above = np.log(special.betaincc(k + 1, rest + 1, most))
    mean = above + special.betaln(k + 1, rest + 1) - log1p(-most)
    return np.asarray(mean - k * log(most) - rest * log1p(-most))


def broken(bounds: list[Bound]) -> list[Bound]:
    """Those that do not hold, at the error that the bounds of one trial share."""
    enough = log(len(bounds) / ERROR)
    return [bound for bound in bounds if log_evidence(bound.count, bound.images, bound.most) >= enough]
