"""Orientations: which the test shows and training does not, and which a gauge rejects.

An image that lies as training images do is nearest to them as it is. One that was turned or mirrored comes nearer when
it is turned back. By chance some do; but were the two sides alike, the images that gain most by turning would be of
either, and how many of them are of the test is known. That takes one measure for both: features are scaled by how much
they vary over all images in all orientations, and not by how much over training images as they lie.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.datachecks.image_statistics import ImageStatistics
from flowgauge.datachecks.issue import Check, Figure, Finding, Level, Named
from flowgauge.evaluation.datasets import Entry, evenly, read
from flowgauge.models.detector import Progress
from flowgauge.training.gauge import Gauge
from flowgauge.training.training_set import Embedder
from flowgauge.vision.augmentation import PLAIN, View, normalised
from flowgauge.vision.decoding import Picture

VIEWS = tuple(View(turns=turns, flip=flip) for flip in (False, True) for turns in range(4))
"""The eight ways to lay a square on itself; the first is as it lies."""

MOST, MOST_JUDGED = 60, 48
"""Images of either side that are embedded eight times, and good ones that the gauge predicts eight times: time grows
in proportion, and fewer miss what only some images show."""
FEWEST = 8
"""Of fewer images, one that was turned is a tenth of them, and chance."""

# Of the squares in pixels, and of the features: so coarse that a place says only roughly where. Finer ones find that a
# shifted part is far from the others however it lies.
_SIDE, _GRID = 128, 4
# Training images that the distance is averaged over: of one, an outlier decides; of many, the kind of part does.
_NEAREST = 3
_BATCH = 32
# The chance that turned images are told where there are none: larger ones warn in vain, for many sets are checked.
_SURE = 0.001
# Turned goods that are rejected beyond the plain ones, as a share. Less is within the chance of 48 images.
_MORE = 0.25

Floats = NDArray[np.float64]


def orientation_check(seen: ImageStatistics, embedder: Embedder, progress: Progress) -> Check:
    question = "Does training show every orientation that the test shows?"
    train = evenly([look.entry for look in seen.looks[: seen.trained]], MOST)
    test = evenly(seen.test_entries(defective=False), MOST)
    if min(len(train), len(test)) < FEWEST:
        reason = f"Fewer than {FEWEST} training images or good test images are there to compare."
        return Check(name="orientation", question=question, skipped=reason)
    features = _features((*train, *test), embedder, progress)
    scaled = features / (features.flatten(0, 1).std(0) + 1e-4)
    reference, tested = scaled[:, : len(train)], scaled[:, len(train) :]
    usual, shown = _distances(reference, reference, own=True), _distances(reference, tested, own=False)
    gains, ways = _gain(shown), shown.argmin(axis=0)
    turned = np.flatnonzero(gains > _gain(usual).max())
    # were the two sides alike, the k highest gains of all would be of the test with a chance of (test / all)^k at most
    limit = max(2, int(np.ceil(np.log(_SURE) / np.log(len(test) / (len(train) + len(test))))))
    figures: dict[str, Figure] = {"test_images": len(test), "turned": len(turned), "limit": limit}
    check = Check(name="orientation", question=question, figures=figures)
    if len(turned) < limit:
        return check
    commonest = Counter(ways[turned].tolist()).most_common()
    finding = Finding(
        title="The test shows orientations that training lacks",
        seen=f"{len(turned)} of {len(test)} good test images resemble the training images more when they are turned or "
        f"mirrored: {', '.join(f'{count} {words_of(VIEWS[way])}' for way, count in commonest)}.",
        why="Features of a frozen network turn with the part. A gauge that saw parts in one orientation takes every "
        "other one for a defect.",
        remedy="Collect training images in every orientation, turn copies of them (augment), or fix how parts lie.",
        figures={"turned": len(turned), "share": len(turned) / len(test)},
        images=tuple(
            Named(name=test[row].name, value=float(gains[row]), words=words_of(VIEWS[ways[row]]))
            for row in sorted(turned, key=lambda row: -gains[row])
        ),
    )
    return check.with_findings(finding)


def _features(entries: Sequence[Entry], embedder: Embedder, progress: Progress) -> Tensor:
    """(8, N, D): of every view of each image, on a grid so coarse that places only say roughly where."""
    small = embedder.preprocessing.model_copy(update={"size": _SIDE})
    crops = np.stack([small.resampled(read(entry).picture) for entry in entries])
    views = []
    for number, view in enumerate(VIEWS):
        rows = []
        for start in range(0, len(crops), _BATCH):
            with torch.inference_mode():
                parts = embedder.backbone(normalised(small, crops[start : start + _BATCH], view))[-2:]
            rows.append(torch.cat([F.adaptive_avg_pool2d(part, _GRID).flatten(1) for part in parts], 1).cpu().clone())
        views.append(F.normalize(torch.cat(rows), dim=1))
        progress("turning images", number + 1, len(VIEWS))
    return torch.stack(views)


def _distances(train_VND: Tensor, of_VMD: Tensor, *, own: bool) -> Floats:
    """(8, M): how far each view is from the training images as they lie; from all others, where it is one's `own`."""
    plain = train_VND[0]
    distances = torch.cdist(of_VMD, plain.expand(len(of_VMD), -1, -1))
    if own:
        distances[:, range(len(plain)), range(len(plain))] = torch.inf
    nearest = distances.topk(min(_NEAREST, len(plain) - 1), dim=2, largest=False)[0].mean(dim=2)
    return nearest.double().numpy()


