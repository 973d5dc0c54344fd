"""The report of the data checks: what was found, with pictures."""

import numpy as np
from numpy.typing import NDArray

from flowgauge.datachecks.examine import Examination
from flowgauge.datachecks.issue import Check
from flowgauge.domain.errors import UnreadableImage
from flowgauge.evaluation.datasets import read
from flowgauge.reports import pages
from flowgauge.reports.pages import Cell, Row
from flowgauge.reports.wording import significant
from flowgauge.vision.decoding import Picture
from flowgauge.vision.encoding import png, thumbnail
from flowgauge.vision.heatmaps import heatmap_png

_SHOWN = 12  # images of a finding: more make the page too long to read, and the JSON has all
_SIDE = 224  # pixels of a thumbnail, some 10 kB each; smaller ones hide the faults that they should show

_MARKS = {"found": "mark-refused", "fine": "mark-passed"}


def render(dataset: str, found: Examination) -> str:
    """The whole page. Images are read again for their thumbnails, and those that cannot be are named alone."""
    return pages.rendered(
        "diagnosis.html",
        dataset=dataset,
        found=found,
        counts={
            "training images": found.seen.trained,
            "good test images": int((~found.seen.train & found.seen.good).sum()),
            "defective test images": int((~found.seen.good).sum()),
            "checks": len([check for check in found.checks if not check.skipped]),
        },
        shown=_SHOWN,
        thumbnails=_thumbnails(found),
        portraits=_portraits(found),
        checks=[_check(check) for check in found.checks],
    )


def _thumbnails(found: Examination) -> dict[str, bytes]:
    """JPEG files, by name, of the shown images that can be read; as the backbone sees them."""
    entries = {look.entry.name: look.entry for look in found.seen.looks}
    shown = [image for finding in found.findings for image in finding.images[:_SHOWN]]
    names = {image.name for image in shown} | {image.beside for image in shown if image.beside is not None}
    made: dict[str, bytes] = {}
    for name in names & entries.keys():
        try:
            made[name] = thumbnail(found.seen.preprocessing.seen(read(entries[name]).picture).pixels, _SIDE)
        except UnreadableImage:
            continue
    return made


def _portraits(found: Examination) -> dict[str, bytes]:
    """All training images in one picture, three ways; PNG files by what they show."""
    summary = found.seen.summary
    spread = summary.spread / max(float(summary.spread.max()), 1.0)
    variation = found.seen.coarse[: found.seen.trained].float().var(dim=0, correction=0).sum(dim=0).numpy()
    # coloured from the median of all places upwards; cyan encloses the tenth that vary most
    above: NDArray[np.float32] = np.maximum(variation - np.median(variation), 0).astype(np.float32)
    ceiling = max(float(np.quantile(above, 0.9)), 1e-9)
    return {
        "mean image": png(summary.mean),
        "spread of pixels, bright is much": png(np.rint(spread * 255).astype(np.uint8)),
        "where features vary most": heatmap_png(Picture(summary.mean, ""), above, ceiling),
    }


def _check(check: Check) -> Row:
    outcome = "found" if check.problems else "skipped" if check.skipped else "noted" if check.findings else "fine"
    figures = []
    for name, value in check.figures.items():
        if isinstance(value, float):
            # counts and sums of squares read better whole than in powers of ten
            words = significant(value) if abs(value) < 1e5 else f"{value:.2f}".rstrip("0").rstrip(".")
        else:
            words = "–" if value is None else str(value)
        figures.append(f"{name.replace('_', ' ')} {words}")
    cells = (
        Cell(outcome, class_=_MARKS.get(outcome, "mark-reported")),
        Cell(check.skipped or ", ".join(figures), class_="words"),
    )
    return Row(check.name, cells, check.question)
