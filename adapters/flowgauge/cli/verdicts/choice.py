"""Which verdicts of the archive a command is about."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from flowgauge.domain.messages import Decision
from flowgauge.services.verdict_queries import MEMORY, Chosen


def instant(text: str) -> datetime:
    """A day or a time, in UTC unless it says otherwise."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no time: write 2026-11-28, or 2026-11-28T06:00.") from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


@dataclass(frozen=True)
class Choice:
    line: Annotated[str | None, typer.Option(help="Of this line only.")] = None
    since: Annotated[
        datetime | None,
        typer.Option(parser=instant, metavar="TIME", help="Of events from then on: 2026-11-28, or 2026-11-28T06:00."),
    ] = None
    until: Annotated[
        datetime | None, typer.Option(parser=instant, metavar="TIME", help="Of events before then; in UTC.")
    ] = None
    decision: Annotated[list[Decision] | None, typer.Option(help="Of this decision only; may be repeated.")] = None
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor, at most; all by default.")] = None
    memory: Annotated[str, typer.Option(metavar="SIZE", help="What DuckDB may take at most.")] = MEMORY

    @property
    def chosen(self) -> Chosen:
        return Chosen(self.line, self.since, self.until, tuple(self.decision or ()))
