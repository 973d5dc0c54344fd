"""The page of the data checks: what was found, with pictures; one HTML file that needs nothing but itself."""

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowgauge.datachecks.examine import Examination
from flowgauge.datachecks.image_statistics import Summary
from flowgauge.datachecks.issue import Check, Figure, Finding, Level, Named
from flowgauge.domain.errors import UnreadableImage
from flowgauge.domain.object_keys import spelled
from flowgauge.evaluation.datasets import Entry, read
from flowgauge.reports.frame import page, ruler
from flowgauge.reports.markup import Markup, header_row, join, number, scrollable, tag
from flowgauge.reports.pages import data_uri
from flowgauge.reports.wording import plural, significant
from flowgauge.vision.decoding import Picture
from flowgauge.vision.heatmaps import heatmap_png
from flowgauge.vision.preprocessing import Preprocessing

_SHOWN = 12
_SIDE = 224

Thumbnail = Callable[[str], bytes | None]


def write_diagnosis(dataset: str, found: Examination, path: Path) -> None:
    path.write_text(spelled(render(dataset, found)), encoding="utf-8")


def render(dataset: str, found: Examination) -> str:
    """The whole page. Images are read again for their thumbnails, and those that cannot be are named alone."""
    entries = {look.entry.name: look.entry for look in found.seen.looks}

    def thumbnail(name: str) -> bytes | None:
        return _thumbnail(entries.get(name), found.seen.preprocessing)

    sections = (
        _header(dataset, found),
        tag("section", *(_finding(finding, thumbnail) for finding in found.findings)) if found.findings else None,
        _portraits(found),
        _checks(found.checks),
    )
    return page(f"Flowgauge data checks: {dataset}", tag("main", *sections))


def _header(dataset: str, found: Examination) -> Markup:
    seen, problems = found.seen, len(found.problems)
    words = f"{plural(problems, 'problem')} found" if problems else "No problem found"
    counts = (
        ("training images", seen.trained),
        ("good test images", int((~seen.train & seen.good).sum())),
        ("defective test images", int((~seen.good).sum())),
        ("checks", len([check for check in found.checks if not check.skipped])),
    )
    figures = (tag("div", tag("dt", name), tag("dd", f"{value:,}")) for name, value in counts)
    return tag(
        "header",
        ruler(),
        tag("p", tag("strong", "Flowgauge"), f" data checks: {dataset}", class_="overline"),
        tag("h1", words),
        tag("dl", *figures, class_="key"),
    )


def _finding(finding: Finding, thumbnail: Thumbnail) -> Markup:
    left_out = len(finding.images) - _SHOWN
    more = tag("p", f"And {left_out:,} more, named in the JSON.", class_="more") if left_out > 0 else None
    pictures = tag("ul", *(_named(image, thumbnail) for image in finding.images[:_SHOWN]), class_="grid named")
    return tag(
        "article",
        tag("h2", finding.title, tag("small", "a note", class_="note") if finding.level is Level.NOTE else None),
        tag("p", finding.seen, class_="seen"),
        tag("p", tag("strong", "Why it matters. "), finding.why),
        tag("p", tag("strong", "What to do. "), finding.remedy),
        pictures if finding.images else None,
        more,
        class_="finding",
    )


def _named(image: Named, thumbnail: Thumbnail) -> Markup:
    names = [image.name] if image.beside is None else [image.beside, image.name]
    shown = tag("div", *(_picture(name, thumbnail) for name in names), class_="pair" if len(names) > 1 else None)
    words = join(*(tag("code", name) for name in names), tag("span", image.words))
    return tag("li", tag("figure", shown, tag("figcaption", words)), title=" and ".join(names))


def _picture(name: str, thumbnail: Thumbnail) -> Markup:
    picture = thumbnail(name)
    if picture is None:
        return tag("span", "unreadable", class_="absent")
    return tag("img", src=data_uri(picture), alt=name, loading="lazy")


def _thumbnail(entry: Entry | None, preprocessing: Preprocessing) -> bytes | None:
    if entry is None:
        return None
    try:
        image = Image.fromarray(preprocessing.seen(read(entry).picture).pixels)
    except UnreadableImage:
        return None
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _portraits(found: Examination) -> Markup:
    lead = (
        "All training images in one: their mean, how far pixels spread around it, and where the features vary most. "
        "Sharp means show that parts lie alike; a spread with the outline of a part shows that they do not."
    )
    variation = found.seen.coarse[: found.seen.trained].float().var(dim=0, correction=0).sum(dim=0).numpy()
    summary = found.seen.summary
    pictures = (
        ("mean image", _png(summary.mean)),
        ("spread of pixels, bright is much", _spread(summary)),
        ("where features vary most", _over_mean(summary, variation)),
    )
    shown = (
        tag("li", tag("figure", tag("img", src=data_uri(png), alt=words), tag("figcaption", words)))
        for words, png in pictures
    )
    return tag(
        "section",
        tag("h2", "Silhouette and variance"),
        tag("p", lead, class_="lead"),
        tag("ul", *shown, class_="grid portraits"),
    )


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _spread(summary: Summary) -> bytes:
    full = max(float(summary.spread.max()), 1.0)
    return _png(np.rint(summary.spread / full * 255).astype(np.uint8))


def _over_mean(summary: Summary, variation: NDArray[np.float32]) -> bytes:
    """Coloured from the median of all places upwards; cyan encloses the tenth that vary most."""
    above = np.maximum(variation - np.median(variation), 0)
    ceiling = max(float(np.quantile(above, 0.9)), 1e-9)
    return heatmap_png(Picture(summary.mean, ""), above.astype(np.float32), ceiling)


def _checks(checks: tuple[Check, ...]) -> Markup:
    body = tag("tbody", *(_check(check) for check in checks))
    table = tag("table", header_row("check", "outcome", "figures"), body, class_="gauges checks")
    return tag("section", tag("h2", "All checks"), scrollable("Checks", table))


def _check(check: Check) -> Markup:
    outcome = "found" if check.problems else "skipped" if check.skipped else "noted" if check.findings else "fine"
    figures = check.skipped or ", ".join(_figures(check.figures))
    marks = {"found": "mark-refused", "fine": "mark-passed"}
    return tag(
        "tr",
        tag("th", check.name, tag("small", check.question), scope="row"),
        tag("td", outcome, class_=marks.get(outcome, "mark-reported")),
        tag("td", figures, class_="words"),
    )


def _figures(figures: Mapping[str, Figure]) -> list[str]:
    return [f"{name.replace('_', ' ')} {_value(value)}" for name, value in figures.items()]


def _value(value: Figure) -> str:
    if isinstance(value, float):
        return significant(value) if abs(value) < 1e5 else number(value)
    return "–" if value is None else str(value)
