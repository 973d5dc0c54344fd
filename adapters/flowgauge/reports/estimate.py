"""The report of an estimate: one HTML file that needs nothing but itself, neither network nor script."""

from collections.abc import Callable
from pathlib import Path

from flowgauge.evaluation.choices import Choice
from flowgauge.evaluation.estimate import Figure
from flowgauge.evaluation.estimate_report import Forecast, Origin
from flowgauge.evaluation.intervals import Share
from flowgauge.evaluation.parts import Twins
from flowgauge.reports.frame import key_figure, page, ruler, section
from flowgauge.reports.markup import Markup, header_row, scrollable, tag
from flowgauge.reports.replicates import repeats_chart, scores_chart, threshold_chart
from flowgauge.reports.wording import percent, plural, significant

_SHOWN_TWINS = 40  # groups; the JSON has all

_CHOICES = {
    Choice.YOUDEN: "by Youden’s index",
    Choice.COST: "by the least expected cost",
    Choice.BUDGET: "within a budget of false alarms",
    Choice.OWN: "by the gauge’s own rule",
}
_ORIGINS = {
    Origin.FILE: "Images of one part, as a file of groups has them, are never on two sides.",
    Origin.NAMES: "Images of one part, by their names, are never on two sides.",
    Origin.TWINS: "Nobody said which images show one part; near twins were found and are never on two sides.",
    Origin.IMAGES: "Every image counts as a part of its own: no near twins were found.",
}


def write_estimate(forecast: Forecast, path: Path) -> None:
    path.write_text(render_estimate(forecast), encoding="utf-8")


def render_estimate(forecast: Forecast) -> str:
    """The whole page. The same forecast gives the same bytes."""
    sections = (_header, _figures, _distributions, _stability, _twins, _meaning)
    main = tag("main", *(part(forecast) for part in sections))
    return page(f"Flowgauge: what the factory will see of {forecast.dataset}", main)


def _header(forecast: Forecast) -> Markup:
    overline = tag("p", tag("strong", "Flowgauge"), f"estimate of {forecast.dataset}", class_="overline")
    found = forecast.estimate
    return tag(
        "header",
        ruler(),
        overline,
        tag("h1", forecast.promise),
        tag(
            "dl",
            key_figure(
                "false alarms", percent(found.false_alarm_share.mean), _between(found.false_alarm_share, percent)
            ),
            key_figure("misses", percent(found.miss_share.mean), _between(found.miss_share, percent)),
            key_figure("cost of 1,000 parts", significant(found.cost_per_1000.mean), _between(found.cost_per_1000)),
            key_figure("good images", f"{forecast.good_images:,}", _judged(found.false_alarms)),
            key_figure("defects", f"{forecast.defective_images:,}", _judged(found.misses)),
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


def _figures(forecast: Forecast) -> Markup:
    first = forecast.repeats[0]
    lead = (
        f"{plural(len(forecast.repeats), 'time')}, half of the defects and as many good images chose the threshold "
        f"{_CHOICES[forecast.chooser.choice]}; the other half ({len(first.defect)} defects, {len(first.good)} good) "
        f"judged a {forecast.detector} that {first.train_images} other good images had taught. "
        f"{_ORIGINS[forecast.origin]}"
    )
    head = header_row("", "mean", "spread over repeats", "95 % interval", "a plain t interval would claim")
    rows = (_row(name, getattr(forecast.estimate, key), words) for key, name, words in _NAMES)
    table = scrollable("All figures", tag("table", head, tag("tbody", *rows)))
    return section("What to expect", lead, table, tag("p", _costs(forecast), class_="more"))


def _row(name: str, figure: Figure, words: Callable[[float], str]) -> Markup:
    plain = " to ".join(words(end) for end in figure.plain_interval)
    cells = (words(figure.mean), words(figure.spread), _between(figure, words), plain)
    return tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells))


