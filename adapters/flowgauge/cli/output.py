"""What people and scripts read: results on stdout, everything else on stderr."""

import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowgauge.domain.errors import FlowgaugeError
from flowgauge.domain.object_keys import spelled

_UNBOUNDED = 10_000  # columns of a pipe or a file: nothing is cut or folded there


def stdout() -> Console:
    return _console(stderr=False)


def stderr() -> Console:
    return _console(stderr=True)


def live() -> Console:
    """Where a live line may stand: results printed to `stdout` then go above it and not through it."""
    return stdout() if stdout().is_terminal else stderr()


@lru_cache
def _console(*, stderr: bool) -> Console:
    """One each, so that whatever is printed while something is live knows of it."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def say(text: str) -> None:
    stdout().print(escape(spelled(text)))


def warn(text: str) -> None:
    stderr().print(f"[yellow]Warning:[/] {escape(spelled(text))}")


def complain(error: FlowgaugeError) -> None:
    stderr().print(f"[bold red]Error:[/] [red]{escape(spelled(str(error)))}[/]")


def emit(document: Any) -> None:
    """JSON for scripts, without colours."""
    print(as_json(document))  # noqa: T201  rich would wrap and colour it


def emit_line(document: Any) -> None:
    """One JSON object on a line of its own, at once."""
    print(_dumped(document), flush=True)  # noqa: T201


def as_json(document: Any) -> str:
    return _dumped(document, indent=2)


def _dumped(document: Any, indent: int | None = None) -> str:
    return spelled(json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False), backslash=r"\\")


def write_whole(path: Path, text: str) -> None:
    """Never half a file, whenever the run is interrupted."""
    beside(path).write_text(spelled(text), encoding="utf-8")
    beside(path).replace(path)


def beside(path: Path) -> Path:
    """Where a file is made that then takes the place of `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def show(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table: None becomes a dash, fractions get four significant digits."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell(value)) for value in row))
    stdout().print(table)


def cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else spelled(str(value))
