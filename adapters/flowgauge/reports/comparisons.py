"""Reports of detectors on the same images: a comparison on one data set, and a suite over several."""

from base64 import b64decode
from collections.abc import Callable, Sequence
from itertools import product
from math import ceil
from statistics import fmean
from typing import Any

from markupsafe import Markup
from matplotlib.lines import Line2D
from sklearn.metrics import roc_curve

from flowgauge.evaluation.comparison import FIGURES, Contender, Spread, standings
from flowgauge.evaluation.datasets import GOOD
from flowgauge.evaluation.intervals import binomial_interval
from flowgauge.evaluation.results import Run
from flowgauge.evaluation.suite import IMAGE_AUROC, SIGNIFICANCE, Figure, Ranking, SuiteResults, Summary, missed_at
from flowgauge.reports import pages
from flowgauge.reports.charts import COLOURS, chart, cover, look, plain
from flowgauge.reports.pages import Cell, Row, Words, spread_cell
from flowgauge.reports.wording import auroc, percent, plural, significant

# below it the Friedman test's chi-squared distribution is rough, and only large differences can be shown (Demšar)
_FEW_DATASETS = 10

_COMPARED: tuple[tuple[str, str, Words], ...] = (
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

_SUMMARY: tuple[tuple[str, Callable[[Summary], float | None], Words], ...] = (
    ("data sets", lambda s: s.datasets, lambda value: f"{value:.0f}"),
    ("image AUROC", lambda s: s.image_auroc, auroc),
    ("mean rank", lambda s: s.mean_rank, lambda value: f"{value:.2f}"),
    ("worst", lambda s: s.worst, auroc),
    ("pixel AUROC", lambda s: s.pixel_auroc, auroc),
    ("AUPRO", lambda s: s.aupro, auroc),
    ("misses at 5 %", lambda s: s.miss_share_at.get("0.05"), percent),
    ("fit, s", lambda s: s.fit_seconds, lambda value: significant(value, 2)),
    ("images/s", lambda s: s.images_per_second, lambda value: significant(value, 2)),
    ("snapshot, MiB", lambda s: s.snapshot_mib, lambda value: f"{value:.1f}"),
    ("memory, MiB", lambda s: s.peak_mib, lambda value: f"{value:,.0f}"),
)

_METRICS: tuple[tuple[str, str, Figure, Words, Callable[[list[float]], float]], ...] = (
    (
        "Image AUROC",
        "The chance that a defective image scores above a good one: mean over seeds ± their standard deviation. The "
        "best of each row is bold.",
        IMAGE_AUROC,
        auroc,
        max,
    ),
    (
        "Pixel AUROC",
        "The same of pixels; large regions count for most of it.",
        FIGURES["pixel_auroc"],
        auroc,
        max,
    ),
    (
        "AUPRO",
        "The overlap with each defective region, whatever its size, averaged over false-positive rates up to 0.3 "
        "(Bergmann et al., IJCV 2021).",
        FIGURES["aupro"],
        auroc,
        max,
    ),
    (
        "Misses at 5 % false alarms",
        "The share of defects that are missed when the threshold is set so that at most 5 % of the good test images "
        "exceed it. This compares detectors at equal false alarms; no line can have it, for the threshold is chosen "
        "on the test images. The JSON has 1 % and 10 % too.",
        missed_at("0.05"),
        percent,
        min,
    ),
)
"""Title, what it means, figure of a run, how it is written, and which of two is better."""


def render_comparison(dataset: str, entrants: Sequence[Contender]) -> str:
    """The whole page. The same entrants give the same bytes."""
    found = standings(entrants)
    kinds = sorted({kind for each in found for kind in each.classes})
    seed = min(contender.seed for contender in entrants)
    of_seed = {contender.detector: contender for contender in entrants if contender.seed == seed}
    first = [of_seed[each.detector] for each in found if each.detector in of_seed]
    return pages.rendered(
        "comparison.html",
        dataset=dataset,
        found=found,
        run=entrants[0].run,
        seeds=len({contender.seed for contender in entrants}),
        columns=[name for _, name, _ in _COMPARED],
        figures=[
            Row(each.detector, [spread_cell(getattr(each, key), words) for key, _, words in _COMPARED])
            for each in found
        ],
        kinds=kinds,
        classes=[Row(each.detector, [spread_cell(each.classes.get(kind), auroc) for kind in kinds]) for each in found],
        seed=seed,
        roc=roc_chart(first),
        gallery=[
            (each.detector, {image.name: b64decode(image.heatmap) for image in each.shown_images})
            for each in first
            if each.shown_images
        ],
        shown=[
            (image.name, image.kind, b64decode(image.picture))
            for image in next((each.shown_images for each in first if each.shown_images), ())
        ],
    )


def roc(run: Run) -> list[tuple[float, float]]:
    """(false alarms, catches), shares in [0, 1], from none to all; images of equal scores are one step."""
    defective = [image.kind != GOOD for image in run.images]
    alarms, catches, _ = roc_curve(defective, [image.score for image in run.images], drop_intermediate=False)
    return list(zip(alarms.tolist(), catches.tolist(), strict=True))


def roc_chart(entrants: Sequence[Contender]) -> Markup:
    """One curve each, labelled in the order given. Test images of both kinds are needed."""
    label = "share of defects caught against the share of good images that alarm, for each detector"
    with chart(760, 470, label) as drawn:
        axes = drawn.figure.subplots()
        axes.set(xlim=(-0.005, 1.005), ylim=(-0.005, 1.005), xlabel="good images that alarm", box_aspect=1, anchor="W")
        axes.set_title("defects caught", fontsize=11, fontweight="normal", color=COLOURS["soft"])
        axes.grid(axis="x")
        axes.plot([0, 1], [0, 1], color=COLOURS["hair"], linewidth=1)
        for rank, contender in enumerate(entrants):
            name = f"{contender.detector} {auroc(contender.run.image_auroc)}"
            (curve,) = axes.plot(*zip(*roc(contender.run), strict=True), label=name, **look(rank))
            drawn.mark(curve, "curve")
        axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1), labelspacing=0.7)
    return drawn.markup


