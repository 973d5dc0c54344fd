"""The command line: all commands under one name, and what the settings file says to them."""

import tomllib
from importlib.metadata import version as installed_version
from json import detect_encoding
from math import inf
from pathlib import Path
from typing import Annotated, Any

import typer

from flowgauge.cli.commands import lazy_group
from flowgauge.cli.exits import EPILOG
from flowgauge.cli.output import LogFormat, say, set_up_logging
from flowgauge.domain.errors import SettingsError
from flowgauge.domain.image_limits import MAX_MEGAPIXELS, ImageLimits, set_limits

COMMANDS = {
    "demo": "Watch a gauge keep up with a line that drifts.",
    "fit": "Fit a gauge to good images and make it the active one of a line.",
    "score": "Score images with a line's gauge.",
    "run": "Score images as they appear in a folder, watch the line for drift, and adapt its gauge.",
    "adapt": "Adapt a line's gauge to its buffer now, whatever its policy.",
    "label": "Say whether a verdict's image is good or defective, and keep it as golden.",
    "check-data": "Look for what makes figures on a data set mislead, or a gauge fail.",
    "evaluate": "Fit to a data set's good images, score its test images, and measure how accurate that is.",
    "estimate": "Say what a factory would see: false alarms and misses with honest intervals.",
    "meta-train": "Learn parameters from which a detector learns a new line in few steps.",
    "meta-search": "Search for the step sizes of the inner and outer loop, and for the outlier threshold.",
    "worker": "Take a share of the plant's work, as a member of a consumer group.",
    "publish": "Send the images of a folder to the plant, as a production line would.",
    "console": "Open the plant in a browser: lines, verdicts, review, adaptations, gauges.",
    "status": "Show how far behind each group of workers is, and what each line has.",
    "alerts": "Show the latest alerts, oldest first.",
    "changes": "Show who changed what in the last three months, oldest first.",
    "notify": "Send alerts to people: test routes and check their file.",
    "trials": "Trials of gauges: a candidate predicts beside the active one, then decides a share of the images.",
    "snapshots": "Stored gauges: list them, look into one, compare two, go back to one.",
    "threshold": "Show what a line's threshold costs, or set another.",
    "lines": "Lines and their settings.",
    "parts": "Verdicts on parts that several images show.",
    "golden": "Labelled images on which the gate tests adaptations.",
    "dead-letters": "Messages that could not be processed.",
    "topics": "The topics of the plant's Kafka.",
    "benchmark": "What methods and their components are worth on a data set.",
    "audit": "Predict archived verdicts of a line again, and say which do not reproduce.",
    "verdicts": "The archive of verdicts: query, export, compact.",
    "store": "The plant's object store.",
}

_MAX_MEGAPIXELS_KEY = "max_megapixels"
_SETTINGS = ("store", "device", _MAX_MEGAPIXELS_KEY)


app = typer.Typer(
    name="flowgauge",
    cls=lazy_group(
        "flowgauge.cli",
        COMMANDS,
        {"demo": "demo.command", "label": "golden", "alerts": "status", "changes": "status"},
        EPILOG,
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
            help="The largest image that is decoded, in millions of pixels (64). Each takes up to 20 MB of memory.",
            show_default=False,
        ),
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="Of warnings, and of what run and worker tell: lines, or JSON objects on stderr.")
    ] = LogFormat.HUMAN,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Inspects products on a line as images arrive, and adapts its gauge while the line changes.

    Every line has a gauge: a model that is adapted to what the line shows, and
    never trains on images that it finds suspect.

    \b
    flowgauge demo
    flowgauge fit ./good --line press-3 --store ./plant
    flowgauge run ./incoming --line press-3 --store ./plant
    """
    set_up_logging(log_format)
    settings = {} if config is None else _read(config)
    text = settings.pop(_MAX_MEGAPIXELS_KEY, None)
    if max_megapixels is None and text is not None:
        max_megapixels = _megapixels(text)
    set_limits(ImageLimits() if max_megapixels is None else ImageLimits(max_pixels=round(max_megapixels * 1e6)))
    context.default_map = _defaults_for(context.command, settings)


def _read(path: Path) -> dict[str, str]:
    """Option -> value. Raises `SettingsError` for a file that is missing, no TOML, or sets what there is not."""
    try:
        data = path.read_bytes()
        # Windows' editors put a byte order mark before it, or write two bytes a letter, as they do with JSON
        values = tomllib.loads(data.decode(detect_encoding(data)))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", "Check the path given to --config.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML: {error}.", 'A line looks like this: store = "./plant"') from error
    unknown = sorted(values.keys() - set(_SETTINGS))
    if unknown:
        raise SettingsError(
            f"{path} sets {', '.join(unknown)}, which is no setting.", f"Settings: {', '.join(_SETTINGS)}."
        )
    return {key: str(value) for key, value in values.items()}


def _megapixels(text: str) -> float:
    """Raises `SettingsError` for what is no number from 1 up."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < inf:
        raise SettingsError(f"{_MAX_MEGAPIXELS_KEY} = {text} is no size.", "Give millions of pixels: 120, say.")
    return value


def _defaults_for(command: Any, values: dict[str, str]) -> dict[str, Any]:
    """`values` for every command below `command`, in the nested form of click's `default_map`."""
    below = getattr(command, "commands", {})
    return {**values, **{name: _defaults_for(each, values) for name, each in below.items()}}
