"""A line's scores beside its threshold, and what thresholds cost, in words and as a chart."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from flowgauge.domain.errors import UserError
from flowgauge.evaluation.intervals import Share
from flowgauge.evaluation.metrics import Floats
from flowgauge.evaluation.operating_point import THOUSAND, Evidence, Expected, OperatingPoint
from flowgauge.reports.charts import COLOURS, Chart, chart
from flowgauge.reports.wording import percent, plural, significant
from flowgauge.services.threshold import LineEvidence

_FAR = 0.98  # quantile of scores beyond which they share the last bin: more, and one wild image flattens all others


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many scores lie in each of K bins between `edges` (K + 1,); the last bin holds all that lie beyond it too."""

    edges: Floats
    counts: dict[str, NDArray[np.intp]]

    @classmethod
    def of(cls, known: Evidence, bins: int, point: OperatingPoint) -> "Histogram":
        """Of a line's scores by what is known of their images; empty kinds are left out."""
        kinds = {
            "archived": known.recent,
            "calibration": known.threshold.calibration_scores.scores,
            "labelled good": known.good.scores,
            "labelled defects": np.concatenate([known.defects.scores, known.flagged]),
        }
        kinds = {name: scores for name, scores in kinds.items() if len(scores)}
        low = min(point.low, *(float(scores.min()) for scores in kinds.values()))
        far = (float(np.quantile(scores, 0.5 if "defects" in name else _FAR)) for name, scores in kinds.items())
        high = max(point.high, *far)
        edges = np.linspace(low, high + 0.05 * (high - low) + 1e-9, bins + 1)
        counts = {
            name: np.histogram(np.minimum(scores, edges[-1]), edges)[0].astype(np.intp)
            for name, scores in kinds.items()
        }
        return cls(edges, counts)


_BINS = 44  # of the chart: fewer hide two humps, more make bars of single images
_HUES = {"archived": "unknown", "calibration": "swap", "labelled good": "good", "labelled defects": "defect"}


def threshold_chart(found: LineEvidence, point: OperatingPoint, *, alone: bool = False) -> Chart:
    """The line's scores, kind by kind, with a threshold and its band for review."""
    label = f"scores of line {found.line} beside the threshold {significant(point.threshold)}"
    histogram = Histogram.of(found.known, _BINS, point)
    with chart(720, 90 + 88 * len(histogram.counts), label, alone=alone) as drawn:
        panels = drawn.figure.subplots(len(histogram.counts), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (kind, counts) in zip(panels, histogram.counts.items(), strict=True):
            _bars(drawn, axes, histogram.edges, counts, kind)
            axes.axvspan(point.low, point.high, color=COLOURS["adaptation"], alpha=0.18, linewidth=0, zorder=0)
            axes.axvline(point.threshold, color=COLOURS["ink"], linewidth=1.6)
        panels[-1].set_xlabel("score, higher is more anomalous; the last bar holds all beyond it")
        side = "left" if point.threshold < (histogram.edges[0] + histogram.edges[-1]) / 2 else "right"
        panels[0].text(
            point.threshold, 1.02, f" threshold {significant(point.threshold)}, for review inside the band",
            transform=panels[0].get_xaxis_transform(), fontsize=11, ha=side, va="bottom",
        )  # fmt: skip
    return drawn


def _bars(drawn: Chart, axes: Axes, edges: Floats, counts: NDArray[np.intp], kind: str) -> None:
    bars = axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=COLOURS[_HUES[kind]], linewidth=0)
    for bar, count, low, high in zip(bars, counts, edges, edges[1:], strict=False):
        if count:
            drawn.mark(bar, "bar", f"{plural(int(count), 'image')} from {significant(low)} to {significant(high)}")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, max(1, int(counts.max()))))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_ylabel(f"{kind}\n{int(counts.sum()):,}", rotation=0, ha="right", va="center", fontsize=11)


def write_chart(found: LineEvidence, point: OperatingPoint, path: Path) -> None:
    """An SVG or a PNG file, by its name. Raises `UserError` for any other."""
    made = threshold_chart(found, point, alone=True)
    if path.suffix.lower() == ".svg":
        path.write_text(made.markup, encoding="utf-8")
    elif path.suffix.lower() == ".png":
        path.write_bytes(made.png)
    else:
        raise UserError(f"{path.name} is neither SVG nor PNG.", "Give --plot a name that ends in .svg or .png.")