def render_suite(found: SuiteResults) -> str:
    """The whole page. The same results give the same bytes."""
    summaries = [
        Row(
            summary.detector,
            [Cell("–" if (value := of(summary)) is None else words(value)) for _, of, words in _SUMMARY],
            f"worst on {summary.worst_dataset}" if summary.worst_dataset else "",
        )
        for summary in found.summaries
    ]
    return pages.rendered(
        "suite.html",
        found=found,
        best=found.summaries[0],
        seeds=sorted({run.seed for run in found.runs}),
        columns=[name for name, _, _ in _SUMMARY],
        summaries=summaries,
        significance=f"{SIGNIFICANCE:g}",
        diagram=found.ranking and critical_difference_diagram(found.ranking),
        sentences=found.ranking and ranking_sentences(found.ranking),
        metrics=[
            (title, lead, _by_dataset(found, figure, words, best)) for title, lead, figure, words, best in _METRICS
        ],
        own_thresholds=_own_thresholds(found),
        promises=_promises(found),
        few_shots=training_size_charts(found) if found.shots else None,
        conditions=_conditions(found),
    )


def ranking_sentences(ranking: Ranking) -> list[str]:
    """What the ranks show, and what so few data sets cannot show."""
    count, detectors = len(ranking.datasets), len(ranking.mean_ranks)
    said = [f"Over {plural(count, 'data set')} that all {detectors} detectors have: {', '.join(ranking.datasets)}."]
    if ranking.friedman_p is not None:
        differs = ranking.friedman_p < SIGNIFICANCE
        verdict = "the detectors’ ranks differ" if differs else "a difference between the detectors is not established"
        said.append(f"Friedman test: p = {significant(ranking.friedman_p, 2)}, so {verdict}.")
    if not ranking.can_differ:
        said.append(
            f"The critical difference is {ranking.critical_difference:.2f} ranks and the largest possible one is "
            f"{detectors - 1}: on so few data sets no result could have shown that two detectors differ. Measure on "
            "more data sets, or compare fewer detectors."
        )
    elif count < _FEW_DATASETS:
        said.append(
            f"{plural(count, 'data set')} are few: only large differences can be shown, and a bar says that a "
            "difference was not found, not that there is none."
        )
    return said


