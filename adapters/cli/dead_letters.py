"""`flowgauge dead-letters`: messages that could not be processed, and why."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli import options
from adapters.cli.output import emit, show

if TYPE_CHECKING:
    from core.ports import Log, Record

dead_letters = typer.Typer(no_args_is_help=True, help="Messages that could not be processed.")

_PAGE = 16  # a dead letter holds a whole image


@dead_letters.command("list")
def list_dead_letters(
    store: options.Store,
    line: Annotated[str | None, typer.Option(help="Only this line's.")] = None,
    json: options.Json = False,
) -> None:
    """Every kept dead letter with its reason, the oldest first.

    \b
    flowgauge dead-letters list --line press-3 --store ./plant
    """
    from core.deadletters import REASON
    from streams.bootstrap import open_store

    with open_store(store) as plant:
        found = [
            {
                "line": letter.key,
                "image_id": letter.headers.get("ce_id"),
                "at": letter.at.isoformat(timespec="seconds"),
                "reason": letter.headers.get(REASON),
            }
            for letter in _letters(plant.log)
            if line in (None, letter.key)
        ]
    emit(found) if json else show(("line", "image", "at", "reason"), (tuple(letter.values()) for letter in found))


def _letters(log: "Log") -> Iterator["Record"]:
    from core.messages import DEAD_LETTERS

    for partition in range(log.partitions(DEAD_LETTERS)):
        offset = 0
        while page := log.read(DEAD_LETTERS, partition, offset, _PAGE):
            yield from page
            offset = page[-1].offset + 1
