"""How long work tells how far it is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


def silent(what: str, done: int, total: int) -> None:
    """For work that is itself one step of a longer one."""


def labelled(progress: Progress, label: str) -> Progress:
    """For one of several alike stretches of work: which one, as `2 of 3`, follows what is being done."""
    return lambda what, done, total: progress(f"{what}, {label}", done, total)


def reported(steps: Sequence[Item], what: str, progress: Progress) -> Iterator[Item]:
    """Each of `steps` in turn, reported before it begins and once more when all are done."""
    return counted(steps, len(steps), what, progress)


def counted(items: Iterable[Item], total: int, what: str, progress: Progress) -> Iterator[Item]:
    """The same of at most `total` items that nobody has counted."""
    for done, item in enumerate(items):
        progress(what, done, total)
        yield item
    progress(what, total, total)