def _by_dataset(found: SuiteResults, figure: Figure, words: Words, best: Callable[[list[float]], float]) -> list[Row]:
    """Data sets by detectors, and their means. All that read like the best of a row are bold."""
    rows: list[tuple[str, Sequence[Spread | None]]] = [
        (dataset, [found.spread(dataset, name, figure) for name in found.detectors]) for dataset in found.datasets
    ]
    if len(found.datasets) > 1:
        rows.append(("mean", [Spread.of([found.mean(name, figure)]) for name in found.detectors]))
    made = []
    for rank, (name, spreads) in enumerate(rows):
        means = [spread.mean for spread in spreads if spread is not None]
        bold = words(best(means)) if len(means) > 1 else None
        cells = [spread_cell(spread, words, bold) for spread in spreads]
        made.append(Row(name, cells, class_="mean" if rank == len(found.datasets) else ""))
    return made


def _own_thresholds(found: SuiteResults) -> list[Row]:
    """False alarms and misses at the threshold that each detector set on its training images."""
    rows = []
    for dataset in found.datasets:
        cells = []
        for detector in found.detectors:
            alarms = found.spread(dataset, detector, FIGURES["false_alarm_share"])
            misses = found.spread(dataset, detector, FIGURES["miss_share"])
            cells.append(Cell(" / ".join(percent(spread.mean if spread else None) for spread in (alarms, misses))))
        rows.append(Row(dataset, cells))
    return rows


def _promises(found: SuiteResults) -> list[Row]:
    """A row for each data set and promised rate of false alarms: what was observed, with its interval."""
    rates = sorted({rate for run in found.runs for rate in run.promised}, key=float)
    rows = []
    for dataset, rate in product(found.datasets, rates):
        cells = []
        for name in found.detectors:
            seeds = [run.promised[rate] for run in found.of(dataset, name) if rate in run.promised]
            if not sum(seed.good_images for seed in seeds):
                cells.append(Cell("–"))
                continue
            # means over seeds with the interval of one: seeds share test images, so more of them narrow no interval
            images, alarms = fmean(seed.good_images for seed in seeds), fmean(seed.false_alarms for seed in seeds)
            low, high = binomial_interval(alarms, images)
            class_ = "broken" if low > float(rate) else ""
            cells.append(Cell(percent(alarms / images), f"{percent(low)} to {percent(high)}", class_))
        rows.append(Row(dataset, cells, f"promised {100 * float(rate):g} %"))
    return rows


def _conditions(found: SuiteResults) -> list[Row]:
    """Counts of the first seed's fit to all training images."""
    rows = []
    for dataset in found.datasets:
        runs = [run for run in found.runs if run.dataset == dataset]
        run = min(runs, key=lambda each: (each.shots is not None, each.seed)).run
        counts = (run.fitted_images, run.good_images, run.defective_images, len(run.per_class))
        cells = ["–" if count is None else f"{count:,}" for count in (*counts, run.groups_on_both_sides)]
        rows.append(Row(dataset, [Cell(words) for words in cells]))
    return rows


