"""The report of a suite of data sets: one HTML file that needs nothing but itself, neither network nor script."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean

from flowgauge.domain.object_keys import spelled
from flowgauge.evaluation.comparison import PromisedRate, Spread
from flowgauge.evaluation.intervals import binomial_interval
from flowgauge.evaluation.suite import SIGNIFICANCE, Figure, Ranking, SuiteResults, Summary, image_auroc, missed_at
from flowgauge.reports.frame import key_figure, page, ruler, section
from flowgauge.reports.markup import Markup, header_row, scrollable, tag
from flowgauge.reports.ranks import critical_difference_diagram
from flowgauge.reports.training_sizes import training_size_charts
from flowgauge.reports.wording import auroc, percent, plural, significant

Words = Callable[[float], str]

_FEW_DATASETS = 10
"""Below it the Friedman test's chi-squared distribution is rough, and only large differences can be shown (Demšar)."""


def write_suite(found: SuiteResults, path: Path) -> None:
    path.write_text(spelled(render_suite(found)), encoding="utf-8")


def render_suite(found: SuiteResults) -> str:
    """The whole page. The same results give the same bytes."""
    main = tag(
        "main",
        _header(found),
        _summary(found),
        _ranks(found.ranking),
        _by_dataset(
            found,
            "Image AUROC",
            "The chance that a defective image scores above a good one: mean over seeds ± their standard deviation. The"
            " best of each row is bold.",
            image_auroc,
            auroc,
            max,
        ),
        _by_dataset(
            found,
            "Pixel AUROC",
            "The same of pixels; large regions count for most of it.",
            lambda run: run.run.pixel_auroc,
            auroc,
            max,
        ),
        _by_dataset(
            found,
            "AUPRO",
            "The overlap with each defective region, whatever its size, averaged over false-positive rates up to 0.3"
            " (Bergmann et al., IJCV 2021).",
            lambda run: run.run.aupro,
            auroc,
            max,
        ),
        _by_dataset(
            found,
            "Misses at 5 % false alarms",
            "The share of defects that are missed when the threshold is set so that at most 5 % of the good test images"
            " exceed it. This compares detectors at equal false alarms; no line can have it, for the threshold is"
            " chosen on the test images. The JSON has 1 % and 10 % too.",
            missed_at("0.05"),
            percent,
            min,
        ),
        _own_thresholds(found),
        _promises(found),
        _few_shots(found),
        _conditions(found),
        _failures(found),
    )
    return page("Flowgauge: detectors over several data sets", main)


def _header(found: SuiteResults) -> Markup:
    seeds = sorted({run.seed for run in found.runs})
    best = found.summaries[0]
    return tag(
        "header",
        ruler(),
        tag("p", tag("strong", "Flowgauge"), "detectors over several data sets", class_="overline"),
        tag(
            "h1",
            f"{plural(len(found.detectors), 'detector')} on {plural(len(found.datasets), 'data set')}: {best.detector} "
            f"has the highest mean image AUROC, {auroc(best.image_auroc)}.",
        ),
        tag(
            "dl",
            key_figure("data sets", str(len(found.datasets)), ", ".join(found.datasets)),
            key_figure("detectors", str(len(found.detectors)), "each fitted in a process of its own"),
            key_figure("seeds", str(len(seeds)), ", ".join(map(str, seeds))),
            key_figure("fits", str(len(found.runs)), f"{plural(len(found.failures), 'failure')}"),
            class_="key",
        ),
    )


