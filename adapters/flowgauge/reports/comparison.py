"""The report of a comparison of detectors: one HTML file that needs nothing but itself, neither network nor script."""

from base64 import b64decode
from collections.abc import Callable, Sequence
from pathlib import Path

from flowgauge.domain.object_keys import spelled
from flowgauge.evaluation.comparison import Contender, Ranking, Shown, Spread, standings
from flowgauge.reports.frame import key_figure, page, ruler, section
from flowgauge.reports.markup import Markup, header_row, scrollable, tag
from flowgauge.reports.pages import data_uri
from flowgauge.reports.roc import roc_chart
from flowgauge.reports.wording import auroc, percent, plural, significant


def write_comparison(dataset: str, entrants: Sequence[Contender], path: Path) -> None:
    path.write_text(spelled(render_comparison(dataset, entrants)), encoding="utf-8")


def render_comparison(dataset: str, entrants: Sequence[Contender]) -> str:
    """The whole page. The same entrants give the same bytes."""
    found = standings(entrants)
    main = tag(
        "main",
        _header(dataset, found, entrants),
        _figures(found),
        _classes(found),
        _roc(found, entrants),
        _shown_images(found, entrants),
    )
    return page(f"Flowgauge: detectors on {dataset}", main)


def _header(dataset: str, found: Sequence[Ranking], entrants: Sequence[Contender]) -> Markup:
    best, run = found[0], entrants[0].run
    seeds = len({contender.seed for contender in entrants})
    return tag(
        "header",
        ruler(),
        tag("p", tag("strong", "Flowgauge"), f"detectors on {dataset}", class_="overline"),
        tag("h1", f"{plural(len(found), 'detector')} on the same images: {best.detector} ranks them best."),
        tag(
            "dl",
            key_figure("good images that trained", f"{run.fitted_images:,}", "of the first run"),
            key_figure("good test images", f"{run.good_images:,}", "of the first run"),
            key_figure("defects", f"{run.defective_images:,}", f"of {len(run.per_class)} kinds"),
            key_figure("seeds", str(seeds), "figures are their means"),
            class_="key",
        ),
    )


_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("image_auroc", "image AUROC", auroc),
    ("pixel_auroc", "pixel AUROC", auroc),
    ("aupro", "AUPRO", auroc),
    ("miss_share", "misses", percent),
    ("false_alarm_share", "false alarms", percent),
    ("fit_seconds", "fit, s", lambda value: f"{value:,.0f}"),
    ("images_per_second", "images/s", lambda value: significant(value, 2)),
    ("peak_mib", "memory, MiB", lambda value: f"{value:,.0f}"),
    ("snapshot_mib", "snapshot, MiB", lambda value: f"{value:.1f}"),
)


def _figures(found: Sequence[Ranking]) -> Markup:
    lead = (
        "Means over seeds, with the deviation between them. Misses and false alarms are those at each detector’s own "
        "threshold, which it set on good images alone. Memory is the most that fitting and judging held, libraries and "
        "images included; every detector ran in a process of its own."
    )
    rows = (_row(ranking) for ranking in found)
    head = header_row("", *(name for _, name, _ in _COLUMNS))
    return section("Figures", lead, scrollable("Figures", tag("table", head, tag("tbody", *rows))))


def _row(ranking: Ranking) -> Markup:
    cells = (_cell(getattr(ranking, key), words) for key, _, words in _COLUMNS)
    return tag("tr", tag("th", ranking.detector, scope="row"), *cells)


def _cell(spread: Spread | None, words: Callable[[float], str]) -> Markup:
    if spread is None:
        return tag("td", "–")
    deviation = None if spread.deviation is None else f"± {words(spread.deviation)}"
    return tag("td", words(spread.mean), deviation and tag("small", f" {deviation}"))


def _classes(found: Sequence[Ranking]) -> Markup:
    kinds = sorted({kind for ranking in found for kind in ranking.classes})
    lead = "Image AUROC of each class of defects against all good test images: what a line fears most decides."
    rows = (
        tag("tr", tag("th", s.detector, scope="row"), *(_cell(s.classes.get(kind), auroc) for kind in kinds))
        for s in found
    )
    table = tag("table", header_row("", *kinds), tag("tbody", *rows))
    return section("Class by class", lead, scrollable("Class by class", table))


def _first(found: Sequence[Ranking], entrants: Sequence[Contender]) -> list[Contender]:
    """Those of the lowest seed, in the order of the standings."""
    seed = min(contender.seed for contender in entrants)
    of = {contender.detector: contender for contender in entrants if contender.seed == seed}
    return [of[ranking.detector] for ranking in found if ranking.detector in of]


def _roc(found: Sequence[Ranking], entrants: Sequence[Contender]) -> Markup:
    first = _first(found, entrants)
    lead = (
        f"Of seed {first[0].seed}. Every threshold is one point of a curve: how many defects it catches, and what "
        "share of good images alarms for that. A line that must not stop lives at the left rim."
    )
    return section("ROC curves", lead, tag("figure", scrollable("ROC curves", roc_chart(first))))


def _shown_images(found: Sequence[Ranking], entrants: Sequence[Contender]) -> Markup | None:
    first = [contender for contender in _first(found, entrants) if contender.shown_images]
    if not first:
        return None
    lead = (
        "The same images under every detector. What lies above a detector’s own level for maps is bright and outlined "
        "in cyan; good images should stay dark."
    )
    shown = first[0].shown_images
    head = tag("tr", tag("th", ""), *(tag("th", tag("span", image.kind, class_=_truth(image))) for image in shown))
    rows = [tag("tr", tag("th", "image", scope="row"), *(_picture(image.picture, image.name) for image in shown))]
    rows += [_heatmaps(contender, shown) for contender in first]
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="gallery")
    return section("Wall of heatmaps", lead, scrollable("Wall of heatmaps", table))


def _truth(image: Shown) -> str:
    return "truth good" if image.kind == "good" else "truth defect"


def _heatmaps(contender: Contender, shown: Sequence[Shown]) -> Markup:
    by_name = {image.name: image for image in contender.shown_images}
    cells = (
        _picture(by_name[image.name].heatmap, f"{contender.detector} on {image.name}")
        if image.name in by_name
        else tag("td")
        for image in shown
    )
    return tag("tr", tag("th", contender.detector, scope="row"), *cells)


def _picture(jpeg: str, words: str) -> Markup:
    return tag("td", tag("img", src=data_uri(b64decode(jpeg)), alt=words, title=words, loading="lazy"))
