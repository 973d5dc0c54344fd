"""Reports of a machine's speed: tables for the terminal and the page, and bars beside the limits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from flowgauge.evaluation.speed_results import Case, ImageFormat, ImageSize, SpeedResults
from flowgauge.reports import pages
from flowgauge.reports.charts import COLOURS, chart, plain
from flowgauge.reports.pages import Cell, Row
from flowgauge.reports.wording import percent, plural, significant

# of a bar of the charts, in pixels: with less, the words beside two bars touch
_BAR = 17


@dataclass(frozen=True)
class Table:
    """The first two of `columns` name what a row is of. `rows` gives words, none where nothing was measured."""

    title: str
    lead: str
    columns: tuple[str, ...]
    rows: Callable[[SpeedResults], Iterator[Sequence[str]]]


def number(value: float | None) -> str:
    """Three digits; a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else significant(value)


def image_of(case: Case) -> str:
    return f"{case.size} {case.format}"


def _stages(found: SpeedResults) -> Iterator[Sequence[str]]:
    for case in found.cases:
        stages = (case.decode, case.statistics, case.crop, case.backbone, case.detector, case.predict)
        yield case.engine, image_of(case), *(number(each.p50) for each in (*stages, case.bare_decoder))


def _whole(found: SpeedResults) -> Iterator[Sequence[str]]:
    for case in found.cases:
        latency = case.latency
        rates = case.predict_rate_single, case.predict_rate, case.bytes_rate, case.backbone_rate
        figures = (latency.p50, latency.p95, latency.p99, *rates, case.resident_mib, case.device_mib)
        yield case.engine, image_of(case), *map(number, figures)


def _lines(found: SpeedResults) -> Iterator[Sequence[str]]:
    for each in found.lines:
        figures = map(number, (each.rate, each.resident_mib_per_line, each.device_mib_per_line))
        yield each.engine, str(each.lines), *figures


def _rooflines(found: SpeedResults) -> Iterator[Sequence[str]]:
    for each in found.rooflines:
        for precision, limit in each.matmul_tflops.items():
            figures = map(number, (each.gflop_per_image, each.tflops, limit))
            yield each.engine, precision, *figures, percent(each.shares[precision])


def _gpu_jpeg(found: SpeedResults) -> Iterator[Sequence[str]]:
    for each in found.gpu_jpeg:
        yield "torchvision", each.size, number(each.rate_single), number(each.rate), each.reason


def _forwards(found: SpeedResults) -> Iterator[Sequence[str]]:
    for each in found.forwards:
        yield each.name, ImageSize.SMALL, *map(number, (each.single.p50, each.single.p95, each.single.p99, each.rate))


TABLES = (
    Table(
        "Stages of one image, ms",
        "Medians at batch 1. Decoding goes no further than the gauge’s input needs, statistics are a part of it; "
        "predict is all that follows it. The bare decoder is Pillow’s, to all pixels.",
        ("engine", "image", "decode", "statistics", "crop", "backbone", "detector", "predict", "bare decoder"),
        _stages,
    ),
    Table(
        "The whole gauge: latency from bytes, ms; images/s; memory, MiB",
        "Latency is from encoded bytes to the prediction at batch 1. Images a second: pictures in memory, one at a "
        "time and 16; 16 files, decoded one after the other on the same thread; and the limit, the bare backbone at "
        "batch 16. Memory is that of the process after the row, and the most that was allocated on the GPU.",
        ("engine", "image", "p50", "p95", "p99", "by 1", "by 16", "bytes", "backbone", "MiB", "GPU MiB"),
        _whole,
    ),
    Table(
        "Lines interleaved",
        "Gauges of one backbone, image by image in turn: images a second in memory, one image a line and 16 at least, "
        "and what each further line takes.",
        ("engine", "lines", "images/s", "MiB a line", "GPU MiB a line"),
        _lines,
    ),
    Table(
        "Limits of the processor",
        "Backbone and detector at batch 16 against multiplying large square matrices in the same run. In a share above "
        "100 %, the engine computes in a lower precision than the product.",
        ("engine", "precision", "GFLOP an image", "TFLOP/s", "matmul TFLOP/s", "share"),
        _rooflines,
    ),
    Table(
        "JPEG on the GPU, images/s",
        "From bytes to all pixels in the GPU’s memory, one file at a time and 16.",
        ("decoder", "image", "by 1", "by 16", "why not"),
        _gpu_jpeg,
    ),
    Table(
        "Beside other methods",
        "Networks alone, from normalised crops to scores, in turns: milliseconds at batch 1, images a second at "
        "batch 16. Methods with a memory of patches slow down with the images that they were fitted to.",
        ("method", "image", "p50, ms", "p95, ms", "p99, ms", "images/s by 16"),
        _forwards,
    ),
)


