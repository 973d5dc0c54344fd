"""The report of an estimate: one HTML file that needs nothing but itself, neither network nor script."""

from collections.abc import Callable
from pathlib import Path

from flowgauge.domain.object_keys import spelled
from flowgauge.evaluation.choices import Choice
from flowgauge.evaluation.estimate import EstimateReport, Figure, Origin
from flowgauge.evaluation.intervals import Share
from flowgauge.evaluation.near_duplicates import NearDuplicates
from flowgauge.reports.frame import key_figure, page, ruler, section
from flowgauge.reports.markup import Markup, header_row, scrollable, tag
from flowgauge.reports.replicates import repeats_chart, scores_chart, threshold_chart
from flowgauge.reports.wording import percent, plural, significant

_SHOWN_DUPLICATES = 40  # groups; the JSON has all

_CHOICES = {
    Choice.YOUDEN: "by Youden’s index",
    Choice.COST: "by the least expected cost",
    Choice.BUDGET: "within a budget of false alarms",
    Choice.OWN: "by the gauge’s own rule",
}
_ORIGINS = {
    Origin.FILE: "Images of one part, as a file of groups has them, are never on two sides.",
    Origin.NAMES: "Images of one part, by their names, are never on two sides.",
    Origin.NEAR_DUPLICATES: "Nobody said which images show one part; near duplicates found are never on two sides.",
    Origin.IMAGES: "Every image counts as a part of its own: no near duplicates were found.",
}


def write_estimate(estimate_report: EstimateReport, path: Path) -> None:
    path.write_text(spelled(render_estimate(estimate_report)), encoding="utf-8")


def render_estimate(estimate_report: EstimateReport) -> str:
    """The whole page. The same forecast gives the same bytes."""
    sections = (_header, _figures, _distributions, _stability, _near_duplicates, _meaning)
    main = tag("main", *(part(estimate_report) for part in sections))
    return page(f"Flowgauge: what the factory will see of {estimate_report.dataset}", main)


def _header(estimate_report: EstimateReport) -> Markup:
    overline = tag("p", tag("strong", "Flowgauge"), f"estimate of {estimate_report.dataset}", class_="overline")
    found = estimate_report.estimate
    return tag(
        "header",
        ruler(),
        overline,
        tag("h1", estimate_report.promise),
        tag(
            "dl",
            key_figure(
                "false alarms", percent(found.false_alarm_share.mean), _between(found.false_alarm_share, percent)
            ),
            key_figure("misses", percent(found.miss_share.mean), _between(found.miss_share, percent)),
            key_figure("cost of 1,000 parts", significant(found.cost_per_1000.mean), _between(found.cost_per_1000)),
            key_figure("good images", f"{estimate_report.good_images:,}", _judged(found.false_alarms)),
            key_figure("defects", f"{estimate_report.defective_images:,}", _judged(found.misses)),
            class_="key",
        ),
    )


def _judged(share: Share) -> str:
    return f"{share.images:,} judged, of {plural(share.parts, 'part')}; worth {share.effective:.0f}"


def _between(figure: Figure, words: Callable[[float], str] = significant) -> str:
    low, high = figure.interval
    return f"{words(low)} to {words(high)}"


_NAMES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("false_alarm_share", "false alarms, of good parts", percent),
    ("miss_share", "misses, of defects", percent),
    ("recall", "recall", percent),
    ("balanced_accuracy", "balanced accuracy", percent),
    ("precision", "precision, as among equally many of both", percent),
    ("f1", "F1, as among equally many of both", percent),
    ("cost_per_1000", "cost of 1,000 parts", significant),
    ("image_auroc", "image AUROC", lambda value: f"{value:.3f}"),
)


def _figures(estimate_report: EstimateReport) -> Markup:
    first, times = estimate_report.repeats[0], plural(len(estimate_report.repeats), "time")
    lead = (
        f"{times}, half of the defects and as many good images chose the threshold "
        f"{_CHOICES[estimate_report.chooser.choice]}; the other half ({len(first.defect)} defects,"
        f" {len(first.good)} good) judged a {estimate_report.detector} that {first.train_images} other good images had"
        " trained. "
        f"{_ORIGINS[estimate_report.origin]}"
    )
    head = header_row("", "mean", "spread over repeats", "95 % interval", "a plain t interval would claim")
    rows = (_row(name, getattr(estimate_report.estimate, key), words) for key, name, words in _NAMES)
    table = scrollable("All figures", tag("table", head, tag("tbody", *rows)))
    return section("What to expect", lead, table, tag("p", _costs(estimate_report), class_="more"))