def critical_difference_diagram(ranking: Ranking) -> Markup:
    """Mean ranks on an axis, and bars that join those that do not differ (Demšar, JMLR 2006).

    The best rank is at the left. Names of the better half stand left, those of the other half right.
    """
    ranks = list(ranking.mean_ranks.items())
    half = ceil(len(ranks) / 2)
    left, right, axis, gap = 200.0, 680.0, 62.0, 22.0
    first = axis + 24 + 9 * len(ranking.groups)
    width, height = 880.0, first + gap * (half - 1) + 16

    def across(rank: float) -> float:
        return left + (right - left) * min((rank - 1) / max(len(ranks) - 1, 1), 1)

    label = "mean ranks of the detectors; bars join those whose ranks do not differ significantly"
    with chart(width, height, label, constrained=False) as drawn:
        axes = drawn.figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        ink: dict[str, Any] = {"color": COLOURS["ink"], "linewidth": 1}
        # the ruler is as long as the critical difference, at most as long as the axis
        end = across(1 + ranking.critical_difference)
        axes.plot([left, end], [22, 22], **ink)
        for x in (left, end) if ranking.can_differ else (left,):
            axes.plot([x, x], [18, 26], **ink)
        beyond = "" if ranking.can_differ else ", longer than the axis"
        words = f"critical difference {ranking.critical_difference:.2f}{beyond}"
        axes.text(left, 13, words, fontsize=11, color=COLOURS["soft"])
        axes.plot([left, right], [axis, axis], **ink)
        for rank in range(1, len(ranks) + 1):
            axes.plot([across(rank)] * 2, [axis - 5, axis], **ink)
            axes.text(across(rank), axis - 9, str(rank), fontsize=11, color=COLOURS["soft"], ha="center")
        # in each half the rank nearest to its rim stands highest, so that no two lines cross
        for number, (name, mean) in enumerate(ranks):
            better = number < half
            y = first + gap * (number if better else len(ranks) - 1 - number)
            rim, beside, side = (left - 14, left - 20, "right") if better else (right + 14, right + 20, "left")
            axes.plot([across(mean)] * 2 + [rim], [axis, y, y], color=COLOURS["soft"], linewidth=1)
            words = f"{name}  {mean:.2f}" if better else f"{mean:.2f}  {name}"
            axes.text(beside, y, words, ha=side, va="center_baseline")
        for level, group in enumerate(ranking.groups):
            # a bar sticks out of the ranks that it joins, so that two equal ranks have one too
            ends = across(ranking.mean_ranks[group[0]]) - 5, across(ranking.mean_ranks[group[-1]]) + 5
            height = axis + 11 + 9 * level
            (bar,) = axes.plot(ends, [height] * 2, color=COLOURS["good"], linewidth=4, solid_capstyle="round")
            drawn.mark(bar, "rank-group")
    return drawn.markup


def training_size_charts(found: SuiteResults) -> list[Markup]:
    """Image AUROC against the number of good images that a detector was fitted to: first the key, then a chart of the
    means over the data sets that have all sizes, then one of each data set."""
    complete = found.with_all_sizes()
    parts = [(plain(name), [name]) for name in found.datasets]
    if len(complete) > 1:
        parts.insert(0, (f"mean of {len(complete)} data sets", complete))
    with chart(1000, 22 * ceil(len(found.detectors) / 5), "the line of each detector") as drawn:
        lines = [Line2D([], [], label=name, **look(rank)) for rank, name in enumerate(found.detectors)]
        drawn.figure.legend(handles=lines, ncols=5, loc="upper left", borderpad=0, borderaxespad=0)
    return [drawn.markup, *(training_size_chart(found, title, datasets) for title, datasets in parts)]


def training_size_chart(found: SuiteResults, title: str, datasets: Sequence[str]) -> Markup:
    """Means over `datasets`. Sizes stand equally far apart, all training images last; a detector has a point where
    all of the data sets have its fit."""
    sizes = (*found.shots, None)
    drawn_values: list[float] = []
    with chart(480, 260, f"image AUROC against the number of training images: {title}") as drawn:
        axes = drawn.figure.subplots()
        drawn.figure.suptitle(title, x=0, ha="left", fontsize=13)
        for rank, detector in enumerate(found.detectors):
            points = []
            for x, size in enumerate(sizes):
                spreads = [found.spread(dataset, detector, IMAGE_AUROC, size) for dataset in datasets]
                means = [spread.mean for spread in spreads if spread is not None]
                if len(means) == len(datasets):
                    points.append((x, fmean(means)))
            values = [value for _, value in points]
            (curve,) = axes.plot([x for x, _ in points], values, marker="o", markersize=6, **look(rank))
            curve.set_markeredgewidth(0)
            drawn.mark(curve, "curve")
            drawn_values += values
        cover(axes, drawn_values)
        axes.set_xticks(range(len(sizes)), ["all" if size is None else str(size) for size in sizes])
        axes.set(xlim=(-0.2, len(sizes) - 0.8), xlabel="good images fitted to")
    return drawn.markup
