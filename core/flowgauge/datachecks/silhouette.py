"""The object in the picture, if there is one: where it lies, and how much that varies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from flowgauge.datachecks.image_statistics import SIDE, ImageStatistics
from flowgauge.datachecks.issue import Check, Figure, Finding, Named

_SMALLEST, _LARGEST = 0.03, 0.9
_SEEN = 0.8
"""The share of images in which an object must stand out, or there is none to speak of."""
_NEVER = 0.02
_RIM = 2
_AGREEMENT = 0.7
"""Overlap of an image's object with where objects mostly lie, as intersection over union. A shift by a tenth of the
object's width, or a turn of an oblong one by some 15 degrees, brings it below."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Silhouette:
    """`frequency` (SIDE, SIDE): in what share of the good training images the object covers a place."""

    frequency: NDArray[np.float64]
    covers: Flags  # (n,) in which images the object was found

    @property
    def background(self) -> Flags:
        """Where the object hardly ever comes, a rim around it left out."""
        return np.asarray(~ndimage.binary_dilation(self.frequency > _NEVER, iterations=_RIM))


def silhouette(seen: ImageStatistics) -> Silhouette | None:
    """None where no object stands out from the border in most images: a surface fills the picture."""
    shapes = _shapes(seen)
    shares = shapes.mean(axis=(1, 2))
    covers = (shares > _SMALLEST) & (shares < _LARGEST)
    if covers.mean() < _SEEN:
        return None
    return Silhouette(shapes[covers].mean(axis=0), covers)


def _shapes(seen: ImageStatistics) -> Flags:
    return np.stack([look.foreground for look in seen.looks[: seen.trained]])


def silhouette_check(seen: ImageStatistics, found: Silhouette | None) -> Check:
    question = "Does the part always lie in the same place?"
    if found is None:
        return Check(name="silhouette", question=question, skipped="No object stands out: a surface fills the picture.")
    shapes, usual = _shapes(seen), found.frequency > 0.5
    overlap = np.array([_overlap(shape, usual) for shape in shapes])
    figures: dict[str, Figure] = {
        "object_share": float(shapes[found.covers].mean()),
        "overlap": float(np.median(overlap[found.covers])),
        "background_share": float(found.background.mean()),
    }
    if np.median(overlap[found.covers]) >= _AGREEMENT:
        return Check(name="silhouette", question=question, figures=figures)
    finding = Finding(
        title="The part lies differently from image to image",
        seen=f"Half of the training images overlap with the mean silhouette by less than {np.median(overlap):.0%}.",
        why="A gauge learns what is normal at a place. Where parts move or turn, every place is now part and now "
        "background, normal becomes wide, and the map lights up where the part usually is.",
        remedy="Fit with --aspect embed, which looks at the part alone, at one scale (--masks, where it hardly stands "
        "out); or fix the part's position.",
        figures={"overlap": float(np.median(overlap))},
        images=tuple(
            Named(name=seen.names[row], value=float(overlap[row]), words=f"overlap {overlap[row]:.0%}")
            for row in np.argsort(overlap)[:12]
        ),
    )
    return Check(name="silhouette", question=question, figures=figures, findings=(finding,))


def _overlap(shape: Flags, usual: Flags) -> float:
    return float((shape & usual).sum() / max(1, (shape | usual).sum()))


def border() -> Flags:
    """(SIDE, SIDE): the outer eighth, which is the background of whoever shows no object."""
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[SIDE // 8 : -SIDE // 8, SIDE // 8 : -SIDE // 8] = True
    return ~inside
