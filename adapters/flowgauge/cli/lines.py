"""`flowgauge lines`: the lines of a store and how each is run."""

import inspect
import textwrap
from typing import Annotated, Any

import typer

from flowgauge.app.bootstrap import open_existing, open_store
from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.output import complain, emit, listing, show
from flowgauge.cli.person import person
from flowgauge.domain.errors import SettingsError, UserError
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.object_keys import line_name
from flowgauge.registry import lines as registry
from flowgauge.registry.snapshots import active_snapshots
from flowgauge.services.settings import change_settings

lines = typer.Typer(no_args_is_help=True)


@lines.command("list")
def list_lines(store: options.Store, json: options.Json = False) -> None:
    """Every line with its active gauge, its policy and its buffer; --json has every setting.

    Exits with 2 where the settings of a line do not hold; the others are shown all the same.

    \b
    flowgauge lines list --store ./plant
    """
    found, damaged = list[dict[str, Any]](), list[SettingsError]()
    with open_existing(store) as plant:
        versions = {name: message.version for name, message in active_snapshots(plant.log).items()}
        for name in registry.lines(plant):
            try:
                settings = registry.line_settings(plant.objects, name).model_dump(mode="json")
            except SettingsError as error:
                settings = dict.fromkeys(LineSettings.model_fields)
                damaged.append(error)
            buffered = len(plant.state.buffer(name))
            found.append({"line": name, "gauge_version": versions.get(name), "buffered": buffered} | settings)
    listing(json, found, {"line": "line", "gauge": "gauge_version", "policy": "policy", "buffered": "buffered"})
    for each in damaged:
        complain(each)
    raise typer.Exit(Exit.MISTAKE if damaged else Exit.FINE)


def set_settings(
    line: options.LineArgument,
    changes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Settings to change; KEY= unsets one.")],
    store: options.Store,
    json: options.Json = False,
) -> None:
    """Change settings of a line; a running worker takes them up by itself.

    \b
    flowgauge lines set press-3 policy=propose deadline_seconds=2 --store ./plant
    flowgauge lines set press-3 adapt_schedule="0 2 * * *" --store ./plant
    """
    wanted: dict[str, str | None] = {}
    for change in changes:
        key, found, value = change.partition("=")
        if not found:
            raise UserError(f"{change!r} does not say what to set.", "Write KEY=VALUE, such as policy=propose.")
        wanted[key.strip()] = value.strip() or None
    with open_store(store) as plant:
        settings = change_settings(plant, line_name(line), wanted, person())
    document = settings.model_dump(mode="json", exclude={"schema_version"})
    emit(document) if json else show((f"settings of {line}", ""), document.items())


_NAME_COLUMNS = 25  # of help: the longest name and two spaces
_described = "\n".join(
    textwrap.fill(
        f"{name:{_NAME_COLUMNS}}{field.description}",
        78,  # of a terminal's 80: more, and lines are wrapped once more
        subsequent_indent=" " * _NAME_COLUMNS,
        break_on_hyphens=False,
    )
    for name, field in LineSettings.model_fields.items()
    if field.description and name != "schema_version"
)
lines.command("set", help=f"{inspect.cleandoc(set_settings.__doc__ or '')}\n\n\b\n{_described}")(set_settings)
