"""Exact duplicates, near duplicates, and what they leak from training into the test."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowgauge.datachecks.image_statistics import ImageStatistics
from flowgauge.datachecks.issue import Check, Figure, Finding, Named
from flowgauge.datachecks.near_duplicates import Pair, near_duplicates, parts_of
from flowgauge.models.detector import Progress

_QUESTION = "Is every image there once, and on one side of the split only?"


@dataclass(frozen=True)
class Repeats:
    """`pairs` of equal pixels have likeness 1 and come first."""

    exact: tuple[Pair, ...]
    near: tuple[Pair, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return (*self.exact, *self.near)


def repeats(seen: ImageStatistics, progress: Progress) -> Repeats:
    """Two images out of focus are no near duplicates by their features: these show the blur that they share."""
    exact = tuple(_equal([look.digest for look in seen.looks]))
    known = {(pair.first, pair.second) for pair in exact}
    near = [pair for pair in near_duplicates(seen.coarse, progress) if (pair.first, pair.second) not in known]
    return Repeats(exact, tuple(pair for pair in near if not (seen.soft[pair.first] and seen.soft[pair.second])))


def _equal(digests: Sequence[str]) -> list[Pair]:
    by_digest: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        by_digest[digest].append(row)
    return [Pair(rows[0], other, 1.0) for rows in by_digest.values() for other in rows[1:]]


def duplicates_check(seen: ImageStatistics, found: Repeats, groups: Mapping[str, str] | None) -> Check:
    """`groups` (image -> part) judges what was found and finds nothing itself."""
    across = [pair for pair in found.pairs if seen.train[pair.first] != seen.train[pair.second]]
    trained = [pair for pair in found.pairs if seen.train[pair.first] and seen.train[pair.second]]
    torn = [pair for pair in found.pairs if seen.good[pair.first] != seen.good[pair.second]]
    figures: dict[str, Figure] = {
        "exact_pairs": len(found.exact),
        "near_pairs": len(found.near),
        "pairs_across": len(across),
        "test_images_with_near_duplicates_in_training": len({pair.second for pair in across}),
        "parts_in_training": len(set(parts_of(found.pairs, len(seen.looks))[seen.train].tolist())),
    }
    if groups is not None:
        figures |= _agreement(seen, found, groups)
    findings = [_leak(seen, across), _contradiction(seen, torn), _repeated(seen, trained)]
    issues = tuple(finding for finding in findings if finding is not None)
    return Check(name="duplicates", question=_QUESTION, figures=figures, findings=issues)


def _leak(seen: ImageStatistics, pairs: Sequence[Pair]) -> Finding | None:
    if not pairs:
        return None
    test = {pair.second for pair in pairs}
    good = sum(bool(seen.good[row]) for row in test)
    exact = sum(pair.likeness == 1 for pair in pairs)
    of_test = int((~seen.train).sum())
    return Finding(
        title="The test repeats what was trained",
        seen=f"{len(test)} of {of_test} test images ({good} of them good) have a twin among the training images; "
        f"{len(pairs)} pairs, {exact} of them equal to the last pixel.",
        why="Who is judged on what he learned by heart looks better than he is: scores on these images say nothing of "
        "parts never seen, and the false alarms in the factory will be more.",
        remedy="Move all images of one part to one side (--groups keeps them together), or remove the copies.",
        figures={"test_images": len(test), "pairs": len(pairs), "exact": exact},
        images=_images_of(seen, pairs),
    )


def _contradiction(seen: ImageStatistics, pairs: Sequence[Pair]) -> Finding | None:
    if not pairs:
        return None
    return Finding(
        title="The same part is called good and defective",
        seen=f"{len(pairs)} pairs of near duplicates bear different labels.",
        why="One label of each pair is wrong, or the defect shows in one light only: errors at the threshold then mean "
        "nothing for these parts.",
        remedy="Look at both images of each pair and label the part once.",
        figures={"pairs": len(pairs)},
        images=_images_of(seen, pairs),
    )


def _repeated(seen: ImageStatistics, pairs: Sequence[Pair]) -> Finding | None:
    if not pairs:
        return None
    images = int(seen.train.sum())
    parts = len(set(parts_of(pairs, len(seen.looks))[seen.train].tolist()))
    return Finding(
        title="Training images show the same parts again",
        seen=f"{images} training images show about {parts} parts.",
        why="A threshold is set on images that were held out. Where near duplicates trained, they look better than new "
        "parts will, the threshold comes out too low, and false alarms too many.",
        remedy="Give --groups to fit and evaluate, so that images of one part are held out together; remove "
        "exact copies.",
        figures={"images": images, "parts": parts, "pairs": len(pairs)},
        images=_images_of(seen, pairs),
    )


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


def _agreement(seen: ImageStatistics, found: Repeats, groups: Mapping[str, str]) -> dict[str, Figure]:
    """How the pairs that were found compare with those that `groups` knows: over all images, and across the split."""
    parts = np.array([groups.get(name, name) for name in seen.names])
    figures: dict[str, Figure] = {}
    for label, wanted in (("pairs", False), ("pairs_across", True)):
        pairs = [p for p in found.pairs if not wanted or seen.train[p.first] != seen.train[p.second]]
        right = sum(parts[pair.first] == parts[pair.second] for pair in pairs)
        there = _pairs_within(parts) - (_pairs_within(parts[seen.train]) + _pairs_within(parts[~seen.train])) * wanted
        figures[f"{label}_precision"] = right / len(pairs) if pairs else None
        figures[f"{label}_recall"] = right / there if there else None
    return figures


def _pairs_within(parts: NDArray[np.str_]) -> int:
    counts = np.unique(parts, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())
