"""Progress bars on stderr, so that stdout stays clean for results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flowgauge.cli.output import stderr

Step = TypeVar("Step")
Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


def silent(what: str, done: int, total: int) -> None:
    """A report for work that is itself one step of a bar."""


def reported(steps: Sequence[Step], what: str, report: Report) -> Iterator[Step]:
    """Each of `steps` in turn, reported before it begins and once more when all are done."""
    for done, step in enumerate(steps):
        report(what, done, len(steps))
        yield step
    report(what, len(steps), len(steps))


@contextmanager
def bars() -> Iterator[Report]:
    """Yields what core calls with its progress; each `what` gets a bar, which vanishes when it is done. Nothing is
    drawn where stderr is no terminal.
    """
    console = stderr()
    if not console.is_terminal:
        yield silent
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)
            if done >= total:
                progress.remove_task(tasks.pop(what))

        yield report
