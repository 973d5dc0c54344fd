"""`flowgauge threshold`: what a line's threshold costs, and another one in its place."""

from pathlib import Path
from typing import Annotated

import typer

from flowgauge.app.bootstrap import open_existing
from flowgauge.cli import options
from flowgauge.cli.model import torch_device
from flowgauge.cli.output import drawn, emit, say, show, stdout
from flowgauge.cli.person import person
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable
from flowgauge.cli.trials import begun
from flowgauge.domain.object_keys import line_name
from flowgauge.evaluation.operating_point import OperatingPoint
from flowgauge.reports.threshold import Histogram, cheapest_words, price_words, sentences, write_chart
from flowgauge.reports.wording import significant
from flowgauge.services.history import DAYS
from flowgauge.services.threshold import (
    LineEvidence,
    announce_threshold,
    finite,
    line_evidence,
    loader,
    stored_threshold,
)

threshold = typer.Typer(no_args_is_help=True)

_ROWS = 20  # of the histogram: fewer hide two humps, more scroll off a terminal
_BAR = 36  # characters of its longest bar: with the other columns it fits into 100


@threshold.command("show")
def show_threshold(
    line: options.LineArgument,
    store: options.Store,
    values: Annotated[
        list[float] | None,
        typer.Argument(metavar="VALUE...", help="Thresholds whose price is asked for; without any, some usual ones."),
    ] = None,
    days: Annotated[int, typer.Option(min=0, max=366, help="Days of the archive that are looked at.")] = DAYS,
    per_day: Annotated[
        float | None, typer.Option(min=0, help="Images a day; without it, the archive's.", show_default=False)
    ] = None,
    defect_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.99,
            help="Share of defective parts; without it, the line's setting, or what labels tell.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the histogram there, by its name SVG or PNG.")] = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: options.Json = False,
) -> None:
    """The scores of a line beside its threshold, and what this and other thresholds cost: false alarms, misses and
    reviews among 1,000 parts and a day, with 95 % intervals.

    Labelled images that the gauge has not scored yet are scored first. Where
    the line's settings cost_false_alarm and cost_miss are set, the cheapest of
    the thresholds is named.

    \b
    flowgauge threshold show press-3 --store ./plant
    flowgauge threshold show press-3 1.8 2.0 2.2 --defect-rate 0.01
    flowgauge threshold show press-3 --plot scores.png
    """
    check_writable(plot, option="--plot")
    name, wanted = line_name(line), [finite(value) for value in values or ()]
    with open_existing(store) as plant, bars() as report:
        found = line_evidence(
            plant,
            name,
            days=days,
            images_a_day=per_day,
            defect_rate=defect_rate,
            score=loader(plant, name, torch_device(device)),
            progress=report,
        )
    points = found.known.shown(wanted)
    active = found.known.at(found.known.threshold.value)
    if plot is not None:
        write_chart(found, active, plot)
    if json:
        emit(_document(found, points))
        return
    _print_histogram(found, active)
    words = [price_words(found, point) for point in points]
    for title, columns in _TABLES.items():
        rows = [
            (each["threshold"] + (" *" if point == active else ""), *(each[key] for key in columns.values()))
            for point, each in zip(points, words, strict=True)
        ]
        say(f"\n{title}")
        show(("threshold", *columns), rows)
    say("\n* active. Counts: what a sample of so many will show, with its 95 % prediction interval.")
    for sentence in [found.known.threshold.sentence, *sentences(found), cheapest_words(found, points)]:
        if sentence:
            say(sentence)


_TABLES = {
    "Shares (95 % interval)": {
        "promise": "promised",
        "false alarms of good": "false_alarms",
        "misses of defects": "misses",
        "band for review": "band",
    },
    "Counts": {
        "false alarms in 1,000": "false_alarms_in_thousand",
        "a day": "false_alarms_a_day",
        "misses in 1,000": "misses_in_thousand",
        "misses a day": "misses_a_day",
        "for review in 1,000": "reviews_in_thousand",
        "for review a day": "reviews_a_day",
        "cost of 1,000": "cost",
    },
}


def _document(found: LineEvidence, points: list[OperatingPoint]) -> dict[str, object]:
    cheapest = found.known.cheapest(points)
    return {
        "line": found.line,
        "gauge_version": found.version,
        "threshold": found.known.threshold.value,
        "images_a_day": found.images_a_day,
        "defect_rate": found.known.defect_rate,
        "calibration_scores_count": found.known.counted[1],
        "labelled_good": len(found.known.good),
        "labelled_defects": len(found.known.defects),
        "flagged_before_labelling": found.chosen,
        "archived": len(found.known.recent),
        "points": points,
        "cheapest": None if cheapest is None else {"threshold": cheapest[0].threshold, "interval": cheapest[1]},
        "notes": sentences(found),
    }


def _print_histogram(found: LineEvidence, point: OperatingPoint) -> None:
    """One row a bin, from the lowest score up: a bar of archived images, and counts of the others."""
    histogram = Histogram.of(found.known, _ROWS, point)
    kinds = list(histogram.counts)
    longest = max(int(histogram.counts[kinds[0]].max()), 1)
    block, trace = drawn("█", "#"), drawn("▏", "|")
    rows = []
    for number, (low, high) in enumerate(zip(histogram.edges, histogram.edges[1:], strict=False)):
        counts = [int(histogram.counts[kind][number]) for kind in kinds]
        mark = (
            "threshold" if low <= point.threshold < high else "review" if low < point.high and high > point.low else ""
        )
        bar = block * round(_BAR * counts[0] / longest) or (trace if counts[0] else "")
        beyond = drawn("≥ ", ">= ") if number == _ROWS - 1 else ""
        rows.append((f"{beyond}{significant(low)}", mark, bar, *(count or "" for count in counts)))
    stdout().print(f"Line {found.line}, gauge {found.version}; bars: {kinds[0]}")
    show(("score from", "", "", *kinds), rows)


@threshold.command("set")
def set_threshold(
    line: options.LineArgument,
    store: options.Store,
    value: Annotated[float | None, typer.Argument(help="The threshold, in the unit of the line's scores.")] = None,
    false_alarms: options.FalseAlarms = None,
    keep_promise: Annotated[
        bool,
        typer.Option(
            "--keep-promise",
            help="The line's scores have moved against the gauge's calibration, as an alert says: take VALUE, and let"
            " the promise stand.",
        ),
    ] = False,
    why: Annotated[str, typer.Option(help="The reason, for whoever looks later.", metavar="TEXT")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Set it even where it would reject most good parts.")] = False,
) -> None:
    """Give a line's active gauge another threshold: a new snapshot with the same weights, and no fit.

    --false-alarms takes another promise, which gauges that are adapted later
    keep. A value implies a promise, which they keep too; threshold show tells
    it. flowgauge snapshots rollback takes it back.

    \b
    flowgauge threshold set press-3 --false-alarms 0.01 --store ./plant
    flowgauge threshold set press-3 1.84 --why "scratches below 2 mm pass"
    """
    with open_existing(store) as plant:
        name, by = line_name(line), person()
        made = stored_threshold(
            plant, name, by, value=value, false_alarms=false_alarms, keep_promise=keep_promise, why=why, sure=yes
        )
        trial = announce_threshold(plant, name, made, by)
    if trial is None:
        say(f"Line {line} is gauged by {made.version}, which differs from {made.parent} in its threshold alone.")
    else:
        say(begun(line, made.version, trial))
    say(made.threshold.sentence)
