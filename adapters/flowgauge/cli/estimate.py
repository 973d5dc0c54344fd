"""`flowgauge estimate`: what the factory will see."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.evaluate import check_writable
from flowgauge.cli.output import emit, say, show, warn
from flowgauge.cli.progress import bars
from flowgauge.domain.errors import UserError

if TYPE_CHECKING:
    from flowgauge.evaluation.estimate import EstimateReport, Figure


class Choose(StrEnum):
    """The names of `flowgauge.evaluation.choices.Choice`, repeated here so that the command line loads no numpy."""

    YOUDEN = "youden"
    COST = "cost"
    BUDGET = "budget"
    OWN = "own"


def estimate(
    dataset: Annotated[Path, typer.Argument(help="A data set in the MVTec AD layout.")],
    choose: Annotated[
        Choose, typer.Option(help="How to choose the threshold; own is the gauge's own, from good images alone.")
    ] = Choose.YOUDEN,
    cost_miss: Annotated[float, typer.Option(min=0, help="What a missed defect costs, in any currency.")] = 10.0,
    cost_false_alarm: Annotated[float, typer.Option(min=0, help="What a false alarm costs.")] = 1.0,
    prevalence: Annotated[
        float, typer.Option(min=1e-6, max=0.999, help="Share of the line's parts that are defective, for costs.")
    ] = 0.01,
    budget: Annotated[
        float, typer.Option(min=1e-4, max=0.5, help="Share of false alarms that --choose budget allows.")
    ] = 0.05,
    repeats: Annotated[int, typer.Option(min=2, max=1000, help="Splits, each with a fit of its own.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the first repeat; the others count up.")] = 0,
    groups: options.Groups = None,
    group: Annotated[
        str | None,
        typer.Option(help="Instead of --groups: what this finds in an image's path is its part.", metavar="REGEX"),
    ] = None,
    keep_apart: Annotated[
        bool,
        typer.Option("--keep-apart", help="train/good only trains; test/good alone chooses and judges."),
    ] = False,
    detector: options.Detector = None,
    members: options.Members = None,
    init: options.MetaInit = None,
    weights: options.Weights = None,
    backbone: options.Backbone = None,
    layers: options.Layers = None,
    size: options.Size = None,
    tiles: options.Tiles = None,
    aspect: options.AspectOption = options.Aspect.SQUASH,
    masks: options.Masks = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder for features, some 1 MB an image. ~/.cache/flowgauge by default.", show_default=False
        ),
    ] = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write all there, after every repeat; a second run goes on.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report there: one page that needs nothing else.")] = None,
) -> None:
    """Say what a factory would see: false alarms and misses with honest intervals.

    \b
    flowgauge estimate ./tiles --groups groups.json \\
        --json tiles.json --html tiles.html
    flowgauge estimate ./tiles --group 'tile-(\\d+)' --choose cost \\
        --cost-miss 200 --cost-false-alarm 3 --prevalence 0.02

    Again and again all good images are divided anew: half of the defects
    choose the threshold and the other half judge it, each beside as many
    good images; the rest trains. That takes train/good and test/good for
    the same kind of images; if they are not, say --keep-apart.

    Intervals are 95 %. A plain t interval over the repeats would be far too
    narrow: repeats share their images, so their errors hang together, and
    more repeats tell nothing new. Intervals are therefore corrected for that
    overlap, after Nadeau and Bengio, and for how many images and parts judge.

    Images of one part stay on one side. Without --groups or --group, near
    near duplicates are looked for and kept together, and the report says how much
    better the figures would look had they been torn apart.

    --prevalence matters for costs alone. A defect in a hundred, ten times as
    dear as a false alarm, is an assumption: give your own.
    """
    from flowgauge.cli.estimation import Estimation, Request
    from flowgauge.cli.model import Model
    from flowgauge.evaluation.choices import Choice, Costs
    from flowgauge.evaluation.replicates import Chooser

    for path in (json, html):
        check_writable(path)
    _require_one(groups, group)
    costs = Costs(miss=cost_miss, false_alarm=cost_false_alarm, prevalence=prevalence)
    chooser = Chooser(choice=Choice(choose.value), costs=costs, budget=budget)
    model = Model(detector, weights, backbone, size, aspect, members=members, layers=layers, tiles=tiles)
    request = Request(dataset, chooser, repeats, seed, groups, group, keep_apart, init, cache, masks)
    with bars() as report:
        found = Estimation(request, model, device, report).run(json)
    if html is not None:
        from flowgauge.reports.estimate import write_estimate

        write_estimate(found, html)
    _tell(found, json, html)


def _require_one(groups: Path | None, pattern: str | None) -> None:
    if groups is not None and pattern is not None:
        raise UserError("--groups and --group both say which part an image shows.", "Give one of them.")


def _tell(found: "EstimateReport", json: Path | None, html: Path | None) -> None:
    """The whole on stdout for scripts; or a table for people, with the whole in a file."""
    for words in found.warnings():
        warn(words)
    if json is None:
        emit(found.model_dump(mode="json"))
        return
    show(("figure", "mean", "spread", "95 % interval", "a plain t interval"), _rows(found.estimate.figures()))
    say("")
    for sentence in found.sentences():
        say(sentence)
    for path in (json, html):
        if path is not None:
            say(f"wrote {path}")


def _rows(figures: dict[str, "Figure"]) -> Iterator[tuple[object, ...]]:
    for name, figure in figures.items():
        yield name, figure.mean, figure.spread, _ends(figure.interval), _ends(figure.plain_interval)


def _ends(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4g} to {interval[1]:.4g}"
