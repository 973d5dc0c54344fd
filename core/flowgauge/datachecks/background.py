"""The object and its background: where the object lies, whether the background gives the class away, and whether a
gauge looks at the defects.

Huskies and snow (Ribeiro et al., arXiv 1602.04938): a classifier sees nothing but the background, and of a defect's
image only where the defect is not. If it separates the classes on images that it was not trained with, so may any
detector, for the wrong reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage, stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from flowgauge.datachecks.image_statistics import SIDE, ImageStatistics, Look
from flowgauge.datachecks.issue import Check, Figure, Finding, Named, named
from flowgauge.datachecks.outliers import Flags
from flowgauge.evaluation.datasets import Entry, evenly, read
from flowgauge.models.detector import Progress
from flowgauge.training.gauge import BATCH, Gauge
from flowgauge.training.thresholds import Scores
from flowgauge.vision.pictures import in_batches

FEWEST = 10
"""Of each class; of fewer, hardly any difference would be sure."""
# The chance that backgrounds which say nothing are named: larger ones warn in vain, for many sets are checked.
_SURE = 0.001
# The AUROC from which a background gives the class away. Lower ones come of parts that differ a little in light;
# higher ones are missed where the defects cover much of the background.
_INFORMATIVE = 0.75
# What a defect changes around it, in pixels of the thumbnail, is its own and not the background's. Less lets blurred
# edges of defects give the class away; more leaves no background around large ones.
_MARGIN = 3
_FOLDS = 5

# Shares of the image: what is smaller is dirt, what is larger a surface that fills the picture.
_SMALLEST, _LARGEST = 0.03, 0.9
# The share of images in which an object must stand out, or there is none to speak of.
_FOUND = 0.8
# A place is background if so few images have the object there; the rim around it, in pixels of the thumbnail, holds
# the object's shadow and blurred edge.
_NEVER, _RIM = 0.02, 2
# Overlap of an image's object with where objects mostly lie, as intersection over union. A shift by a tenth of the
# object's width, or a turn of an oblong one by some 15 degrees, brings it below.
_AGREEMENT = 0.7

MOST = 48
"""Defects that the gauge predicts: more take time in proportion, fewer leave the share to chance."""
FEWEST_REJECTED = 8
"""Of fewer, the share whose map peaks elsewhere says little."""
# The share of rejected defects whose map peaks elsewhere: more than half, and the reason is not the defect.
_MOST_ELSEWHERE = 0.5
# Of the image's side: what a map may be off and still mean the defect, at least a cell. More forgives maps that light
# up beside the defect; less finds fault with coarse ones.
_NEAR = 0.04


@dataclass(frozen=True, eq=False)
class Silhouette:
    """`frequency` (SIDE, SIDE): in what share of the good training images the object covers a place; `covers` (n,): in
    which images it was found."""

    frequency: Scores
    covers: Flags

    @property
    def background(self) -> Flags:
        """Where the object hardly ever comes, a rim around it left out."""
        return np.asarray(~ndimage.binary_dilation(self.frequency > _NEVER, iterations=_RIM))


def silhouette(seen: ImageStatistics) -> Silhouette | None:
    """None where no object stands out from the border in most images: a surface fills the picture."""
    shapes = np.stack([look.foreground for look in seen.looks[: seen.trained]])
    shares = shapes.mean(axis=(1, 2))
    covers = (shares > _SMALLEST) & (shares < _LARGEST)
    return Silhouette(shapes[covers].mean(axis=0), covers) if covers.mean() >= _FOUND else None


def silhouette_check(seen: ImageStatistics, found: Silhouette | None) -> Check:
    question = "Does the part always lie in the same place?"
    if found is None:
        return Check(name="silhouette", question=question, skipped="No object stands out: a surface fills the picture.")
    shapes, usual = np.stack([look.foreground for look in seen.looks[: seen.trained]]), found.frequency > 0.5
    overlap = np.array([float((s & usual).sum() / max(1, (s | usual).sum())) for s in shapes])
    check = Check(
        name="silhouette",
        question=question,
        figures={
            "object_share": float(shapes[found.covers].mean()),
            "overlap": float(np.median(overlap[found.covers])),
            "background_share": float(found.background.mean()),
        },
    )
    if np.median(overlap[found.covers]) >= _AGREEMENT:
        return check
    finding = Finding(
        title="The part lies differently from image to image",
        seen=f"Half of the training images overlap with the mean silhouette by less than {np.median(overlap):.0%}.",
        why="A gauge learns what is normal at a place. Where parts move or turn, every place is now part and now "
        "background, normal becomes wide, and the map lights up where the part usually is.",
        remedy="Fit with --aspect masked-crop, which looks at the part alone, at one scale (--masks, where it hardly "
        "stands out); or fix the part's position.",
        figures={"overlap": float(np.median(overlap))},
        images=named(seen.names, np.argsort(overlap)[:12], overlap, lambda row: f"overlap {overlap[row]:.0%}"),
    )
    return check.with_findings(finding)


def background_check(seen: ImageStatistics, found: Silhouette | None) -> Check:
    question = "Does the background give the class away?"
    looks, defective = seen.looks[seen.trained :], ~seen.good[~seen.train]
    entries = [look.entry for look in looks]
    if min(defective.sum(), (~defective).sum()) < FEWEST:
        reason = f"The test holds fewer than {FEWEST} good or fewer than {FEWEST} defective images."
        return Check(name="background", question=question, skipped=reason)
    if found is None or not found.background.any():
        # the outer eighth is the background of whoever shows no object
        where = np.ones((SIDE, SIDE), dtype=bool)
        where[SIDE // 8 : -SIDE // 8, SIDE // 8 : -SIDE // 8] = False
    else:
        where = found.background
    scores = _cross_fitted(np.stack([_appearance(look, where) for look in looks]), defective)
    bad, good = scores[defective], scores[~defective]
    test = stats.mannwhitneyu(bad, good, alternative="greater")
    auroc, p = float(test.statistic) / (len(bad) * len(good)), float(test.pvalue)
    area = "border" if found is None else "outside the part"
    check = Check(name="background", question=question, figures={"auroc": auroc, "p": p, "area": area})
    if auroc < _INFORMATIVE or p > _SURE:
        return check
    order = np.argsort(-scores)
    finding = Finding(
        title="The background gives the class away",
        seen=f"Colours of the {area} alone tell defective from good test images with an AUROC of "
        f"{auroc:.2f} (p = {p:.1g}).",
        why="A detector can score well by the background, as one that told huskies from wolves by the snow. In the "
        "factory the background is the same for both, and the score is gone.",
        remedy="Collect good and defective parts in one place and light, in turns; or fit with --aspect masked-crop, "
        "which blackens the background.",
        figures={"auroc": auroc, "p": p},
        images=named([entry.name for entry in entries], (*order[:4], *order[-4:]), scores, lambda i: entries[i].kind),
    )
    return check.with_findings(finding)


def _appearance(look: Look, where: Flags) -> Scores:
    """(16,): median colour and spread of gray of the background above, below, left and right; NaN without any."""
    free = where if look.mask is None else where & ~ndimage.binary_dilation(look.mask, iterations=_MARGIN)
    y, x = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    steep = np.abs(y) >= np.abs(x)
    found = []
    for triangle in (steep & (y < 0), steep & (y >= 0), ~steep & (x < 0), ~steep & (x >= 0)):
        pixels_N3 = look.thumb[free & triangle]
        if len(pixels_N3) < 8:
            found.append(np.full(4, np.nan))
            continue
        low, high = np.quantile(pixels_N3.mean(axis=1), (0.25, 0.75))
        found.append(np.append(np.median(pixels_N3, axis=0), np.log(high - low + 1)))
    return np.concatenate(found)


def _cross_fitted(table: Scores, defective: Flags) -> Scores:
    """(n,) how defective each background looks to a classifier that was trained with other images; `table` (n, 16)."""
    # what is missing of an image is taken for typical; columns of which nothing is known, or that do not vary, go
    table = table[:, ~np.isnan(table).all(axis=0)]
    table = np.where(np.isnan(table), np.nanmedian(table, axis=0), table)
    varying = table[:, table.std(axis=0) > 0]
    if not varying.shape[1]:
        return np.zeros(len(table))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    folds = StratifiedKFold(min(_FOLDS, int(defective.sum()), int((~defective).sum())), shuffle=True, random_state=0)
    scores = cross_val_predict(model, varying / varying.std(axis=0), defective, cv=folds, method="decision_function")
    return np.asarray(scores, dtype=np.float64)


@dataclass(frozen=True)
class _Rejected:
    """A rejected defect. `inside`: share of the map's mass on or close to it; `astray`: its peak lies elsewhere."""

    name: str
    inside: float
    astray: bool


