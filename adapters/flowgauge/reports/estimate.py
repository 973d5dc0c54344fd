"""The report of an estimate: what false alarms and misses a factory should expect, and how sure that is."""

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter

from flowgauge.evaluation.choices import Choice
from flowgauge.evaluation.estimate import EstimateReport, Figure, Origin, standardised_scores
from flowgauge.reports import pages
from flowgauge.reports.charts import COLOURS, chart
from flowgauge.reports.pages import Cell, Row, Words
from flowgauge.reports.wording import percent, significant

_SHOWN_DUPLICATES = 40  # groups; more make the page too long to read, and the JSON has all
_BINS = 60  # of the histograms: fewer hide a second hump, more are noise with some hundred images

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
_FIGURES: tuple[tuple[str, str, Words], ...] = (
    ("false_alarm_share", "false alarms, of good parts", percent),
    ("miss_share", "misses, of defects", percent),
    ("recall", "recall", percent),
    ("balanced_accuracy", "balanced accuracy", percent),
    ("precision", "precision, as among equally many of both", percent),
    ("f1", "F1, as among equally many of both", percent),
    ("cost_per_1000", "cost of 1,000 parts", significant),
    ("image_auroc", "image AUROC", lambda value: f"{value:.3f}"),
)
_FLATTERED = ("false_alarm_share", "miss_share", "balanced_accuracy", "image_auroc")


def render_estimate(estimate_report: EstimateReport) -> str:
    """The whole page. The same estimate gives the same bytes."""
    found, apart = estimate_report.estimate, estimate_report.duplicates_apart
    rows, flattery = [], []
    for key, name, words in _FIGURES:
        figure = getattr(found, key)
        texts = (words(figure.mean), words(figure.spread), *(_between(figure, words, end) for end in ("", "plain_")))
        rows.append(Row(name, [Cell(text) for text in texts]))
        if apart is not None and key in _FLATTERED:
            other = getattr(apart, key).mean
            sign = "+" if other >= figure.mean else "−"
            texts = (words(figure.mean), words(other), f"{sign}{words(abs(other - figure.mean))}")
            flattery.append(Row(name, [Cell(text) for text in texts]))
    return pages.rendered(
        "estimate.html",
        report=estimate_report,
        found=found,
        between={key: _between(getattr(found, key), words) for key, _, words in _FIGURES},
        choice=_CHOICES[estimate_report.chooser.choice],
        origin=_ORIGINS[estimate_report.origin],
        rows=rows,
        flattery=flattery,
        duplicates=estimate_report.near_duplicates[:_SHOWN_DUPLICATES],
        scores=scores_chart(estimate_report),
        thresholds=thresholds_chart(estimate_report),
        repeats=repeats_chart(estimate_report),
    )


def _between(figure: Figure, words: Words, kind: str = "") -> str:
    """The ends of the interval; of that of a plain t test where `kind` is `plain_`."""
    return " to ".join(words(end) for end in getattr(figure, f"{kind}interval"))


def scores_chart(estimate_report: EstimateReport) -> Markup:
    """Histograms of both kinds, each of area one; the few scores beyond the picture stand at its rim."""
    good, defect = standardised_scores(estimate_report.repeats)
    thresholds = [repeat.standardised(repeat.threshold) for repeat in estimate_report.repeats]
    # defects may score a thousand deviations: their last twentieth would press all that decides into one column
    low = min(float(np.quantile(good, 0.005)), *thresholds)
    high = max(float(np.quantile(defect, 0.95)), float(np.quantile(good, 0.995)), *thresholds)
    edges = np.linspace(low, high, _BINS + 1)
    label = "distribution of the scores of good images and of defects, with the thresholds"
    with chart(1080, 300, label) as drawn:
        axes = drawn.figure.subplots()
        axes.axvspan(min(thresholds), max(thresholds), color=COLOURS["band"])
        for scores, kind in ((good, "good"), (defect, "defect")):
            shares = np.histogram(np.clip(scores, low, high), edges)[0] / len(scores)
            hill = axes.stairs(shares, edges, fill=True, color=COLOURS[kind], alpha=0.3)
            drawn.mark(hill, f"hill {kind}")
            axes.stairs(shares, edges, color=COLOURS[kind], linewidth=1.2)
        for threshold in thresholds:
            axes.axvline(threshold, 0, 0.06, color=COLOURS["ink"], linewidth=1.6)
        axes.set(xlim=(low, high), ylim=(0, None), yticks=[], xlabel="deviations from the median good score")
        axes.grid(axis="x")
    return drawn.markup


def thresholds_chart(estimate_report: EstimateReport) -> Markup:
    """Each repeat's threshold, on the scale of its detector's good scores."""
    values = [repeat.standardised(repeat.threshold) for repeat in estimate_report.repeats]
    name = "threshold, in deviations from the median good score"
    with chart(480, 250, name) as drawn:
        axes = drawn.figure.subplots()
        drawn.figure.suptitle(name, x=0, ha="left")
        (dots,) = axes.plot(values, "o", markersize=9, color=COLOURS["ink"], markeredgewidth=0)
        drawn.mark(dots, "on", *(f"repeat {n}: {significant(value)}" for n, value in enumerate(values, start=1)))
        axes.set(xlim=(-0.5, len(values) - 0.5), ylim=(min(0.0, *values), max(values) * 1.1 or 1.0))
        axes.set(xticks=[], xlabel="repeats")
    return drawn.markup


def repeats_chart(estimate_report: EstimateReport) -> Markup:
    """Each repeat's false alarms and misses, and the intervals of their means."""
    repeats, found = estimate_report.repeats, estimate_report.estimate
    name = "false alarms (blue) and misses (orange); at the right, the intervals of their means"
    with chart(480, 250, name) as drawn:
        axes = drawn.figure.subplots()
        drawn.figure.suptitle(name, x=0, ha="left", fontsize=10)
        most = 0.0
        for number, (kind, figure, shares, colour) in enumerate(
            (
                ("false alarms", found.false_alarm_share, [each.false_alarm_share for each in repeats], "good"),
                ("misses", found.miss_share, [each.miss_share for each in repeats], "defect"),
            )
        ):
            (dots,) = axes.plot(shares, "o", markersize=9, color=COLOURS[colour], markeredgewidth=0)
            words = (f"repeat {n}: {percent(share)} {kind}" for n, share in enumerate(shares, start=1))
            drawn.mark(dots, f"series-{number}", *words)
            low, high = figure.interval
            # beside the last repeat, clear of its dots and of the other interval
            x = len(repeats) - 0.5 + (0.03 + 0.03 * number) * len(repeats)
            reach = [[figure.mean - low], [high - figure.mean]]
            bar = axes.errorbar(
                x, figure.mean, reach, fmt="_", markersize=10, markeredgewidth=2.4, elinewidth=3, color=COLOURS[colour]
            )
            interval = f"{percent(figure.mean)} on average, {percent(low)} to {percent(high)}"
            drawn.mark(bar.lines[2][0], "interval", interval)
            most = max(most, high, *shares)
        axes.set(xlim=(-0.5, len(repeats) * 1.08 - 0.5), ylim=(0, most * 1.08 or 1.0), xticks=[], xlabel="repeats")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))
    return drawn.markup