def _costs(forecast: Forecast) -> str:
    costs = forecast.chooser.costs
    return (
        f"Costs assume that {percent(costs.prevalence)} of the line’s parts are defective, that a miss costs "
        f"{costs.miss:g} and a false alarm {costs.false_alarm:g}."
    )


def _distributions(forecast: Forecast) -> Markup:
    lead = (
        "Scores of all images while they judged, in deviations from the median of good ones, so that repeats compare. "
        "Where the two hills overlap, no threshold tells them apart; the last column holds all scores beyond. "
        "Ticks below are the repeats’ thresholds, the band is where they lay."
    )
    key = tag(
        "p", tag("span", "good", class_="truth good"), tag("span", "defect", class_="truth defect"), class_="chart-key"
    )
    return section("The scores", lead, tag("figure", key, scrollable("Scores", scores_chart(forecast.repeats))))


def _stability(forecast: Forecast) -> Markup:
    threshold = forecast.estimate.threshold
    lead = (
        f"Chosen anew in each repeat, the threshold lay at {significant(threshold.mean)} deviations on average and "
        f"moved by {significant(threshold.spread)}. One gauge has one threshold, so it may do as well or as badly as "
        "any one repeat; where they lie far apart, more defects would choose better."
    )
    charts = tag("div", threshold_chart(forecast.repeats), repeats_chart(forecast), class_="pair-of-charts")
    return section("Repeat by repeat", lead, tag("figure", charts))


def _twins(forecast: Forecast) -> Markup | None:
    apart = forecast.twins_apart
    if apart is None:
        return None
    lead = (
        "Images so alike, by the backbone’s features, that they probably show one part. "
        "On both sides of a split they flatter: the detector has seen what it judges."
    )
    head = header_row("", "twins kept together", "twins torn apart", "flattery")
    rows = (
        _flattery(name, getattr(forecast.estimate, key), getattr(apart, key), words)
        for key, name, words in _NAMES
        if key in {"false_alarm_share", "miss_share", "balanced_accuracy", "image_auroc"}
    )
    table = scrollable("What twins flatter", tag("table", head, tag("tbody", *rows)))
    return section("Near twins", lead, table, *_groups_of_twins(forecast.twins))


def _flattery(name: str, together: Figure, apart: Figure, words: Callable[[float], str]) -> Markup:
    difference = apart.mean - together.mean
    cells = (words(together.mean), words(apart.mean), f"{'+' if difference >= 0 else '−'}{words(abs(difference))}")
    return tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells))


def _groups_of_twins(twins: tuple[Twins, ...]) -> list[Markup]:
    items = [tag("li", tag("code", ", ".join(group.names)), _where(group)) for group in twins[:_SHOWN_TWINS]]
    more = len(twins) - len(items)
    across = sum(group.across for group in twins)
    summary = tag("summary", f"{plural(len(twins), 'group')}, {across} of them in both train and test")
    rest = tag("p", f"And {plural(more, 'group')} more, in the JSON.", class_="more") if more > 0 else Markup("")
    return [tag("details", summary, tag("ul", *items), rest)]


def _where(group: Twins) -> str:
    side = "; in both train and test" if group.across else ""
    return f" (distance {group.distance:.2f} of the median{side})"


def _meaning(forecast: Forecast) -> Markup:
    lead = (
        "The intervals are for the mean over the repeats’ detectors and thresholds, on parts never seen from the same "
        "line in the same state; drift is another matter. A plain t interval takes the repeats for independent "
        "experiments. They are not: they draw from the same images, so their errors hang together, and more repeats "
        "would shrink that interval without telling anything new. Where thresholds move much it may be the wider one, "
        "for it takes that for an error too. Ours count the images and parts that judged, with Nadeau and Bengio’s "
        "correction for the overlap. “Worth” is how many independent images would tell as much."
    )
    return tag("footer", tag("h2", "How to read it"), tag("p", lead), tag("p", f"Made by {forecast.software}."))
