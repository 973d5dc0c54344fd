"""Files of results: where they may be written, what an interrupted run left in them, and what is printed at the end."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter

from flowgauge.cli.output import emit, plain, say, show, write_whole
from flowgauge.domain.errors import UserError

Found = TypeVar("Found")

OutAfterFits = Annotated[
    Path | None, typer.Option("--json", help="Write the figures there, after every fit; a second run goes on.")
]
OutAfterSeeds = Annotated[
    Path | None, typer.Option("--json", help="Write the figures there, after every seed; a second run goes on.")
]


def check_writable(*paths: Path | None, option: str = "--json") -> None:
    """Before the work and not after it. Raises `UserError` for a path at which no file can be written."""
    for path in paths:
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise UserError(f"{path} is no place for a file.", f"Give {option} a file name in a folder that exists.")


def left_in(
    out: Path | None, key: Callable[[], str], read: Callable[[dict[str, Any]], Found], what: str, option: str = "--json"
) -> Found | None:
    """What `read` makes of the document in `out`; None where there is none. `key` names images and settings of this
    run, `what` the command whose document it should be, and `option` is how `out` was given.

    Raises `UserError` for a file of something else, which stays as it is.
    """
    if out is None or not out.exists():
        return None
    try:
        document = json.loads(out.read_bytes())
        theirs, found = document["key"], read(document)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out} is no result of {what} ({error}).", f"Give {option} another name.") from error
    # images are hashed for the key: that takes longer than the file's form, which is therefore checked first
    if theirs != key():
        raise UserError(f"{out} tells of other images or settings.", f"Give {option} another name, or remove it.")
    return found


def items_left_in(
    out: Path | None,
    key: Callable[[], str],
    kind: type[Found],
    field: str,
    what: str = "this benchmark",
    option: str = "--json",
) -> list[Found]:
    """The list `field` of the document in `out`; see `left_in`."""
    items = TypeAdapter(list[kind])  # type: ignore[valid-type]
    return left_in(out, key, lambda document: items.validate_python(document[field], strict=False), what, option) or []


def write_results(out: Path | None, document: Mapping[str, Any]) -> None:
    """Where `out` is given."""
    if out is not None:
        write_whole(out, json.dumps(document, indent=2, default=plain))


def conclude(
    document: object,
    files: Sequence[Path | None],
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    sentences: Iterable[str] = (),
) -> None:
    """Print the document, for scripts, where none of the files was asked for; else a table for people, and where the
    files are.
    """
    if not any(files):
        emit(document)
        return
    show(columns, rows)
    for sentence in sentences:
        say(sentence)
    for path in filter(None, files):
        say(f"wrote {path}")
