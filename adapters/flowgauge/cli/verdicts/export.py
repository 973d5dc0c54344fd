"""`flowgauge verdicts export`: a part of the archive as one file."""

from pathlib import Path
from typing import Annotated

import typer

from flowgauge.app.bootstrap import open_store
from flowgauge.cli import options
from flowgauge.cli.output import beside, say
from flowgauge.cli.progress import bars
from flowgauge.cli.results import check_writable
from flowgauge.cli.verdicts.choice import Choice
from flowgauge.domain.errors import UserError
from flowgauge.services import verdict_export
from flowgauge.services.verdict_export import Format
from flowgauge.services.verdict_queries import VerdictQueries


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
            open_store(store) as plant,
            VerdictQueries(plant.objects, choice.chosen, choice.threads, choice.memory) as queries,
            bars() as report,
            part.open("wb") as file,
        ):
            rows = verdict_export.export(queries, file, Format(out.suffix), report)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    say(f"wrote {out}, {rows} verdicts")
