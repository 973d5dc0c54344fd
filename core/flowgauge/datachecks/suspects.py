"""Training images that may not be good at all."""

import numpy as np
import torch
import torch.nn.functional as F

from flowgauge.datachecks.duplicates import Repeats
from flowgauge.datachecks.image_statistics import GRID, ImageStatistics
from flowgauge.datachecks.issue import Check, Figure, Finding, Named
from flowgauge.datachecks.mutual_scoring import MutualScoring, mutual_scores
from flowgauge.datachecks.near_duplicates import parts_of
from flowgauge.datachecks.outliers import surprising
from flowgauge.models.detector import Progress
from flowgauge.training.thresholds import Scores

RATE = 0.02
"""How many of those named may be wrong; and how often a clean set may have anybody named at all."""
FEWEST = 20
"""Of fewer images the quartiles do not tell how high scores go."""

_PATCHES = 20_000
_QUESTION = "Are all training images good?"


def suspicion(seen: ImageStatistics, repeated: Repeats, progress: Progress) -> Scores:
    """(n,) how far the strangest places of each training image are from all other parts' places; no fit, no labels."""
    count = seen.trained
    features = torch.cat([F.normalize(part[:count].float(), dim=1) for part in (seen.fine, seen.coarse)], dim=1)
    parts = parts_of(repeated.pairs, len(seen.looks))[:count]
    settings = MutualScoring(patches=int(np.clip(_PATCHES // count, 16, GRID * GRID)))
    return mutual_scores(features, [str(part) for part in parts], settings, seed=0, progress=progress)


def suspects_check(seen: ImageStatistics, repeated: Repeats, progress: Progress) -> Check:
    """Leaves out images out of focus, which are strange for a reason that is told already."""
    parts = parts_of(repeated.pairs, len(seen.looks))[: seen.trained]
    if len(set(parts.tolist())) < FEWEST:
        reason = (
            f"{len(set(parts.tolist()))} parts are too few to say which are unlike the others; {FEWEST} are enough."
        )
        return Check(name="suspects", question=_QUESTION, skipped=reason)
    scores = suspicion(seen, repeated, progress)
    named = np.flatnonzero(surprising(scores, RATE) & ~seen.soft[: seen.trained])
    worst = named[np.argsort(-scores[named])]
    figures: dict[str, Figure] = {"images": seen.trained, "suspects": len(worst), "median": float(np.median(scores))}
    if not len(worst):
        return Check(name="suspects", question=_QUESTION, figures=figures)
    finding = Finding(
        title="Training images that look defective",
        seen=f"{len(worst)} of {seen.trained} training images have places that are found on no other part.",
        why="What trains is taken for good: defects among the training images are passed later, and the "
        "threshold rises.",
        remedy="Look at these images and move the defective ones out of train/good; if nobody has the time, fit with "
        "--filter-outliers, or with --ensemble 3.",
        figures={"suspects": len(worst), "share": len(worst) / seen.trained},
        images=tuple(
            Named(
                name=seen.names[row],
                value=float(scores[row]),
                words=f"{scores[row] / np.median(scores):.2f} times the usual",
            )
            for row in worst
        ),
    )
    return Check(name="suspects", question=_QUESTION, figures=figures, findings=(finding,))