def positions_check(seen: ImageStatistics, gauge: Gauge, progress: Progress) -> Check:
    """Defects with masks that the gauge rejects: for the right place?"""
    entries = evenly([entry for entry in seen.test_entries(defective=True) if entry.mask], MOST)
    found, rejected = _rejected(entries, gauge, progress)
    question = "Does the gauge reject defects for where they are?"
    figures: dict[str, Figure] = {"judged": len(entries), "rejected": rejected}
    if len(found) < FEWEST_REJECTED:
        reason = f"Fewer than {FEWEST_REJECTED} defects with a mask are rejected."
        return Check(name="patches", question=question, figures=figures, skipped=reason)
    astray = sorted((one for one in found if one.astray), key=lambda one: one.inside)
    outside = float(1 - np.median([one.inside for one in found]))
    outside_figures: dict[str, Figure] = {"astray": len(astray), "mass_outside": outside}
    check = Check(name="patches", question=question, figures=figures | outside_figures)
    if len(astray) <= _MOST_ELSEWHERE * len(found):
        return check
    finding = Finding(
        title="Right for the wrong reason",
        seen=f"Of {len(found)} defects that the gauge rejects, {len(astray)} have the map's peak away from the defect; "
        f"in the middle, {outside:.0%} of the map lies outside it.",
        why="The score comes from the background or from light, as with huskies told from wolves by the snow. Where "
        "that changes, defects are missed.",
        remedy="Collect goods and defects in one light, and fit again; --aspect masked-crop blackens the background.",
        figures=outside_figures,
        images=tuple(
            Named(name=one.name, value=one.inside, words=f"{one.inside:.0%} of the map on the defect") for one in astray
        ),
    )
    return check.with_findings(finding)