_COLUMNS: tuple[tuple[str, Callable[[Summary], float | None], Words], ...] = (
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


def _summary(found: SuiteResults) -> Markup:
    lead = (
        "Means over data sets of means over seeds. The rank is that by image AUROC on each data set, 1 for the best; "
        "worst is the lowest image AUROC of any data set. Means of detectors that were measured on different data sets "
        "do not compare."
    )
    rows = (
        tag(
            "tr",
            tag("th", summary.detector, summary.worst_dataset and _worst(summary.worst_dataset), scope="row"),
            *(tag("td", "–" if (value := of(summary)) is None else words(value)) for _, of, words in _COLUMNS),
        )
        for summary in found.summaries
    )
    return _table_section("Overall", lead, ("", *(name for name, _, _ in _COLUMNS)), rows)


def _worst(dataset: str) -> Markup:
    return tag("small", f"worst on {dataset}")


def _ranks(ranking: Ranking | None) -> Markup | None:
    if ranking is None:
        return None
    lead = (
        "Mean ranks over data sets by image AUROC. A bar joins detectors whose ranks do not differ by more than the "
        f"critical difference (Nemenyi, α = {SIGNIFICANCE:g}; Demšar, JMLR 2006)."
    )
    return section(
        "Critical difference",
        lead,
        tag("figure", scrollable("Critical difference", critical_difference_diagram(ranking), "wide")),
        *(tag("p", sentence, class_="lead") for sentence in ranking_sentences(ranking)),
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


def _by_dataset(
    found: SuiteResults,
    title: str,
    lead: str,
    figure: Figure,
    words: Words,
    best: Callable[[list[float]], float],
) -> Markup:
    """Data sets by detectors, and their means."""
    rows = []
    for dataset in found.datasets:
        spreads = [found.spread(dataset, name, figure) for name in found.detectors]
        rows.append(_row(dataset, spreads, words, best))
    if len(found.datasets) > 1:
        means = [found.mean(name, figure) for name in found.detectors]
        rows.append(_row("mean", [Spread.of([mean]) for mean in means], words, best, class_="mean"))
    return _table_section(title, lead, ("", *found.detectors), rows)


def _row(
    name: str,
    spreads: Sequence[Spread | None],
    words: Words,
    best: Callable[[list[float]], float],
    class_: str | None = None,
) -> Markup:
    """All that read like the best one are bold."""
    means = [spread.mean for spread in spreads if spread is not None]
    bold = words(best(means)) if len(means) > 1 else None
    return tag("tr", tag("th", name, scope="row"), *(_cell(spread, words, bold) for spread in spreads), class_=class_)


def _cell(spread: Spread | None, words: Words, bold: str | None) -> Markup:
    if spread is None:
        return tag("td", "–")
    deviation = None if spread.deviation is None else tag("small", f" ± {words(spread.deviation)}")
    return tag("td", words(spread.mean), deviation, class_="best" if words(spread.mean) == bold else None)


def _own_thresholds(found: SuiteResults) -> Markup:
    lead = (
        "Observed false alarms / misses at the threshold that each detector set on its training images, means over "
        "seeds. A detector with few misses and many false alarms is not better than one with the reverse: compare at "
        "equal false alarms above."
    )
    rows = (
        tag("tr", tag("th", dataset, scope="row"), *(tag("td", _errors(found, dataset, n)) for n in found.detectors))
        for dataset in found.datasets
    )
    return _table_section("At the detector’s own threshold", lead, ("", *found.detectors), rows)


def _errors(found: SuiteResults, dataset: str, detector: str) -> str:
    alarms = found.spread(dataset, detector, lambda run: run.run.false_alarm_share)
    misses = found.spread(dataset, detector, lambda run: run.run.miss_share)
    return " / ".join("–" if spread is None else percent(spread.mean) for spread in (alarms, misses))


def _promises(found: SuiteResults) -> Markup | None:
    rates = sorted({rate for run in found.runs for rate in run.promised}, key=float)
    if not rates:
        return None
    lead = (
        "False alarms on test images at the threshold that was set for a promised rate, with the 95 % binomial interval"
        " (Clopper and Pearson) of one seed’s good test images. Coloured: the whole interval lies above what was "
        "promised. Images of one object are not independent, so where a data set has groups the interval is too narrow."
    )
    rows = (
        tag(
            "tr",
            tag("th", dataset, tag("small", f"promised {100 * float(rate):g} %"), scope="row"),
            *(_promise(_promised(found, dataset, name, rate), float(rate)) for name in found.detectors),
        )
        for dataset in found.datasets
        for rate in rates
    )
    return _table_section("Promised and observed false alarms", lead, ("", *found.detectors), rows)


def _promised(found: SuiteResults, dataset: str, detector: str, rate: str) -> list[PromisedRate]:
    return [run.promised[rate] for run in found.of(dataset, detector) if rate in run.promised]


def _promise(seeds: Sequence[PromisedRate], rate: float) -> Markup:
    """The mean over seeds; they share test images, so they narrow no interval."""
    images = fmean(each.good_images for each in seeds) if seeds else 0.0
    if not images:
        return tag("td", "–")
    count = fmean(each.false_alarms for each in seeds)
    low, high = binomial_interval(count, images)
    return tag(
        "td",
        percent(count / images),
        tag("small", f" {percent(low)} to {percent(high)}"),
        class_="broken" if low > rate else None,
    )


def _few_shots(found: SuiteResults) -> Markup | None:
    if not found.shots:
        return None
    lead = (
        "Image AUROC of fits to so many good images, drawn by seed and spread evenly over the training images; means "
        "over seeds. Sizes are equally far apart, whatever they are."
    )
    return section("Few-shot curves", lead, tag("figure", training_size_charts(found)))


def _conditions(found: SuiteResults) -> Markup:
    lead = (
        "Counts of the first seed. Objects on both sides: groups of images of one object that are in training and in "
        "the test; above 0, the figures flatter. A dash: the data set names no groups."
    )
    rows = []
    for dataset in found.datasets:
        runs = [run for run in found.runs if run.dataset == dataset]
        run = min(runs, key=lambda each: (each.shots is not None, each.seed)).run
        counts = (
            run.fitted_images,
            run.good_images,
            run.defective_images,
            len(run.per_class),
            run.groups_on_both_sides,
        )
        cells = (tag("td", "–" if count is None else f"{count:,}") for count in counts)
        rows.append(tag("tr", tag("th", dataset, scope="row"), *cells))
    columns = ("", "training images", "good test images", "defects", "kinds of defects", "objects on both sides")
    return _table_section("Data sets", lead, columns, rows)


def _failures(found: SuiteResults) -> Markup | None:
    if not found.failures:
        return None
    items = (tag("li", tag("strong", failure.what), f": {failure.cause}") for failure in found.failures)
    return section("What could not be measured", "It is tried again by the next run.", tag("ul", *items))


def _table_section(title: str, lead: str, columns: Sequence[str], rows: Iterable[Markup]) -> Markup:
    return section(title, lead, scrollable(title, tag("table", header_row(*columns), tag("tbody", *rows))))
