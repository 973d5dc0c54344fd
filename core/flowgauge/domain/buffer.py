"""Which of a line's recent images stay in its buffer."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from flowgauge.domain.lines import LineSettings
from flowgauge.domain.ports import Buffered

# Fingerprints that are compared with all others at once: with more, a buffer of thousands takes tens of megabytes for
# a moment; with fewer, NumPy's calls outweigh the comparisons.
_BLOCK = 256


def to_evict(buffered: Sequence[Buffered], settings: LineSettings, now: datetime) -> list[str]:
    """The URIs of those that must go so that the rest keeps to `settings`; `buffered` is in order of capture.

    Captures older than the maximum age before the newest go; one of the future neither stays nor is the newest. Of
    views that look alike, no newcomer has more than `near_duplicates` at its side: the oldest of them go.
    """
    if not buffered:
        return []
    possible = [e for e in buffered if (e.captured_at - now).total_seconds() <= settings.clock_tolerance_seconds]
    newest = min(now, possible[-1].captured_at) if possible else now
    age_limit = settings.buffer_max_age_seconds
    young = [entry for entry in reversed(possible) if (newest - entry.captured_at).total_seconds() <= age_limit]
    # So a standing belt neither fills the buffer nor freezes it. Fingerprints alone are compared, and views of one
    # product under fixed light look more alike than they are: the default cap is a share of the buffer and not one.
    # An image without a fingerprint looks like no other.
    known = [index for index, entry in enumerate(young) if entry.fingerprint]
    bits_N = np.array([int(young[index].fingerprint, 16) for index in known], dtype=np.uint64)
    stays_N = _without_near_duplicates(bits_N, settings.near_duplicates, settings.duplicate_distance)
    crowded = {index for index, stays in zip(known, stays_N, strict=True) if not stays}
    kept = [entry.image_uri for index, entry in enumerate(young) if index not in crowded]
    staying = set(kept[: settings.buffer_size])
    return [entry.image_uri for entry in buffered if entry.image_uri not in staying]


def uris_by_name(buffered: Sequence[Buffered]) -> dict[str, str]:
    """Where each image lies, in their order, by its id, or by the URI itself where cameras gave several that id."""
    held = Counter(entry.image_id for entry in buffered)
    return {entry.image_id if held[entry.image_id] == 1 else entry.image_uri: entry.image_uri for entry in buffered}


def _without_near_duplicates(bits_N: NDArray[np.uint64], most: int, distance: int) -> NDArray[np.bool_]:
    """(N,) whether each of the fingerprints, newest first, stays: fewer than `most` newer ones that stay differ from it
    in at most `distance` bits.
    """
    stays_N = np.ones(len(bits_N), dtype=np.bool_)
    for start in range(0, len(bits_N), _BLOCK):
        block_B = bits_N[start : start + _BLOCK]
        end = start + len(block_B)
        alike_BM = np.bitwise_count(block_B[:, None] ^ bits_N[:end]) <= distance
        alike_BM &= np.tri(len(block_B), end, start - 1, dtype=np.bool_)  # newer ones alone
        # where fewer than `most` are alike at all, it does not matter which of them stay
        for row in np.flatnonzero(alike_BM.sum(axis=1) >= most):
            stays_N[start + row] = np.count_nonzero(alike_BM[row] & stays_N[:end]) < most
    return stays_N