def _rejected(entries: Sequence[Entry], gauge: Gauge, progress: Progress) -> tuple[list[_Rejected], int]:
    """Of those that are rejected, the ones whose mask is not empty; and how many are rejected in all."""
    found, rejected, done = list[_Rejected](), 0, 0
    # decoded as far as for the images that the gauge was fitted to
    read_samples = (read(entry, gauge.manifest.preprocessing.reduction) for entry in entries)
    for samples in in_batches(read_samples, BATCH, lambda sample: sample.picture):
        predictions = gauge.predict([sample.picture for sample in samples])
        for sample, one in zip(samples, predictions, strict=True):
            if one.score <= one.threshold:
                continue
            rejected += 1
            heat = np.maximum(one.anomaly_map, 0)
            if sample.mask is None or not sample.mask.any() or not heat.any():
                continue
            # cells that the mask touches, and those around them
            mask = Image.fromarray(sample.mask.astype(np.uint8) * 255)
            touched = np.asarray(mask.resize(heat.shape[::-1], Image.Resampling.BOX)) > 0
            close = ndimage.binary_dilation(touched, iterations=max(1, round(_NEAR * max(heat.shape))))
            peak = np.unravel_index(int(heat.argmax()), heat.shape)
            found.append(_Rejected(sample.entry.name, float(heat[close].sum() / heat.sum()), not close[peak]))
        done += len(samples)
        progress("scoring defects", done, len(entries))
    return found, rejected
