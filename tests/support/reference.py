"""The pages of docs/reference that are made from the code; `python -m tests.support.reference` writes them."""

import inspect
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flowgauge.cli.app import app
from flowgauge.domain import messages
from flowgauge.domain.lines import LineSettings
from flowgauge.prometheus.metrics import PrometheusMeter

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
MODELS: tuple[type[BaseModel], ...] = (
    messages.Verdict,
    messages.Statistics,
    messages.Region,
    messages.Source,
    messages.PartVerdict,
    messages.View,
    messages.PartSource,
    messages.Alert,
    messages.AdaptationRequest,
    messages.SnapshotAnnouncement,
    messages.Trial,
    messages.TrialRules,
    messages.ShadowVerdict,
    messages.Opinion,
)
MADE = "This page is made from the code: `make reference`.\n"


def pages() -> dict[str, str]:
    """File name -> text."""
    return {
        "commands.md": commands(),
        "settings.md": settings(),
        "messages.md": messages_page(),
        "metrics.md": metrics(),
    }


def commands() -> str:
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="flowgauge")
    return f"# Commands\n\n{MADE}\n" + "\n".join(_command(root, context))


def _command(command: Any, context: typer.Context) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name in command.list_commands(context):
            # groups import a command when it is called
            _, inner, _ = command.resolve_command(context, [name])
            yield from _command(inner, typer.Context(inner, info_name=name, parent=context))
        if not command.invoke_without_command or context.parent is None:
            return
    yield f"## {context.command_path}\n"
    yield _help(command.help or "")
    rows = [_parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    yield _table(("option", "what", "default"), [row for row in rows if row[0] != "`--help`"])


def _help(text: str) -> str:
    """Paragraphs as they are; what follows a line of \\b is an example."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        verbatim = paragraph.startswith("\b")
        body = paragraph.removeprefix("\b").strip("\n")
        parts.append(f"```text\n{body}\n```" if verbatim else " ".join(body.split()))
    return "\n\n".join(parts) + "\n"


def _parameter(parameter: Any) -> tuple[str, str, str]:
    argument = parameter.param_type_name == "argument"
    name = (
        str(parameter.metavar or parameter.name).upper()
        if argument
        else ", ".join([*parameter.opts, *parameter.secondary_opts])
    )
    words = getattr(parameter, "help", None) or ""
    variable = getattr(parameter, "envvar", None)
    words = f"{words} Environment: `{variable}`." if variable else words
    default = parameter.default() if callable(parameter.default) else parameter.default
    if parameter.required:
        shown = "required"
    elif default is None or default is False or default == () or "UNSET" in str(default).upper():
        shown = ""
    else:
        shown = f"`{default.value if isinstance(default, Enum) else default}`"
    return f"`{name}`", words, shown


def settings() -> str:
    rows = [
        (f"`{name}`", _words(field), _bounds(field), _default(field))
        for name, field in LineSettings.model_fields.items()
        if name != "schema_version"
    ]
    return (
        f"# Settings of a line\n\n{MADE}\n`flowgauge lines set LINE KEY=VALUE ...` changes them, `KEY=` unsets one; a"
        f" running worker takes them up by itself.\n\n{_table(('setting', 'what', 'range', 'default'), rows)}"
    )


def messages_page() -> str:
    parts = [
        f"# Messages\n\n{MADE}\nJSON on the topics `flowgauge.verdicts`, `.part-verdicts`, `.shadow-verdicts`,"
        " `.alerts`, `.adaptations` and `.snapshots`."
        " Images are CloudEvents: [a plant](../how-to/plant.md#let-cameras-publish). New fields may come; readers"
        " ignore what they do not know.\n"
    ]
    for model in MODELS:
        kinds = model.model_json_schema()["properties"]
        rows = [(f"`{name}`", _kind(kinds[name]), _words(field)) for name, field in model.model_fields.items()]
        about = " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())
        parts.append(f"## {model.__name__}\n\n{about}\n\n{_table(('field', 'type', 'what'), rows)}")
    alerts = [(f"`{kind.value}`",) for kind in messages.AlertKind]
    parts.append(
        "## Alert kinds\n\nWhat each asks for: [troubleshooting](../how-to/troubleshooting.md).\n\n"
        + _table(("kind",), alerts)
    )
    return "\n".join(parts)


def metrics() -> str:
    registry = CollectorRegistry()
    PrometheusMeter(registry)
    rows = [
        (f"`{metric.name}{'_total' if metric.type == 'counter' else ''}`", metric.type, metric.documentation)
        for metric in sorted(registry.collect(), key=lambda metric: metric.name)
    ]
    return f"# Metrics\n\n{MADE}\nEvery worker serves them at `/metrics` with `--metrics-port`.\n\n" + _table(
        ("metric", "type", "what"), rows
    )


def _words(field: FieldInfo) -> str:
    return field.description or ""


def _kind(schema: dict[str, Any]) -> str:
    """A type of JSON, in words."""
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "$ref" in schema:
        return f"`{schema['$ref'].rsplit('/', 1)[1]}`"
    if schema.get("type") == "array":
        inner = [_kind(each) for each in schema.get("prefixItems", [])] or [_kind(schema.get("items", {}))]
        return f"list of {', '.join(inner)}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    return schema.get("format") or schema.get("type") or "any"


def _bounds(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {value:g}"
        for each in field.metadata
        for name, sign in signs.items()
        if (value := getattr(each, name, None)) is not None
    ]
    choices = [
        f"`{member.value}`"
        for kind in (field.annotation,)
        if inspect.isclass(kind) and issubclass(kind, Enum)
        for member in kind
    ]
    return ", ".join(bounds or choices)


def _default(field: FieldInfo) -> str:
    default: Any = field.default
    return "unset" if default is None else f"`{default.value if isinstance(default, Enum) else default}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]]) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
