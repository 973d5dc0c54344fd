"""What people and scripts read: results on stdout, everything else on stderr. What is logged is for both: as lines, or
as one JSON object a line.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from io import TextIOWrapper
from operator import itemgetter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowgauge.domain.errors import FlowgaugeError
from flowgauge.domain.object_keys import spelled

# columns of a pipe or a file: with fewer, paths and reasons would be cut or folded there, which scripts cannot read
_UNBOUNDED = 10_000
# control characters: those that JSON lets through, and all
_UNESCAPED = re.compile("[\x7f-\x9f]")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")


def stdout() -> Console:
    return _console(stderr=False)


def stderr() -> Console:
    return _console(stderr=True)


@lru_cache
def _console(*, stderr: bool) -> Console:
    """One each, so that whatever is printed while something is live knows of it."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def spell_what_stdout_lacks() -> None:
    """Write characters that its encoding lacks as `\\u2588`, which is JSON too, as Python does on stderr."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def drawn(text: str, plain: str) -> str:
    """`text`, or `plain` where the encoding of stdout lacks it."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return plain
    return text


def shown(text: str, keep: str = "") -> str:
    """`text` with its control characters, all but those in `keep`, and bytes that are no UTF-8, as `\\x1b`: in a file's
    name they would reach the terminal and steer it.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else f"\\x{ord(found[0]):02x}", spelled(text))


def say(text: str) -> None:
    stdout().print(escape(shown(text, keep="\n")))


def warn(text: str) -> None:
    _log.warning("%s", spelled(text))


def complain(error: FlowgaugeError) -> None:
    _log.error("%s", spelled(str(error)))


_log = logging.getLogger("flowgauge")

results = logging.getLogger("flowgauge.results")
"""Takes what a stream tells people of its images: on stdout, unless logs are JSON."""

FIELDS = ("line", "partition", "verdict_id")
"""What a record may say beside its message, by `extra`."""

_MARKS = {logging.WARNING: ("Warning:", "33"), logging.ERROR: ("Error:", "1;31")}  # and their colours on a terminal


class LogFormat(StrEnum):
    HUMAN = "human"
    JSON = "json"


class _LogLines(logging.StreamHandler[Any]):
    def __init__(self, shape: LogFormat) -> None:
        super().__init__()
        self._shape = shape

    def emit(self, record: logging.LogRecord) -> None:
        # looked up each time: a progress bar puts itself in the place of both, so that lines go above it
        self.stream = sys.stdout if record.name == results.name and self._shape is LogFormat.HUMAN else sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if self._shape is LogFormat.HUMAN:
            # a traceback has lines, and so has what a database says of a query
            text = shown(text, keep="\n" if record.levelno >= logging.ERROR or record.exc_info else "")
            mark, colour = _MARKS.get(record.levelno, ("", ""))
            if mark and self.stream.isatty() and "NO_COLOR" not in os.environ:
                mark = f"\x1b[{colour}m{mark}\x1b[0m"
            return f"{mark} {text}" if mark else text
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        given = {name: getattr(record, name) for name in FIELDS if getattr(record, name, None) is not None}
        head = {"at": at, "level": record.levelname.lower(), "logger": record.name, "message": text}
        return _dumped(head | given)


def set_up_logging(shape: LogFormat) -> None:
    """May be called again; libraries are heard from warnings on."""
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _LogLines)]:
        root.removeHandler(handler)
    root.addHandler(_LogLines(shape))
    _log.setLevel(logging.INFO)


def emit(document: Any) -> None:
    """JSON for scripts, without colours."""
    print(as_json(document))  # noqa: T201  rich would wrap and colour it


def emit_line(document: Any) -> None:
    """One JSON object on a line of its own, at once."""
    print(_dumped(document), flush=True)  # noqa: T201


def as_json(document: Any) -> str:
    return _dumped(document, indent=2)


def _dumped(document: Any, indent: int | None = None) -> str:
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False, default=plain)
    return _UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", spelled(text, backslash=r"\\"))


def plain(value: Any) -> Any:
    """A model, a dataclass, a time or an id as JSON has it: the `default` of `json.dumps`."""
    from pydantic_core import to_jsonable_python  # which takes a tenth of a second: not every command has models

    return to_jsonable_python(value, by_alias=False)


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


Column = str | Callable[[dict[str, Any]], object]


def listing(as_json: bool, found: list[dict[str, Any]], columns: Mapping[str, Column]) -> None:
    """`found` as JSON, or as a table: each column shows a field, or what it makes of the whole."""
    if as_json:
        emit(found)
        return
    makers = [each if callable(each) else itemgetter(each) for each in columns.values()]
    show(list(columns), ([make(each) for make in makers] for each in found))


def cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
    return shown(str(value))
