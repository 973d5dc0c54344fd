"""`flowgauge parts`: the verdicts on parts that several images show."""

from typing import Annotated

import typer

from flowgauge.app.bootstrap import open_existing
from flowgauge.cli import options
from flowgauge.cli.output import emit, show
from flowgauge.services.parts import latest_parts

parts = typer.Typer(no_args_is_help=True)


@parts.command("list")
def list_parts(
    store: options.Store,
    line: options.OnlyLine = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many of the latest are shown.")] = 20,
    json: options.Json = False,
) -> None:
    """The latest part verdicts with their views, the oldest first.

    \b
    flowgauge parts list --line press-3 --store ./plant
    """
    with open_existing(store) as plant:
        found = latest_parts(plant.log, limit, line)
    if json:
        emit(found)
        return
    rows = (
        (
            part.line,
            part.subject,
            part.decision.value,
            f"{part.decided_at:%Y-%m-%d %H:%M:%S}",
            f"{len(part.views)}/{part.expected_views}",
            ", ".join(f"{view.image_id} {view.decision.value}" for view in part.views),
            " ".join(part.reasons) or None,
        )
        for part in found
    )
    show(("line", "part", "decision", "decided (UTC)", "views", "images", "reasons"), rows)
