"""`flowgauge verdicts query` and `queries`: SQL over the archive of verdicts."""

import csv as csv_files
import json as json_text
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Annotated, Any

import typer

from flowgauge.app.bootstrap import open_store
from flowgauge.cli import options
from flowgauge.cli.output import emit, listing, show, warn
from flowgauge.cli.verdicts.choice import Choice
from flowgauge.domain.errors import UserError
from flowgauge.services.verdict_queries import VerdictQueries, named_queries

# rows that are printed without being asked for: fewer cut the table of a day's hours and lines, more scroll it away
_ROWS = 1_000


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
        open_store(store) as plant,
        VerdictQueries(plant.objects, choice.chosen, choice.threads, choice.memory) as asked,
    ):
        result = asked.ask(wanted, parameters)
        rows, more = result.rows(limit)
        names = result.schema.names
    if json:
        emit([dict(zip(names, map(_plain, row), strict=True)) for row in rows])
    elif csv:
        writer = csv_files.writer(sys.stdout, lineterminator="\n")
        writer.writerows([names, *([_text(value) for value in row] for row in rows)])
    else:
        show(names, ([_cell(value) for value in row] for row in rows))
    if more:
        warn(f"These are the first {limit} rows of more: give --limit, or narrow the query.")


def queries(json: options.Json = False) -> None:
    """The queries that are shipped, and what each answers.

    --json gives their SQL too, from which to write others.

    \b
    flowgauge verdicts queries
    """
    listing(json, [each._asdict() for each in named_queries().values()], {"name": "name", "": "text"})


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


def _text(value: object) -> object:
    """As CSV has it: what is no single value as JSON."""
    plain = _plain(value)
    return json_text.dumps(plain, ensure_ascii=False) if isinstance(plain, list | dict) else plain


def _cell(value: object) -> object:
    return f"{value:%F %T}" if isinstance(value, datetime) else _text(value)
