"""`flowgauge verdicts`: the archive of verdicts."""

import typer

from flowgauge.cli.commands import Listed, lazy_group

COMMANDS = {
    "query": Listed("flowgauge.cli.verdicts.query:query", "Ask the archive of verdicts in SQL, as DuckDB speaks it."),
    "queries": Listed("flowgauge.cli.verdicts.query:queries", "The queries that are shipped, and what each answers."),
    "export": Listed(
        "flowgauge.cli.verdicts.export:export", "Write verdicts of the archive into one file, for other tools."
    ),
    "compact": Listed(
        "flowgauge.cli.verdicts.compact:compact", "Make copies of finished days of the archive that are quick to read."
    ),
}

verdicts = typer.Typer(
    cls=lazy_group(COMMANDS), no_args_is_help=True, help="The archive of verdicts: query, export, compact."
)
