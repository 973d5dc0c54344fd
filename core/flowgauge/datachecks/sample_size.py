"""Are there images enough for what a threshold promises?"""

import numpy as np

from flowgauge.datachecks.duplicates import Repeats
from flowgauge.datachecks.image_statistics import ImageStatistics
from flowgauge.datachecks.issue import Check, Figure, Finding
from flowgauge.datachecks.near_duplicates import parts_of

PROMISED = 0.05
"""The share of good parts that a gauge may reject, about what its default threshold does."""
SURE = 0.95


def needed(share: float = PROMISED, sure: float = SURE) -> int:
    """So many good parts must stay below a threshold before it is that sure to reject at most that share of new ones
    (Wilks' rule: 1 - (1 - share)^n >= sure)."""
    return int(np.ceil(np.log(1 - sure) / np.log(1 - share)))


def enough_check(seen: ImageStatistics, repeated: Repeats) -> Check:
    """Counts parts: a second image of one says little new."""
    numbers = parts_of(repeated.pairs, len(seen.looks))
    parts = len(set(numbers[seen.train].tolist()))
    good, bad = (len(set(numbers[~seen.train & side].tolist())) for side in (seen.good, ~seen.good))
    figures: dict[str, Figure] = {
        "images": seen.trained,
        "parts": parts,
        "needed": needed(),
        "sure_share": 1 - (1 - SURE) ** (1 / parts),
        "good_test_parts": good,
        "defective_test_parts": bad,
    }
    findings = (_too_few(seen.trained, parts),) if parts < needed() else ()
    question = "Are there images enough for the threshold's promise?"
    return Check(name="enough", question=question, figures=figures, findings=findings)


def _too_few(images: int, parts: int) -> Finding:
    share = 1 - (1 - SURE) ** (1 / parts)
    return Finding(
        title="Too few training images for the threshold's promise",
        seen=f"{images} training images of {parts} parts can promise at most {share:.0%} false alarms, and not "
        f"{PROMISED:.0%}, with {SURE:.0%} confidence.",
        why="A threshold is set by the highest scores of good parts; of a few parts nobody has seen how high they go.",
        remedy=f"Collect images of {needed()} good parts or more.",
        figures={"parts": parts, "needed": needed(), "sure_share": share},
    )
