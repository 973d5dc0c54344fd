"""What a gauge makes of the data set: turned goods, and whether it looks where the defects are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from flowgauge.datachecks.image_statistics import ImageStatistics
from flowgauge.datachecks.issue import Check, Figure, Finding, Level, Named
from flowgauge.datachecks.orientation import VIEWS, words_of
from flowgauge.evaluation.datasets import Entry, Sample, evenly, read
from flowgauge.models.detector import Progress
from flowgauge.models.prediction import Prediction
from flowgauge.training.gauge import BATCH, Gauge
from flowgauge.vision.augmentation import View
from flowgauge.vision.decoding import Picture
from flowgauge.vision.pictures import in_batches

MOST = 48
"""Images of either kind that the gauge judges."""
FEWEST = 8

_MORE = 0.25
"""Turned goods that are rejected beyond the plain ones, as a share."""
_WRONG_ORIENTATION = 0.5
_ROOM = 0.04
"""Of the image's side: what a map may be off and still mean the defect."""

Flags = NDArray[np.bool_]


def turned_check(seen: ImageStatistics, gauge: Gauge, progress: Progress) -> Check:
    """Good images in all eight orientations, at the gauge's own threshold."""
    question = "Do goods pass that lie turned or mirrored?"
    entries = evenly(_readable(seen, defective=False), MOST)
    if len(entries) < FEWEST:
        return Check(name="turned", question=question, skipped=f"Fewer than {FEWEST} good test images are there.")
    rejected = _rejected(entries, gauge, progress)
    figures: dict[str, Figure] = {words_of(view): share for view, share in rejected.items()}
    worst = max(VIEWS[1:], key=lambda view: rejected[view])
    if rejected[worst] - rejected[VIEWS[0]] < _MORE:
        return Check(name="turned", question=question, figures=figures)
    finding = Finding(
        title="Goods that lie otherwise would be rejected",
        seen=f"Of {len(entries)} good test images the gauge rejects {rejected[VIEWS[0]]:.0%} as they lie and "
        f"{rejected[worst]:.0%} when they are {words_of(worst)}.",
        why="If parts can come so, each of them is a false alarm. If they cannot, nothing is wrong.",
        remedy="Where parts may turn, train with images in every orientation, or fix how they lie.",
        level=Level.NOTE,
        figures={"plain": rejected[VIEWS[0]], "worst": rejected[worst]},
    )
    return Check(name="turned", question=question, figures=figures, findings=(finding,))


def _rejected(entries: Sequence[Entry], gauge: Gauge, progress: Progress) -> dict[View, float]:
    """The share of the images that the gauge rejects, in each of the eight views."""
    alarms = []
    for number, entry in enumerate(entries):
        picture = gauge.seen(read(entry).picture)
        alarms.append([one.score > one.threshold for one in gauge.predict([_moved(picture, view) for view in VIEWS])])
        progress("judging turned images", number + 1, len(entries))
    return dict(zip(VIEWS, np.mean(alarms, axis=0).tolist(), strict=True))


@dataclass(frozen=True)
class _Look:
    """`inside`: the share of the map's mass on the defect and close to it; `astray`: its peak lies elsewhere."""

    name: str
    inside: float
    astray: bool


def positions_check(seen: ImageStatistics, gauge: Gauge, progress: Progress) -> Check:
    """Defects with masks that the gauge rejects: for the right place?"""
    question = "Does the gauge reject defects for where they are?"
    entries = evenly([entry for entry in _readable(seen, defective=True) if entry.mask], MOST)
    looks, rejected = _looks(entries, gauge, progress)
    figures: dict[str, Figure] = {"judged": len(entries), "rejected": rejected}
    if len(looks) < FEWEST:
        reason = f"Fewer than {FEWEST} defects with a mask are rejected."
        return Check(name="patches", question=question, figures=figures, skipped=reason)
    astray = [look for look in looks if look.astray]
    figures |= {"astray": len(astray), "mass_outside": float(1 - np.median([look.inside for look in looks]))}
    if len(astray) <= _WRONG_ORIENTATION * len(looks):
        return Check(name="patches", question=question, figures=figures)
    finding = Finding(
        title="Right for the wrong reason",
        seen=f"Of {len(looks)} defects that the gauge rejects, {len(astray)} have the map's peak away from the defect; "
        f"in the middle, {figures['mass_outside']:.0%} of the map lies outside it.",
        why="The score comes from the background or from light, as with huskies told from wolves by the snow. Where "
        "that changes, defects are missed.",
        remedy="Collect goods and defects in one light, and fit again; --aspect embed blackens the background.",
        figures={"astray": len(astray), "mass_outside": figures["mass_outside"]},
        images=tuple(
            Named(name=look.name, value=look.inside, words=f"{look.inside:.0%} of the map on the defect")
            for look in sorted(astray, key=lambda look: look.inside)
        ),
    )
    return Check(name="patches", question=question, figures=figures, findings=(finding,))


def _readable(seen: ImageStatistics, *, defective: bool) -> list[Entry]:
    return [look.entry for look in seen.looks[seen.trained :] if look.entry.defective is defective]


def _moved(picture: Picture, view: View) -> Picture:
    def moved(x: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(np.rot90(x[:, ::-1] if view.flip else x, view.turns))

    return Picture(moved(picture.pixels), "", None if picture.cut is None else moved(picture.cut))


def _looks(entries: Sequence[Entry], gauge: Gauge, progress: Progress) -> tuple[list[_Look], int]:
    """Of those that are rejected and whose mask is not empty; and how many are rejected in all."""
    looks, rejected, done = [], 0, 0
    for samples in in_batches(map(read, entries), BATCH, lambda sample: sample.picture):
        for sample, one in zip(samples, gauge.predict([sample.picture for sample in samples]), strict=True):
            if one.score > one.threshold:
                rejected += 1
                looks += _look(sample, one)
        done += len(samples)
        progress("judging defects", done, len(entries))
    return looks, rejected


def _look(sample: Sample, judged: Prediction) -> list[_Look]:
    heat = np.maximum(judged.anomaly_map, 0)
    if sample.mask is None or not sample.mask.any() or not heat.any():
        return []
    close = _close(sample.mask, heat.shape)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return [_Look(sample.entry.name, float(heat[close].sum() / heat.sum()), not close[row, column])]


def _close(mask: Flags, grid: tuple[int, ...]) -> Flags:
    """(h, w) cells that the mask touches, and those around them."""
    whole = Image.fromarray(mask.astype(np.uint8) * 255).resize((grid[1], grid[0]), Image.Resampling.BOX)
    rounds = max(1, round(_ROOM * max(grid)))
    return np.asarray(ndimage.binary_dilation(np.asarray(whole) > 0, iterations=rounds))
