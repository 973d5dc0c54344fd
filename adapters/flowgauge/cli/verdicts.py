"""`flowgauge verdicts`: the archive of verdicts."""

import csv as csv_files
import json as json_text
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

from flowgauge.app.bootstrap import open_existing
from flowgauge.cli import options
from flowgauge.cli.commands import unbundled
from flowgauge.cli.output import beside, emit, listing, say, show, shown, warn
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable
from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import Decision
from flowgauge.services import archive_files, verdict_export
from flowgauge.services.verdict_export import Format, of_csv
from flowgauge.services.verdict_queries import MEMORY, Chosen, VerdictQueries, named_queries

verdicts = typer.Typer(no_args_is_help=True)

# rows that are printed without being asked for: fewer cut the table of a day's hours and lines, more scroll it away
_ROWS = 1_000


def instant(text: str) -> datetime:
    """A day or a time, in UTC unless it says otherwise."""
    try:
        at = datetime.fromisoformat(text)
        return (at.replace(tzinfo=UTC) if at.tzinfo is None else at).astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the latter before the year 1 or after 9999, in UTC
        raise typer.BadParameter(f"{text!r} is no time: write 2026-11-28, or 2026-11-28T06:00.") from error


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


@verdicts.command()
@unbundled
def query(
    store: options.Store,
    choice: Choice,
    sql: Annotated[str | None, typer.Argument(help="One SELECT from the view verdicts.", metavar="SQL")] = None,
    named: Annotated[
        str | None, typer.Option(help="One that is shipped instead: see flowgauge verdicts queries.", metavar="NAME")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(help="What $NAME in the query stands for; may be repeated.", metavar="NAME=VALUE"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows that are printed at most.")] = _ROWS,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    json: options.Json = False,
) -> None:
    """Ask the archive of verdicts in SQL, as DuckDB speaks it.

    The view verdicts has a column for each field of a verdict, and besides
    event_time, by which a verdict counts, and date, the day of that; times are
    in UTC. The options narrow what is in the view, and --since and --until
    also which days are read. SQL reads the archive and nothing else.

    \b
    flowgauge verdicts query --named reject-rate --since 2026-11-27 \\
        --store ./plant
    flowgauge verdicts query --named lookup --param id=shift-2/0411.png \\
        --store s3://flowgauge
    flowgauge verdicts query "SELECT line, count(*) FROM verdicts GROUP BY line" \\
        --store ./plant --csv
    """
    if csv and json:
        raise UserError("A result is printed once.", "Give --csv or --json.")
    wanted, parameters = _sql(sql, named), _parameters(param or ())
    with (
        open_existing(store) as plant,
        VerdictQueries(plant.objects, choice.chosen, choice.threads, choice.memory) as asked,
    ):
        result = asked.ask(wanted, parameters)
        rows, more = result.rows(limit)
        names = result.schema.names
    if json:
        emit([dict(zip(names, map(_plain, row), strict=True)) for row in rows])
    elif csv:
        sys.stdout.writelines(map(_line_of_csv, [names, *rows]))
    else:
        show(names, ([f"{v:%F %T}" if isinstance(v, datetime) else _text(v) for v in row] for row in rows))
    if more:
        warn(f"These are the first {limit} rows of more: give --limit, or narrow the query.")


@verdicts.command()
def queries(json: options.Json = False) -> None:
    """The queries that are shipped, and what each answers.

    --json gives their SQL too, from which to write others.

    \b
    flowgauge verdicts queries
    """
    listing(json, [each._asdict() for each in named_queries().values()], {"name": "name", "": "text"})


@verdicts.command()
@unbundled
def export(
    out: Annotated[Path, typer.Argument(help="The file to write: .csv or .parquet.", metavar="FILE")],
    store: options.Store,
    choice: Choice,
) -> None:
    """Write verdicts of the archive into one file, for other tools.

    Parquet has the archive's own columns. CSV has a column for each figure of
    statistics and source, and lists as JSON. Rows come day by day.

    \b
    flowgauge verdicts export rejects.csv --decision reject --line press-3 \\
        --store ./plant
    flowgauge verdicts export november.parquet --since 2026-11-01 \\
        --until 2026-12-01 --store s3://flowgauge
    """
    if out.suffix not in Format.__members__.values():
        raise UserError(f"{out} is neither CSV nor Parquet.", f"Name a file that ends in {' or '.join(Format)}.")
    check_writable(out, option="verdicts export")
    part = beside(out)
    try:
        with (
            open_existing(store) as plant,
            VerdictQueries(plant.objects, choice.chosen, choice.threads, choice.memory) as queries,
            bars() as report,
            part.open("wb") as file,
        ):
            rows = verdict_export.export(queries, file, Format(out.suffix), report)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    say(f"wrote {out}, {rows} verdicts")


@verdicts.command()
def compact(store: options.Store, json: options.Json = False) -> None:
    """Make copies of finished days of the archive that are quick to read.

    The archive is many small files, and to open them takes a query longer than
    to count what is in them. Copies, under compacted/, stand for a hundred
    files each and are sorted by line. The files themselves stay as they are,
    and no verdict is ever shown twice. Run it once a day; it may be
    interrupted.

    \b
    flowgauge verdicts compact --store s3://flowgauge
    """
    with open_existing(store) as plant, bars() as report:
        made = archive_files.compact(plant, report)
    if json:
        emit(made)
        return
    say(f"{made.copies} copies were made of {made.files} files, with {made.verdicts} verdicts.")
    if made.removed:
        say(f"{made.removed} copies were removed: what they stood for has changed.")


def _sql(sql: str | None, named: str | None) -> str:
    if named is None and sql is not None:
        return sql
    known = named_queries()
    if named is None or sql is not None:
        raise UserError("A query is written, or named.", f"Give SQL, or --named and one of {', '.join(known)}.")
    if named not in known:
        raise UserError(f"There is no query {named!r}.", f"Those that are shipped: {', '.join(known)}.")
    return known[named].sql


def _parameters(given: Sequence[str]) -> Mapping[str, str]:
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise UserError(f"{each!r} does not say what stands for what.", "Write NAME=VALUE, such as id=0411.png.")
        found[name] = value
    return found


def _plain(value: object) -> Any:
    """As JSON has it."""
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case None | bool() | int() | str():
            return value
    return str(value)


def _line_of_csv(row: Sequence[object]) -> str:
    line = StringIO()
    # with an end of its own, for Python before 3.13 quotes a carriage return only where that has one
    csv_files.writer(line, lineterminator="\r\n").writerow(map(_cell, row))
    return line.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: object) -> object:
    """As CSV has it. A file has control characters as they are; to a terminal, which they steer, they are spelled."""
    text = _text(value)
    if not isinstance(text, str):
        return text
    return shown(of_csv(text)) if sys.stdout.isatty() else of_csv(text)


def _text(value: object) -> object:
    """What is no single value as JSON."""
    plain = _plain(value)
    return json_text.dumps(plain, ensure_ascii=False) if isinstance(plain, list | dict) else plain
