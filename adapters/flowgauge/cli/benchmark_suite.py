"""`flowgauge benchmark suite`: the table by which a change to a detector is judged."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from flowgauge.cli import options
from flowgauge.cli.evaluate import check_writable, seeds_of
from flowgauge.cli.output import say, show, warn
from flowgauge.cli.progress import bars


def suite(
    folder: Annotated[
        Path, Argument(help="A folder of data sets, each in the MVTec AD layout.", metavar="DIR", show_default=False)
    ],
    detector: Annotated[
        list[str] | None,
        Option(
            help="One to compare; may be repeated. All that learn from good images alone but lamp, which reads pixels,"
            " and patchcore, padim and fastflow where anomalib is installed.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        Option(help="The name of one data set in DIR; may be repeated. All of them.", show_default=False),
    ] = None,
    seeds: Annotated[str, Option(help="One seed, or several: 0,1,2.")] = "0",
    shots: Annotated[
        str | None, Option(help="Fit to so many good images too: 8,16,32, say.", metavar="N,N", show_default=False)
    ] = None,
    weights: options.Weights = None,
    backbone: options.Backbone = None,
    layers: options.Layers = None,
    size: options.Size = None,
    tiles: options.Tiles = None,
    aspect: options.AspectOption = options.Aspect.SQUASH,
    changes: Annotated[
        list[str] | None,
        Option(
            "--set",
            help="An option of one detector's own: glass.steps=80, say; may be repeated.",
            metavar="DETECTOR.NAME=VALUE",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, Option(min=1, help="At most so many images in training, and of each kind in the test.")
    ] = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[
        Path | None, Option("--json", help="Write the results there, after every fit; a second run goes on.")
    ] = None,
    html: Annotated[
        Path | None, Option(help="Write a page there: tables by data set, ranks and their critical difference.")
    ] = None,
) -> None:
    """Compare detectors over several data sets: the table by which a change is judged.

    \b
    flowgauge benchmark suite ./data --seeds 0,1,2 \\
        --json suite.json --html suite.html
    flowgauge benchmark suite ./data --dataset screw --dataset capsules \\
        --detector rad --detector padim --shots 8,16,32 --json few.json

    DIR holds one folder per data set. Where that folder holds
    clean_splits.json, the entry of each seed says which images train and
    which test; otherwise train/ and test/ do under every seed, which then
    only changes the fit and the few-shot draw. Where it holds groups.json,
    images of one object stay in one fold.

    The table gives means over data sets of means over seeds; the rank is that
    by image AUROC. miss_at_5% is the share of defects missed at the threshold
    that 5 % of the good test images exceed (rounded down to whole images);
    false_alarms and misses are those at the detector's own threshold.

    --shots draws, by seed and spread evenly over the training images, so many
    of them; the fit to all of them is always made too. A data set that cannot
    be read or a fit that fails is told and left out. What --json holds
    already is not run again and is shown too: give it another name after a
    change of the code.
    """
    from flowgauge.cli.model import Model
    from flowgauge.cli.suite_run import Suite, datasets_in, models_of, shots_of

    for path in (json, html):
        check_writable(path)
    common = Model(None, weights, backbone, size, aspect, layers=layers, tiles=tiles)
    models = models_of(detector or [], changes or [], common)
    folders = datasets_in(folder, dataset or [])
    with bars() as report:
        work = Suite(folders, models, device, limit, shots_of(shots), report)
        found = work.run(seeds_of(seeds), json)
    for failure in found.failures:
        warn(f"{failure.what}: {failure.cause}")
    if html is not None:
        from flowgauge.reports.comparisons import write_suite

        write_suite(found, html)
    show(
        (
            *("detector", "data sets", "image_auroc", "rank", "worst", "worst on"),
            *("pixel_auroc", "aupro", "miss_at_5%", "false_alarms", "misses", "fit_seconds"),
        ),
        (
            (
                *(s.detector, s.datasets, s.image_auroc, s.mean_rank, s.worst, s.worst_dataset),
                *(
                    s.pixel_auroc,
                    s.aupro,
                    s.miss_share_at.get("0.05"),
                    s.false_alarm_share,
                    s.miss_share,
                    s.fit_seconds,
                ),
            )
            for s in found.summaries
        ),
    )
    for path in (json, html):
        if path is not None:
            say(f"wrote {path}")
