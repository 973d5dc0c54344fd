"""What trains: copies and near duplicates, also across the split; how many parts; and which may not be good at all."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.datachecks.image_statistics import GRID, ImageStatistics
from flowgauge.datachecks.issue import Check, Figure, Finding, Named, named
from flowgauge.datachecks.outliers import surprising
from flowgauge.evaluation.near_duplicates import Pair, near_duplicates, parts_of
from flowgauge.models.detector import Progress
from flowgauge.training.thresholds import Scores

PROMISED = 0.05
"""The share of good parts that a gauge may reject, about what its default threshold does. A smaller share asks for more
parts, 299 for 1 %; a larger one calls sets large enough whose gauges reject one good part in ten."""
SURE = 0.95

RATE = 0.02
"""How many of those named may be wrong; and how often a clean set may have anybody named at all. A larger rate names
good images; a smaller one misses mislabelled ones that differ little."""
FEWEST = 20
"""Of fewer parts the quartiles do not tell how high scores go."""
# Patches of all images that are compared. More take time with their square; fewer miss small defects.
_PATCHES = 20_000
# The share of other images, nearest first, whose mean distance is a place's score. With a single image a defect that
# recurs on another part hides itself; with most of them, rare good surface is suspect.
_NEAR = 0.1
# The share of its places whose mean is an image's score: larger, and small defects are averaged away; smaller, and one
# odd patch decides.
_TOP = 0.012


@dataclass(frozen=True)
class Repeats:
    """`pairs` of equal pixels have likeness 1 and come first."""

    exact: tuple[Pair, ...]
    near: tuple[Pair, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return (*self.exact, *self.near)


def repeats(seen: ImageStatistics, progress: Progress) -> Repeats:
    by_digest: dict[str, list[int]] = defaultdict(list)
    for row, look in enumerate(seen.looks):
        by_digest[look.digest].append(row)
    exact = tuple(Pair(rows[0], other, 1.0) for rows in by_digest.values() for other in rows[1:])
    known = {(pair.first, pair.second) for pair in exact}
    near = [pair for pair in near_duplicates(seen.coarse, progress) if (pair.first, pair.second) not in known]
    # two images out of focus resemble each other by the blur that they share
    return Repeats(exact, tuple(pair for pair in near if not (seen.soft[pair.first] and seen.soft[pair.second])))


def duplicates_check(seen: ImageStatistics, found: Repeats, groups: Mapping[str, str] | None) -> Check:
    """`groups` (image -> part) tests what was found and finds nothing itself."""
    train, good, pairs = seen.train, seen.good, found.pairs
    across = [pair for pair in pairs if train[pair.first] != train[pair.second]]
    trained = [pair for pair in pairs if train[pair.first] and train[pair.second]]
    torn = [pair for pair in pairs if good[pair.first] != good[pair.second]]
    leaked = {pair.second for pair in across}
    parts, shown = (len(set(parts_of(some, len(seen.looks))[train].tolist())) for some in (pairs, trained))
    figures: dict[str, Figure] = {
        "exact_pairs": len(found.exact),
        "near_pairs": len(found.near),
        "pairs_across": len(across),
        "test_images_with_near_duplicates_in_training": len(leaked),
        "parts_in_training": parts,
    }
    if groups is not None:
        figures |= _agreement(seen, pairs, groups)
    exact = sum(pair.likeness == 1 for pair in across)
    leak = Finding(
        title="The test repeats what was trained",
        seen=f"{len(leaked)} of {int((~train).sum())} test images ({sum(bool(good[row]) for row in leaked)} of them"
        f" good) have a near duplicate among the training images; {len(across)} pairs, {exact} of them equal in all"
        " pixels.",
        why="A gauge that is tested on images that it memorised looks better than it is: scores on these images say "
        "nothing of parts never seen, and the false alarms in the factory will be more.",
        remedy="Move all images of one part to one side (--groups keeps them together), or remove the copies.",
        figures={"test_images": len(leaked), "pairs": len(across), "exact": exact},
        images=_images_of(seen, across),
    )
    contradiction = Finding(
        title="The same part is called good and defective",
        seen=f"{len(torn)} pairs of near duplicates bear different labels.",
        why="One label of each pair is wrong, or the defect shows in one light only: errors at the threshold then mean "
        "nothing for these parts.",
        remedy="Look at both images of each pair and label the part once.",
        figures={"pairs": len(torn)},
        images=_images_of(seen, torn),
    )
    repeated = Finding(
        title="Training images show the same parts again",
        seen=f"{seen.trained} training images show about {shown} parts.",
        why="A threshold is set on images that were held out. Where near duplicates trained, they look better than new "
        "parts will, the threshold comes out too low, and false alarms too many.",
        remedy="Give --groups to fit and evaluate, so that images of one part are held out together; remove "
        "exact copies.",
        figures={"images": seen.trained, "parts": shown, "pairs": len(trained)},
        images=_images_of(seen, trained),
    )
    findings = [f for f, some in ((leak, across), (contradiction, torn), (repeated, trained)) if some]
    question = "Is every image there once, and on one side of the split only?"
    return Check(name="duplicates", question=question, figures=figures, findings=tuple(findings))


def _images_of(seen: ImageStatistics, pairs: Sequence[Pair]) -> tuple[Named, ...]:
    """The pairs, named by the image that comes later: of a pair across the split, that of the test."""
    names = seen.names
    return tuple(
        Named(
            name=names[pair.second],
            value=pair.likeness,
            beside=names[pair.first],
            words="equal pixels" if pair.likeness == 1 else f"likeness {pair.likeness:.2f}",
        )
        for pair in pairs
    )


def _agreement(seen: ImageStatistics, found: Sequence[Pair], groups: Mapping[str, str]) -> dict[str, Figure]:
    """How the pairs that were found compare with those that `groups` knows: over all images, and across the split."""
    parts = np.array([groups.get(name, name) for name in seen.names])

    def pairs_within(some: NDArray[np.str_]) -> int:
        counts = np.unique(some, return_counts=True)[1]
        return int((counts * (counts - 1) // 2).sum())

    inside = pairs_within(parts[seen.train]) + pairs_within(parts[~seen.train])
    across = [pair for pair in found if seen.train[pair.first] != seen.train[pair.second]]
    figures: dict[str, Figure] = {}
    for label, pairs, there in (
        ("pairs", found, pairs_within(parts)),
        ("pairs_across", across, pairs_within(parts) - inside),
    ):
        right = sum(parts[pair.first] == parts[pair.second] for pair in pairs)
        figures[f"{label}_precision"] = right / len(pairs) if pairs else None
        figures[f"{label}_recall"] = right / there if there else None
    return figures


def needed(share: float = PROMISED, sure: float = SURE) -> int:
    """So many good parts must stay below a threshold before it is that sure to reject at most that share of new ones:
    the least n with 1 - (1 - share)^n >= sure (Wilks, Annals of Mathematical Statistics 1941)."""
    return int(np.ceil(np.log(1 - sure) / np.log(1 - share)))


def enough_check(seen: ImageStatistics, repeated: Repeats) -> Check:
    """Counts parts: a second image of one says little new."""
    numbers = parts_of(repeated.pairs, len(seen.looks))
    parts = len(set(numbers[seen.train].tolist()))
    good, bad = (len(set(numbers[~seen.train & side].tolist())) for side in (seen.good, ~seen.good))
    share = 1 - (1 - SURE) ** (1 / parts)
    check = Check(
        name="enough",
        question="Are there images enough for the threshold's promise?",
        figures={
            "images": seen.trained,
            "parts": parts,
            "needed": needed(),
            "sure_share": share,
            "good_test_parts": good,
            "defective_test_parts": bad,
        },
    )
    if parts >= needed():
        return check
    finding = Finding(
        title="Too few training images for the threshold's promise",
        seen=f"{seen.trained} training images of {parts} parts can promise at most {share:.0%} false alarms, and not "
        f"{PROMISED:.0%}, with {SURE:.0%} confidence.",
        why="A threshold is set by the highest scores of good parts; of a few parts nobody has seen how high they go.",
        remedy=f"Collect images of {needed()} good parts or more.",
        figures={"parts": parts, "needed": needed(), "sure_share": share},
    )
    return check.with_findings(finding)


def suspects_check(seen: ImageStatistics, repeated: Repeats, progress: Progress) -> Check:
    """How far the most unusual patches of each training image are from all other parts' patches; no fit, no labels."""
    count, question = seen.trained, "Are all training images good?"
    parts = parts_of(repeated.pairs, len(seen.looks))[:count]
    distinct = len(set(parts.tolist()))
    if distinct < FEWEST:
        reason = f"{distinct} parts are too few to say which are unlike the others; {FEWEST} are enough."
        return Check(name="suspects", question=question, skipped=reason)
    features = torch.cat([F.normalize(part[:count].float(), dim=1) for part in (seen.fine, seen.coarse)], dim=1)
    patches = int(np.clip(_PATCHES // count, 16, GRID * GRID))
    scores = mutual_scores(features, parts, patches=patches, progress=progress)
    # an image out of focus is unusual for a reason that is told already
    suspects = np.flatnonzero(surprising(scores, RATE) & ~seen.soft[:count])
    worst = suspects[np.argsort(-scores[suspects])]
    figures: dict[str, Figure] = {"images": count, "suspects": len(worst), "median": float(np.median(scores))}
    check = Check(name="suspects", question=question, figures=figures)
    if not len(worst):
        return check
    finding = Finding(
        title="Training images that look defective",
        seen=f"{len(worst)} of {count} training images have places that are found on no other part.",
        why="What trains is taken for good: defects among the training images are passed later, and the "
        "threshold rises.",
        remedy="Look at these images and move the defective ones out of train/good; if nobody has the time, fit with "
        "--filter-outliers, or with --ensemble 3.",
        figures={"suspects": len(worst), "share": len(worst) / count},
        images=named(seen.names, worst, scores, lambda row: f"{scores[row] / np.median(scores):.2f} times the usual"),
    )
    return check.with_findings(finding)


def mutual_scores(
    features_NCHW: Tensor,
    parts: NDArray[np.intp],
    *,
    patches: int,
    progress: Progress,
    near: float = _NEAR,
    top: float = _TOP,
) -> Scores:
    """(N,) how suspect each of N images is, in [0, 2] as a cosine's distance; higher is more suspect.

    Good surface repeats from image to image; a defect repeats less. So a place is the more suspect, the further it is
    from the nearest places of those other images that come nearest to it (after MuSc, ICLR 2024, arXiv 2401.16753).
    Nothing is trained, so nothing can have learned the defects. A defect that most images share looks like surface.

    `features_NCHW` are a frozen backbone's; `parts` (N,) numbers what each image shows, two parts or more: images of
    one part are not compared with one another. So many random `patches` of an image stand for it.
    """
    # of length 1, so that light, which lengthens features, tells nothing; each patch with its neighbourhood
    padded = F.pad(features_NCHW.float(), (1, 1, 1, 1), mode="replicate")
    x_NTD = F.normalize(F.avg_pool2d(padded, 3, stride=1).flatten(2).transpose(1, 2), dim=-1)
    generator, patch_count = torch.Generator().manual_seed(0), x_NTD.shape[1]
    bank_NPD = torch.stack([x_TD[torch.randperm(patch_count, generator=generator)[:patches]] for x_TD in x_NTD])
    nearest, most = max(1, round(near * len(parts))), max(1, round(top * patch_count))
    scores = np.empty(len(parts))
    for row, (x_TD, part) in enumerate(zip(x_NTD, parts, strict=True)):
        others = bank_NPD[torch.from_numpy(parts != part)]
        similarity = (x_TD @ others.flatten(0, 1).T).view(len(x_TD), len(others), -1)
        by_image_TN = 1 - similarity.amax(dim=2)
        suspicion_T = by_image_TN.topk(min(nearest, len(others)), dim=1, largest=False)[0].mean(dim=1)
        scores[row] = float(suspicion_T.topk(most)[0].mean())
        progress("comparing images", row + 1, len(parts))
    return scores