def render_speed(found: SpeedResults) -> str:
    """The whole page. The same results give the same bytes."""
    tables = []
    for table in TABLES:
        rows = [Row(f"{name}, {beside}", [Cell(each) for each in cells]) for name, beside, *cells in table.rows(found)]
        if rows:
            tables.append((table.title, table.lead, ("", *table.columns[2:]), rows))
    jpeg = [case for case in found.cases if case.format is ImageFormat.JPEG]
    return pages.rendered(
        "speed.html",
        found=found,
        largest=max(jpeg or found.cases, key=lambda case: case.size.pixels),
        stages=stages_chart(found),
        rates=rates_chart(found),
        tables=tables,
        number=number,
    )


_STACKED: tuple[tuple[str, Callable[[Case], float]], ...] = (
    ("decode", lambda case: case.decode.p50),
    ("crop", lambda case: case.crop.p50),
    ("backbone", lambda case: case.backbone.p50),
    ("detector", lambda case: case.detector.p50),
)


def stages_chart(found: SpeedResults) -> Markup:
    """For each image two bars: the gauge's stages one after the other, and the limit, bare decoder and backbone."""
    cases = found.cases
    rows, starts = range(len(cases)), [0.0] * len(cases)
    with chart(880, 2.4 * _BAR * len(cases) + 90, "milliseconds of each stage, beside the limits") as drawn:
        axes = drawn.figure.subplots()
        for rank, (name, milliseconds) in enumerate(_STACKED):
            widths = [milliseconds(case) for case in cases]
            bars = axes.barh([row - 0.18 for row in rows], widths, 0.34, starts, color=f"C{rank}", label=name)
            starts = [start + width for start, width in zip(starts, widths, strict=True)]
            for bar, case, width in zip(bars, cases, widths, strict=True):
                drawn.mark(bar, "stage", plain(f"{case.engine}, {image_of(case)}: {name} {number(width)} ms"))
        limits = [case.bare_decoder.p50 + case.backbone.p50 for case in cases]
        below = [row + 0.18 for row in rows]
        axes.barh(below, limits, 0.34, color=COLOURS["off"], label="bare decoder and backbone")
        _finish(axes, [f"{case.engine}, {image_of(case)}" for case in cases], "milliseconds of one image, from bytes")
    return drawn.markup


def rates_chart(found: SpeedResults) -> Markup:
    """Images a second at batch 16 in memory and from bytes, and of interleaved lines; the limit is a stroke."""
    cases = found.cases
    rates = [*(case.predict_rate for case in cases), *(each.rate for each in found.lines)]
    names = [*(f"{case.engine}, {image_of(case)}" for case in cases)]
    names += [f"{each.engine}, {plural(each.lines, 'line')}" for each in found.lines]
    limit = {case.engine: case.backbone_rate for case in cases}
    limits = [*(case.backbone_rate for case in cases), *(limit[each.engine] for each in found.lines)]
    with chart(880, 2.4 * _BAR * len(rates) + 90, "images a second, beside the bare backbone") as drawn:
        axes = drawn.figure.subplots()
        axes.barh([row - 0.18 for row in range(len(rates))], rates, 0.34, label="in memory")
        axes.barh(
            [row + 0.18 for row in range(len(cases))], [case.bytes_rate for case in cases], 0.34, label="from bytes"
        )
        axes.plot(limits, range(len(limits)), "|", color=COLOURS["ink"], markersize=1.6 * _BAR, label="bare backbone")
        _finish(axes, names, "images a second, at batch 16")
    return drawn.markup


def _finish(axes: Axes, names: Sequence[str], quantity: str) -> None:
    """Rows from the top, named; the legend above them."""
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=quantity)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderaxespad=0.4)
