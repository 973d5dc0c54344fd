"""`flowgauge audit`: whether archived verdicts still come out as they were made."""

import os
from contextlib import ExitStack, closing
from typing import Annotated

import typer

from flowgauge.app.bootstrap import open_existing
from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.model import compiling, torch_device
from flowgauge.cli.output import emit, say, show
from flowgauge.cli.progress import bars
from flowgauge.domain.choices import Engine
from flowgauge.services.audit import audit as audited
from flowgauge.services.audit import summary
from flowgauge.services.predictions import SCORE_TOLERANCE
from flowgauge.services.retention import expired


def audit(
    line: options.LineArgument,
    store: options.Store,
    sample: Annotated[int, typer.Option(min=1, help="Verdicts that are drawn from the archive.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw: the same seed draws the same verdicts.")] = 0,
    device: options.DeviceOption = options.Device.AUTO,
    engine: options.EngineOption = Engine.AUTO,
    json: options.Json = False,
) -> None:
    """Predict archived verdicts of a line again, and say which do not reproduce.

    Each is predicted from the snapshot that it names and from its own image,
    whose hashes are checked first; its score must be the archived one to within
    0.00001, and its threshold and decision the same. A verdict whose image
    retention has deleted is told apart. Exits with 5 when one does not
    reproduce for any other reason.

    \b
    flowgauge audit press-3 --sample 1000 --seed 7 --store ./plant
    """
    with ExitStack() as stack:
        plant = stack.enter_context(open_existing(store))
        rules = None
        if store.startswith("s3://"):
            from flowgauge.s3.retention import Lifecycle  # its library is an extra
            from flowgauge.settings.environment import s3_settings

            bucket = store.removeprefix("s3://").rstrip("/")
            rules = stack.enter_context(closing(Lifecycle(s3_settings(os.environ), bucket)))
        findings = audited(
            plant,
            line,
            sample,
            seed,
            expired(plant, line, rules),
            stack.enter_context(bars()),
            compiling(engine, device),
            torch_device(device),
        )
    counts = summary(findings)
    if json:
        emit(
            {
                "line": line,
                "verdicts": len(findings),
                "seed": seed,
                "tolerance": SCORE_TOLERANCE,
                "outcomes": counts,
                "findings": [
                    {
                        "verdict_id": str(each.verdict.verdict_id),
                        "image_id": each.verdict.image_id,
                        "gauge_version": each.verdict.gauge_version,
                        "outcome": each.outcome,
                        "detail": each.detail,
                        "difference": each.difference,
                    }
                    for each in findings
                ],
            }
        )
    else:
        faults = [each for each in findings if not each.outcome.faultless]
        if faults:
            show(
                ("image", "gauge", "outcome", ""),
                ((each.verdict.image_id, each.verdict.gauge_version, each.outcome, each.detail) for each in faults),
            )
            say("")
        show(("outcome", "verdicts"), counts.items())
    raise typer.Exit(Exit.FINE if all(outcome.faultless for outcome in counts) else Exit.NOT_REPRODUCED)