def share_words(share: Share | None) -> str:
    """`5.0 % (2.4 to 8.3)`."""
    if share is None:
        return "unknown"
    low, high = (percent(end).removesuffix("\u00a0%") for end in share.interval)
    return f"{percent(share.mean)} ({low} to {high})"


def count_words(expected: Expected | None) -> str:
    """`50 (24 to 83)`: the mean, and between what a sample will lie."""
    if expected is None:
        return "unknown"
    mean, low, high = (_count(value) for value in (expected.mean, *expected.interval))
    return f"{mean} ({low} to {high})"


def _count(value: float) -> str:
    return f"{value:.1f}" if 0 < value < 9.95 else f"{value:,.0f}"


def price_words(found: LineEvidence, point: OperatingPoint) -> dict[str, str]:
    """One threshold's price, as tables show it, by what each word is of."""
    rate, a_day = found.known.defect_rate, found.images_a_day
    good, defective = found.good_a_day, found.defects_a_day
    misses = None if rate is None else point.misses_among(THOUSAND * rate)
    cost = "unknown"
    if point.cost is not None and point.cost_interval is not None:
        low, high = point.cost_interval
        cost = f"{significant(point.cost)} ({significant(max(low, 0.0))} to {significant(high)})"
    passed = f"{point.flagged_passed} of {point.flagged} labelled defects that were flagged would pass"
    return {
        "threshold": significant(point.threshold, 4),
        "band": f"{significant(point.low, 4)} to {significant(point.high, 4)}",
        "promised": percent(point.promised),
        "false_alarms": share_words(point.false_alarms),
        "false_alarms_in_thousand": count_words(point.false_alarms_among(THOUSAND)),
        "false_alarms_a_day": "unknown" if good is None else count_words(point.false_alarms_among(good)),
        "misses": share_words(point.misses),
        "misses_in_thousand": count_words(misses),
        "misses_a_day": "unknown" if defective is None else count_words(point.misses_among(defective)),
        "reviews_in_thousand": "unknown" if point.review is None else _count(THOUSAND * point.review),
        "reviews_a_day": "unknown" if a_day is None or point.review is None else _count(a_day * point.review),
        "cost": cost,
        "flagged": passed if point.flagged else "",
    }


def sentences(found: LineEvidence) -> list[str]:
    """What the prices stand on, and what they cannot tell."""
    known = found.known
    images, (counted, pooled) = known.threshold.calibration_scores, known.counted
    if pooled:
        source = (
            f"{plural(len(images.scores), 'calibration score')} and {plural(len(known.good), 'labelled good image')}"
        )
    else:
        source = (
            f"{plural(len(counted), 'labelled good image')} alone: the calibration scores differ from theirs, so they"
            " do not count"
        )
    lines = [f"False alarms: Clopper-Pearson intervals from {source}."]
    if len(known.defects):
        lines.append(f"Misses: Clopper-Pearson intervals from {plural(len(known.defects), 'labelled defect')}.")
    else:
        lines.append(
            "Misses cannot be known: no defect is labelled that was not chosen by its score. flowgauge golden add"
            " takes defects that were found otherwise."
        )
        if found.synthetic is not None:
            lines.append(f"The gate found of synthetic anomalies, which are no defects: {found.synthetic.message}")
    if found.chosen:
        lines.append(
            f"{plural(found.chosen, 'labelled image')} had been flagged before they were labelled: chosen by their"
            " scores, they count in no share."
        )
    if found.unscored:
        lines.append(
            f"{plural(found.unscored, 'labelled image')} wait to be scored by this gauge and do not count yet."
        )
    a_day = "–" if found.images_a_day is None else _count(found.images_a_day)
    lines.append(f"Images a day: {a_day}, {found.day_source}.")
    rate = "" if known.defect_rate is None else f"{percent(known.defect_rate)}, "
    lines.append(f"Share of defective parts: {rate}{found.defect_source}.")
    return lines


def cheapest_words(found: LineEvidence, points: Sequence[OperatingPoint]) -> str:
    """Which of `points` costs least; "" where no costs are set, and why not where they are."""
    if found.known.costs is None:
        return ""
    cheapest = found.known.cheapest(points)
    if cheapest is None:
        return "What thresholds cost cannot be known without labelled defects and the share of defective parts."
    point, (low, high) = cheapest
    return (
        f"Of these, {significant(point.threshold, 4)} costs least; with other parts of the line it would be one from"
        f" {significant(low, 4)} to {significant(high, 4)} (95 %)."
    )
