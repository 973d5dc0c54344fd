"""Progress bars on stderr, so that stdout stays clean for results."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flowgauge.cli.output import stderr


class Report(Protocol):
    def __call__(self, what: str, done: int, total: int) -> None: ...


@contextmanager
def bars() -> Iterator[Report]:
    """Yields what core calls with its progress; each `what` gets a bar, which vanishes when it is done. Nothing is
    drawn where stderr is no terminal.
    """
    console = stderr()
    if not console.is_terminal:
        yield lambda what, done, total: None
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
