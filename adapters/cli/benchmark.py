"""`flowgauge benchmark`: what methods and their ingredients are worth on a data set."""

from pathlib import Path
from typing import Annotated

import typer

from adapters.cli import options
from adapters.cli.evaluate import check_place, seeds_of
from adapters.cli.output import emit, say, show
from adapters.cli.progress import bars
from core.errors import UserError

benchmark = typer.Typer(no_args_is_help=True, help="What methods and their ingredients are worth on a data set.")


@benchmark.callback()
def _group() -> None:
    """Keeps `noise` a command of its own while it is the only one."""


@benchmark.command("noise")
def noise(
    dataset: Annotated[Path, typer.Argument(help="A data set in the MVTec AD layout.")],
    splits: Annotated[
        Path, typer.Option(help="JSON: which images teach and judge, by seed and noise.", metavar="FILE")
    ],
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="full, no-panel, no-meta, no-rejection, mutual, one-sided, iqr, plain or clean-oracle; may be repeated"
            " (full and plain)."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="One seed, or several: 0,1,2.")] = "0,1,2",
    detector: options.Detector = None,
    weights: options.Weights = None,
    backbone: options.Backbone = None,
    size: options.Size = None,
    aspect: options.AspectOption = options.Aspect.SQUASH,
    groups: options.Groups = None,
    theta: Annotated[
        str,
        typer.Option(help="Meta-learned parameters: a file of flowgauge meta-train, or `shipped`.", metavar="FILE"),
    ] = "shipped",
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder for features, some 1 MB an image. ~/.cache/flowgauge by default.", show_default=False
        ),
    ] = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there, after every fit; a second run goes on.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw AUROC against contamination there, as an SVG.")] = None,
) -> None:
    """Fit at rising shares of defects among the images that teach, and judge.

    \b
    flowgauge benchmark noise ./tiles --splits noise_splits.json \\
        --groups groups.json --variant full --variant plain \\
        --json noise.json --plot noise.svg

    full teaches a panel, each member without one fold of the parts, and starts
    from meta-learned parameters (flowgauge meta-train); all images teach.
    no-panel and no-meta do without one of the two. mutual leaves out what
    looks suspect beside the other images, one-sided and iqr leave out by
    cross-fitted scores; no-rejection is full. plain does nothing of all this,
    and clean-oracle leaves out what is mislabelled, which only a benchmark
    knows.

    Features are read once and cached. Paintings are drawn once for the whole
    data set, so figures differ a little from those of flowgauge evaluate.
    """
    from adapters.cli.contaminating import Benchmark, variants_of
    from adapters.cli.model import Model
    from adapters.report.curves import curves_svg

    for place in (json, plot):
        check_place(place)
    if plot is not None and plot.suffix != ".svg":
        raise UserError(f"{plot} is no SVG.", "Give --plot a name that ends in .svg.")
    chosen = variants_of(variant or ["full", "plain"])
    model = Model(detector, weights, backbone, size, aspect)
    with bars() as report:
        found = Benchmark(dataset, splits, groups, model, device, cache, theta, report).run(
            chosen, seeds_of(seeds), json
        )
    if plot is not None:
        plot.write_text(curves_svg(found.curves))
    if json is None and plot is None:
        emit(found.document())
        return
    show(
        ("variant", "noise", "image_auroc", "deviation", "seeds"),
        (
            (curve.variant.value, point.noise, point.image_auroc_mean, point.image_auroc_std, len(point.seeds))
            for curve in found.curves
            for point in curve.curve
        ),
    )
    for path in (json, plot):
        if path is not None:
            say(f"wrote {path}")
