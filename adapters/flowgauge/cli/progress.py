"""Progress on stderr, so that stdout stays clean for results: bars on a terminal, else a line now and then."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBars

from flowgauge.cli.output import stderr
from flowgauge.domain.progress import Progress

# Less fills the log of a benchmark of hours; with more, its reader cannot tell slow from hung.
_SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def bars() -> Iterator[Progress]:
    """Yields what core calls with its progress. On a terminal each `what` gets a bar, which vanishes when it is done;
    in a log, work of more than a minute gets a line a minute.
    """
    console = stderr()
    if not console.is_terminal:
        yield _Lines(console)
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


class _Lines:
    """The step that is being done when a line is due; those between are left out."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed = monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = monotonic()
        if now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            self._console.print(f"{what}: {done} of {total}", markup=False)