def _row(name: str, figure: Figure, words: Callable[[float], str]) -> Markup:
    plain = " to ".join(words(end) for end in figure.plain_interval)
    cells = (words(figure.mean), words(figure.spread), _between(figure, words), plain)
    return tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells))


def _costs(estimate_report: EstimateReport) -> str:
    costs = estimate_report.chooser.costs
    return (
        f"Costs assume that {percent(costs.prevalence)} of the line’s parts are defective, that a miss costs "
        f"{costs.miss:g} and a false alarm {costs.false_alarm:g}."
    )


def _distributions(estimate_report: EstimateReport) -> Markup:
    lead = (
        "Scores of all images while they judged, in deviations from the median of good ones, so that repeats compare. "
        "Where the two hills overlap, no threshold tells them apart; the last column holds all scores beyond. "
        "Ticks below are the repeats’ thresholds, the band is where they lay."
    )
    key = tag(
        "p", tag("span", "good", class_="truth good"), tag("span", "defect", class_="truth defect"), class_="chart-key"
    )
    return section("The scores", lead, tag("figure", key, scrollable("Scores", scores_chart(estimate_report.repeats))))


def _stability(estimate_report: EstimateReport) -> Markup:
    threshold = estimate_report.estimate.threshold
    lead = (
        f"Chosen anew in each repeat, the threshold lay at {significant(threshold.mean)} deviations on average and "
        f"moved by {significant(threshold.spread)}. One gauge has one threshold, so it may do as well or as badly as "
        "any one repeat; where they lie far apart, more defects would choose better."
    )
    charts = tag(
        "div", threshold_chart(estimate_report.repeats), repeats_chart(estimate_report), class_="pair-of-charts"
    )
    return section("Repeat by repeat", lead, tag("figure", charts))


def _near_duplicates(estimate_report: EstimateReport) -> Markup | None:
    apart = estimate_report.duplicates_apart
    if apart is None:
        return None
    lead = (
        "Images so alike, by the backbone’s features, that they probably show one part. "
        "On both sides of a split they flatter: the detector has seen what it judges."
    )
    head = header_row("", "near duplicates kept together", "near duplicates torn apart", "flattery")
    rows = (
        _flattery(name, getattr(estimate_report.estimate, key), getattr(apart, key), words)
        for key, name, words in _NAMES
        if key in {"false_alarm_share", "miss_share", "balanced_accuracy", "image_auroc"}
    )
    table = scrollable("What near duplicates flatter", tag("table", head, tag("tbody", *rows)))
    return section("Near duplicates", lead, table, *_duplicate_groups(estimate_report.near_duplicates))


def _flattery(name: str, together: Figure, apart: Figure, words: Callable[[float], str]) -> Markup:
    difference = apart.mean - together.mean
    cells = (words(together.mean), words(apart.mean), f"{'+' if difference >= 0 else '−'}{words(abs(difference))}")
    return tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells))


def _duplicate_groups(near_duplicates: tuple[NearDuplicates, ...]) -> list[Markup]:
    items = [
        tag("li", tag("code", ", ".join(group.names)), _where(group)) for group in near_duplicates[:_SHOWN_DUPLICATES]
    ]
    more = len(near_duplicates) - len(items)
    across = sum(group.across for group in near_duplicates)
    summary = tag("summary", f"{plural(len(near_duplicates), 'group')}, {across} of them in both train and test")
    rest = tag("p", f"And {plural(more, 'group')} more, in the JSON.", class_="more") if more > 0 else Markup("")
    return [tag("details", summary, tag("ul", *items), rest)]


def _where(group: NearDuplicates) -> str:
    side = "; in both train and test" if group.across else ""
    return f" (distance {group.distance:.2f} of the median{side})"


def _meaning(estimate_report: EstimateReport) -> Markup:
    lead = (
        "The intervals are for the mean over the repeats’ detectors and thresholds, on parts never seen from the same "
        "line in the same state; drift is another matter. A plain t interval takes the repeats for independent "
        "experiments. They are not: they draw from the same images, so their errors hang together, and more repeats "
        "would shrink that interval without telling anything new. Where thresholds move much it may be the wider one, "
        "for it takes that for an error too. Ours count the images and parts that judged, with Nadeau and Bengio’s "
        "correction for the overlap. “Worth” is how many independent images would tell as much."
    )
    return tag("footer", tag("h2", "How to read it"), tag("p", lead), tag("p", f"Made by {estimate_report.software}."))
