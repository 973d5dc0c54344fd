"""Orientations that the test shows and training does not.

An image that lies as training images do is nearest to them as it is. One that was turned or mirrored comes nearer when
it is turned back. By chance some do; but were the two sides alike, the images that gain most by turning would be of
either, and how many of them are of the test is known. That takes one measure for both: features are scaled by how much
they vary over all images in all orientations, and not by how much over training images as they lie.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.datachecks.image_statistics import ImageStatistics
from flowgauge.datachecks.issue import Check, Figure, Finding, Named
from flowgauge.evaluation.datasets import Entry, evenly, read
from flowgauge.models.detector import Progress
from flowgauge.training.training_set import Embedder
from flowgauge.vision.augmentation import PLAIN, View

VIEWS = tuple(View(turns=turns, flip=flip) for flip in (False, True) for turns in range(4))
"""The eight ways to lay a square on itself; the first is as it lies."""

MOST = 60
"""Images of either side that are looked at eight times."""
FEWEST = 8

_SIDE = 128
_GRID = 4
_NEAREST = 3
_BATCH = 32
_SURE = 0.001
_QUESTION = "Does training show every orientation that the test shows?"

Floats = NDArray[np.float64]


def orientation_check(seen: ImageStatistics, embedder: Embedder, progress: Progress) -> Check:
    train = evenly([look.entry for look in seen.looks[: seen.trained]], MOST)
    test = evenly([look.entry for look in seen.looks[seen.trained :] if not look.entry.defective], MOST)
    if min(len(train), len(test)) < FEWEST:
        reason = f"Fewer than {FEWEST} training images or good test images are there to compare."
        return Check(name="orientation", question=_QUESTION, skipped=reason)
    features = _features((*train, *test), embedder, progress)
    scaled = features / (features.flatten(0, 1).std(0) + 1e-4)
    reference, judged = scaled[:, : len(train)], scaled[:, len(train) :]
    usual, shown = _distances(reference, reference, own=True), _distances(reference, judged, own=False)
    turned = np.flatnonzero(_gain(shown) > _gain(usual).max())
    figures: dict[str, Figure] = {
        "test_images": len(test),
        "turned": len(turned),
        "limit": _limit(len(train), len(test)),
    }
    if len(turned) < _limit(len(train), len(test)):
        return Check(name="orientation", question=_QUESTION, figures=figures)
    gains, ways = _gain(shown), shown.argmin(axis=0)
    commonest = ", ".join(
        f"{count} {words_of(VIEWS[way])}" for way, count in Counter(ways[turned].tolist()).most_common()
    )
    finding = Finding(
        title="The test shows orientations that training lacks",
        seen=f"{len(turned)} of {len(test)} good test images resemble the training images more when they are turned or "
        f"mirrored: {commonest}.",
        why="Features of a frozen network turn with the part. A gauge that saw parts in one orientation takes every "
        "other one for a defect.",
        remedy="Collect training images in every orientation, turn copies of them (augment), or fix how parts lie.",
        figures={"turned": len(turned), "share": len(turned) / len(test)},
        images=tuple(
            Named(name=test[row].name, value=float(gains[row]), words=words_of(VIEWS[ways[row]]))
            for row in sorted(turned, key=lambda row: -gains[row])
        ),
    )
    return Check(name="orientation", question=_QUESTION, figures=figures, findings=(finding,))


def _features(entries: Sequence[Entry], embedder: Embedder, progress: Progress) -> Tensor:
    """(8, N, D): of every view of each image, on a grid so coarse that places only say roughly where."""
    small = embedder.preprocessing.model_copy(update={"size": _SIDE})
    crops = np.stack([small.square(read(entry).picture) for entry in entries])
    views = []
    for number, view in enumerate(VIEWS):
        rows = []
        for start in range(0, len(crops), _BATCH):
            with torch.inference_mode():
                parts = embedder.backbone(small.normalised(crops[start : start + _BATCH], view))[-2:]
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


def _limit(train: int, test: int) -> int:
    """So many test images beyond all training images are more than chance puts there: were the two alike, the k highest
    of all would be of the test with a chance of at most (test / all)^k."""
    return max(2, int(np.ceil(np.log(_SURE) / np.log(test / (train + test)))))


def words_of(view: View) -> str:
    if view == PLAIN:
        return "as it lies"
    turn = f"turned by {90 * view.turns}°" if view.turns else ""
    return " and ".join(part for part in ("mirrored" if view.flip else "", turn) if part)
