"""Images out of focus."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from flowgauge.datachecks.issue import Check, Finding, Named
from flowgauge.datachecks.outliers import Flags, apart, deviations
from flowgauge.training.thresholds import Scores

_LONGEST = 512
_FLAT = 0.1
"""Variance in levels of 255 that counts as none."""
_LOST = np.log(1.6)
"""What must be gone of the edges' energy, as a logarithm: a lens that shifts so far is seen by eye."""


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """The logarithm of the energy of an image's edges over that of its values; higher is sharper.

    Of half the size, and of 512 pixels at most: there the sensor's noise, which stays sharp in any blur, is averaged
    out.
    """
    gray = Image.fromarray(pixels).convert("L")
    shrink = max(2.0, max(gray.size) / _LONGEST)
    size = (max(4, round(gray.width / shrink)), max(4, round(gray.height / shrink)))
    values = np.asarray(gray.resize(size, Image.Resampling.BOX), np.float32)
    edges = ndimage.laplace(values)[1:-1, 1:-1]
    return float(np.log((edges.var() + _FLAT) / (values.var() + _FLAT)))


def blurred(sharp: Scores, usual: Scores) -> Flags:
    """Which of `sharp` (N,) are far below what is `usual`."""
    return apart(sharp, usual, _LOST) & (sharp < np.median(usual))


def focus_check(names: list[str], sharp: Scores, usual: Scores) -> Check:
    """`sharp` (N,) of all images; `usual` are those of the good training images."""
    soft = np.flatnonzero(blurred(sharp, usual))
    worst = soft[np.argsort(sharp[soft])]
    figures = {"images": len(sharp), "out_of_focus": len(worst), "usual_sharpness": float(np.median(usual))}
    if not len(worst):
        return Check(name="focus", question="Is every image in focus?", figures=figures)
    kept = np.exp(sharp - np.median(usual))
    far = deviations(sharp, usual)
    finding = Finding(
        title="Images out of focus",
        seen=f"{len(worst)} of {len(sharp)} images have lost most of their fine edges; the worst keeps "
        f"{kept[worst[0]]:.0%} of what is usual.",
        why="A blurred image hides small defects, and one that trains makes blur look normal.",
        remedy="Take these images again, and see why the camera lost its focus.",
        figures={"out_of_focus": len(worst), "edges_kept": float(kept[worst[0]])},
        images=tuple(
            Named(name=names[i], value=float(kept[i]), words=f"{kept[i]:.0%} of the edges, {far[i]:+.0f} deviations")
            for i in worst
        ),
    )
    return Check(name="focus", question="Is every image in focus?", figures=figures, findings=(finding,))
