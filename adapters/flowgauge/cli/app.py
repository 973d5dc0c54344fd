"""The command line: all commands under one name."""

from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from flowgauge.cli.adapt import adapt
from flowgauge.cli.benchmark import benchmark
from flowgauge.cli.check_data import check_data
from flowgauge.cli.config import MAX_MEGAPIXELS_KEY, defaults_for, megapixels, read_config
from flowgauge.cli.dead_letters import dead_letters
from flowgauge.cli.demo import demo
from flowgauge.cli.estimate import estimate
from flowgauge.cli.evaluate import evaluate
from flowgauge.cli.exits import EPILOG
from flowgauge.cli.fit import fit
from flowgauge.cli.golden import golden
from flowgauge.cli.label import label
from flowgauge.cli.lines import lines
from flowgauge.cli.meta_search import meta_search
from flowgauge.cli.meta_train import meta_train
from flowgauge.cli.output import say
from flowgauge.cli.publish import publish
from flowgauge.cli.run import run
from flowgauge.cli.score import score
from flowgauge.cli.snapshots import snapshots
from flowgauge.cli.status import alerts, status
from flowgauge.cli.store import store
from flowgauge.cli.topics import topics
from flowgauge.cli.worker import worker
from flowgauge.domain.image_limits import MAX_MEGAPIXELS, ImageLimits, set_limits

app = typer.Typer(
    name="flowgauge",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_OF_A_LINE = (demo, fit, score, run, adapt, label)
_OF_METHODS = (check_data, evaluate, estimate, meta_train, meta_search)
_OF_A_PLANT = (worker, publish, status, alerts)
for command in (*_OF_A_LINE, *_OF_METHODS, *_OF_A_PLANT):
    app.command(epilog=EPILOG)(command)
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
