"""Progress bars on stderr, so that stdout stays clean for results."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBars

from flowgauge.cli.output import stderr
from flowgauge.domain.progress import Progress, silent


@contextmanager
def bars() -> Iterator[Progress]:
    """Yields what core calls with its progress; each `what` gets a bar, which vanishes when it is done. Nothing is
    drawn where stderr is no terminal.
    """
    console = stderr()
    if not console.is_terminal:
        yield silent
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ProgressBars(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)
            if done >= total:
                progress.remove_task(tasks.pop(what))

        yield report