def _gain(distances_VM: Floats) -> Floats:
    """(M,) how much nearer the best other view comes than the image as it lies, as a logarithm; above 0 is nearer."""
    return np.asarray(np.log((distances_VM[0] + 1e-9) / (distances_VM[1:].min(axis=0) + 1e-9)))


def turned_check(seen: ImageStatistics, gauge: Gauge, progress: Progress) -> Check:
    """Good test images in all eight orientations, at the gauge's own threshold."""
    question = "Do goods pass that lie turned or mirrored?"
    entries = evenly(seen.test_entries(defective=False), MOST_JUDGED)
    if len(entries) < FEWEST:
        return Check(name="turned", question=question, skipped=f"Fewer than {FEWEST} good test images are there.")
    alarms = []
    for number, entry in enumerate(entries):
        picture = gauge.seen(read(entry).picture)
        predictions = gauge.predict([_moved(picture, view) for view in VIEWS])
        alarms.append([one.score > one.threshold for one in predictions])
        progress("scoring turned images", number + 1, len(entries))
    shares = np.mean(alarms, axis=0).tolist()
    figures: dict[str, Figure] = {words_of(view): share for view, share in zip(VIEWS, shares, strict=True)}
    check = Check(name="turned", question=question, figures=figures)
    worst = 1 + int(np.argmax(shares[1:]))
    if shares[worst] - shares[0] < _MORE:
        return check
    finding = Finding(
        title="Goods that lie otherwise would be rejected",
        seen=f"Of {len(entries)} good test images the gauge rejects {shares[0]:.0%} as they lie and "
        f"{shares[worst]:.0%} when they are {words_of(VIEWS[worst])}.",
        why="If parts can come so, each of them is a false alarm. If they cannot, nothing is wrong.",
        remedy="Where parts may turn, train with images in every orientation, or fix how they lie.",
        level=Level.NOTE,
        figures={"plain": shares[0], "worst": shares[worst]},
    )
    return check.with_findings(finding)


def _moved(picture: Picture, view: View) -> Picture:
    def moved(x: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(np.rot90(x[:, ::-1] if view.flip else x, view.turns))

    return Picture(moved(picture.pixels), "", None if picture.cut is None else moved(picture.cut))


def words_of(view: View) -> str:
    if view == PLAIN:
        return "as it lies"
    turn = f"turned by {90 * view.turns}°" if view.turns else ""
    return " and ".join(part for part in ("mirrored" if view.flip else "", turn) if part)
