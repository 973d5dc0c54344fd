"""`flowgauge verdicts`: the archive of verdicts."""

import typer

from flowgauge.cli.commands import lazy_group

COMMANDS = {
    "query": "Ask the archive of verdicts in SQL, as DuckDB speaks it.",
    "queries": "The queries that are shipped, and what each answers.",
    "export": "Write verdicts of the archive into one file, for other tools.",
    "compact": "Make copies of finished days of the archive that are quick to read.",
}

verdicts = typer.Typer(cls=lazy_group(__name__, COMMANDS, {"queries": "query"}), no_args_is_help=True)
