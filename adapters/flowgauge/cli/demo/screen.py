"""What a person sees of the demonstration while it runs: the phase, the scores against the threshold, what happens."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flowgauge.cli.demo.scenario import Act
from flowgauge.domain.messages import Alert, AlertKind, Decision, Verdict

_LEVELS = " ▁▂▃▄▅▆▇█"
_COLOURS = {Decision.PASS: "blue", Decision.REVIEW: "yellow", Decision.REJECT: "red"}
_LOUD = {
    AlertKind.DRIFT: "magenta",
    AlertKind.ADAPTATION_PROPOSED: "yellow",
    AlertKind.ADAPTATION_REFUSED: "red",
    AlertKind.ADAPTATION_ACCEPTED: "green",
}
# verdicts that are shown: with more the lines wrap on a terminal of 80 columns
_WIDTH = 72


class Screen:
    """A context manager. On a terminal the last lines are redrawn as things move; elsewhere only events are printed.

    Events, such as a new phase or an alert, stay on the screen as lines of their own.
    """

    def __init__(self, console: Console, images: int) -> None:
        self._console = console
        self._images = images
        self._counts = dict.fromkeys(Decision, 0)
        self._recent: deque[Verdict] = deque(maxlen=_WIDTH)
        self._work: tuple[str, float] | None = None
        self._live = Live(console=console, refresh_per_second=8, transient=True, get_renderable=lambda: self)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def event(self, title: str, words: str = "", style: str = "bold") -> None:
        self._console.print(Text.assemble((f"{title:<12}", style), (words, "default")))

    def announce(self, act: Act) -> None:
        words = f"{act.phase.condition}: " if act.phase.condition else ""
        self.event(act.phase.name, f"{words}{len(act.training)} images that may train, {len(act.testing)} that test")

    def verdicts(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            self._counts[verdict.decision] += 1
            self._recent.append(verdict)

    def alert(self, alert: Alert) -> None:
        """Rejects are on the screen already, one by one."""
        if alert.kind is not AlertKind.REJECT:
            self.event(alert.kind.value.removeprefix("adaptation_"), alert.message, _LOUD.get(alert.kind, "bold"))

    @contextmanager
    def working(self) -> Iterator[None]:
        """While the block runs, what `progress` tells is shown; afterwards it is gone."""
        try:
            yield
        finally:
            self._work = None

    def progress(self, what: str, share: float) -> None:
        self._work = what, share

    def __rich__(self) -> RenderableType:
        rows: list[RenderableType] = [Text()]
        if self._recent:
            tally = (f"[{_COLOURS[decision]}]{count} {decision}[/]" for decision, count in self._counts.items())
            done, version = sum(self._counts.values()), escape(self._recent[-1].gauge_version or "none")
            words = f"{done} of {self._images} images  {'  '.join(tally)}  gauge [bold]{version}[/]"
            rows += [*_skyline(self._recent), Text.from_markup(words)]
        if self._work is not None:
            what, share = self._work
            bar = Table.grid(padding=(0, 2))
            bar.add_row(ProgressBar(total=1.0, completed=share, width=28), Text(what, "dim"))
            rows.append(bar)
        return Group(*rows)


def _skyline(recent: Sequence[Verdict]) -> list[Text]:
    """The last scores, oldest first, in two storeys: what rises above the threshold stands in the upper one."""
    scored = [(v.score, v.threshold, v.decision) for v in recent if v.score is not None and v.threshold is not None]
    lowest = min((score for score, _, _ in scored), default=0.0)
    upper, lower, steps = Text(), Text(), len(_LEVELS) - 1
    for score, threshold, decision in scored:
        # 0 at the lowest score shown, 1 at the verdict's own threshold; the bound keeps flat scores from dividing by 0
        height = (score - lowest) / max(threshold - lowest, 1e-9)
        for storey, above in ((upper, height - 1), (lower, height)):
            storey.append(_LEVELS[min(max(round(above * steps), 0), steps)], _COLOURS[decision])
    return [upper, Text("─" * len(scored) + " threshold", "dim"), lower]
