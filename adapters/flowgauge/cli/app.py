"""The command line: all commands under one name."""

from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from flowgauge.cli.benchmark import benchmark
from flowgauge.cli.commands import Listed, lazy_group
from flowgauge.cli.config import MAX_MEGAPIXELS_KEY, defaults_for, megapixels, read_config
from flowgauge.cli.dead_letters import dead_letters
from flowgauge.cli.exits import EPILOG
from flowgauge.cli.golden import golden
from flowgauge.cli.lines import lines
from flowgauge.cli.output import say
from flowgauge.cli.snapshots import snapshots
from flowgauge.cli.store import store
from flowgauge.cli.topics import topics
from flowgauge.domain.image_limits import MAX_MEGAPIXELS, ImageLimits, set_limits

COMMANDS = {
    "demo": Listed("flowgauge.cli.demo.command:demo", "Watch a gauge keep up with a line that drifts."),
    "fit": Listed("flowgauge.cli.fit:fit", "Fit a gauge to good images and make it the active one of a line."),
    "score": Listed("flowgauge.cli.score:score", "Judge images with a line's gauge."),
    "run": Listed(
        "flowgauge.cli.run:run",
        "Score images as they appear in a folder, watch the line for drift, and adapt its gauge.",
    ),
    "adapt": Listed("flowgauge.cli.adapt:adapt", "Re-cut a line's gauge from its buffer, now, whatever its policy."),
    "label": Listed(
        "flowgauge.cli.label:label", "Say whether a verdict's image is good or defective, and keep it as golden."
    ),
    "check-data": Listed(
        "flowgauge.cli.check_data:check_data", "Look for what makes figures on a data set mislead, or a gauge fail."
    ),
    "evaluate": Listed(
        "flowgauge.cli.evaluate:evaluate",
        "Fit to a data set's good images, judge its test images, and say how well that went.",
    ),
    "estimate": Listed(
        "flowgauge.cli.estimate:estimate",
        "Say what a factory would see: false alarms and misses with honest intervals.",
    ),
    "meta-train": Listed(
        "flowgauge.cli.meta_train:meta_train", "Learn parameters from which headflow learns a new line in few steps."
    ),
    "meta-search": Listed(
        "flowgauge.cli.meta_search:meta_search",
        "Search for the lengths of inner and outer steps, and for the limit of suspicion.",
    ),
    "worker": Listed(
        "flowgauge.cli.worker:worker", "Take a share of the plant's work, as a member of a consumer group."
    ),
    "publish": Listed(
        "flowgauge.cli.publish:publish", "Send the images of a folder to the plant, as a production line would."
    ),
    "status": Listed(
        "flowgauge.cli.status:status", "Show how far behind each group of workers is, and what each line has."
    ),
    "alerts": Listed("flowgauge.cli.status:alerts", "Show the latest alerts, oldest first."),
}
app = typer.Typer(
    name="flowgauge",
    cls=lazy_group(COMMANDS, EPILOG),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, group in (
    ("snapshots", snapshots),
    ("lines", lines),
    ("golden", golden),
    ("dead-letters", dead_letters),
    ("topics", topics),
    ("benchmark", benchmark),
    ("store", store),
):
    app.add_typer(group, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"flowgauge {installed_version('flowgauge')}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def flowgauge(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="FLOWGAUGE_CONFIG",
            help="TOML file with defaults for store, device and max_megapixels.",
            metavar="FILE",
        ),
    ] = None,
    max_megapixels: Annotated[
        float | None,
        typer.Option(
            envvar=MAX_MEGAPIXELS,
            min=1,
            help="The largest image that is decoded, in millions of pixels (64). It bounds memory, some 20 MB each.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Inspects products on a line as images arrive, and re-cuts its gauge while the line changes.

    Every line has a gauge, and the gauge is re-cut from what the line shows,
    never from what it hides.

    \b
    flowgauge demo
    flowgauge fit ./good --line press-3 --store ./plant
    flowgauge run ./incoming --line press-3 --store ./plant
    """
    settings = {} if config is None else read_config(config)
    if max_megapixels is None and (text := settings.pop(MAX_MEGAPIXELS_KEY, None)) is not None:
        max_megapixels = megapixels(text)
    set_limits(ImageLimits() if max_megapixels is None else ImageLimits(max_pixels=round(max_megapixels * 1e6)))
    context.default_map = defaults_for(context.command, settings)
