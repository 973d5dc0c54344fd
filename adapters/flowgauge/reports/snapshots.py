"""The report of two gauges on the same images: their scores against each other, and the decisions that differ."""

from collections.abc import Sequence

from markupsafe import Markup

from flowgauge.domain.golden import Label
from flowgauge.evaluation.intervals import PairedShares
from flowgauge.reports.charts import COLOURS, chart, plain
from flowgauge.reports.pages import Cell, Row
from flowgauge.reports.wording import percent, short, significant
from flowgauge.services.snapshot_comparison import SHOWN, Compared, SnapshotComparison

# a standard score is drawn no further out than so many of the higher threshold's: farther, and one wild image flattens
# all others; nearer, and caught defects look all alike
_FARTHEST = 4.0
_MARKERS: dict[Label | None, tuple[str, str, str]] = {
    None: ("recent", "o", "unknown"),
    Label.GOOD: ("labelled good", "o", "good"),
    Label.DEFECT: ("labelled defects", "D", "defect"),
}

COLUMNS = ("what is counted", "first", "second", "second less first", "only first", "only second", "McNemar p")


def facts(found: SnapshotComparison) -> dict[str, object]:
    """What a page about the comparison shows."""
    return {
        "found": found,
        "names": [short(each.version, 24) for each in (found.first, found.second)],
        "scatter": scatter(found),
        "columns": COLUMNS,
        "rows": [_row(name, share) for name, share in found.shares.items()],
        "changed": found.changed[:SHOWN],
    }


def scatter(found: SnapshotComparison) -> Markup:
    """Each image's standardised score under both gauges, with both thresholds."""
    first, second = (each.calibration.standardise(each.threshold.value) for each in (found.first, found.second))
    end = max(3.0, _FARTHEST * max(abs(first), abs(second)))
    with chart(560, 520, "standardised scores of the images under the second gauge against the first") as drawn:
        axes = drawn.figure.subplots()
        for label, (words, marker, hue) in _MARKERS.items():
            images = [image for image in found.images if image.label is label]
            if not images:
                continue
            points = ([min(max(image.standard[side], -end), end) for image in images] for side in (0, 1))
            (dots,) = axes.plot(
                *points, marker, color=COLOURS[hue], markersize=5.5, markeredgewidth=0, alpha=0.7,
                label=f"{words} ({len(images):,})",
            )  # fmt: skip
            drawn.mark(dots, "points", *map(_title, images))
        axes.axvline(first, color=COLOURS["ink"], linewidth=1.4)
        axes.axhline(second, color=COLOURS["ink"], linewidth=1.4)
        axes.grid(axis="x")
        axes.set_xlabel(f"first: {plain(found.first.version)}, in deviations from its good median")
        axes.set_ylabel(f"second: {plain(found.second.version)}")
        drawn.figure.legend(loc="outside upper left", ncols=3)
    return drawn.markup


def _title(image: Compared) -> str:
    one, other = (
        f"{decision.value} {significant(score)}" for decision, score in zip(image.decisions, image.scores, strict=True)
    )
    return f"{plain(image.name)}: {one}, then {other}"


def _row(name: str, share: PairedShares) -> Row:
    low, high = (f"{100 * end:+.1f}" for end in share.interval)
    cells: Sequence[Cell] = (
        Cell(percent(share.first)),
        Cell(percent(share.second)),
        Cell(f"{100 * share.difference:+.1f} points", f"({low} to {high})"),
        Cell(str(share.only_first)),
        Cell(str(share.only_second)),
        Cell(f"{share.p_value:.2g}"),
    )
    of = f"{share.images:,} images" + ("" if share.parts == share.images else f" of {share.parts:,} parts")
    return Row(name, cells, of)
