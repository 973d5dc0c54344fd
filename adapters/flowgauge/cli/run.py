"""`flowgauge run`: the whole pipeline in one process, over a folder in which images appear."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from flowgauge.adaptation.adapt import adapt
from flowgauge.app.bootstrap import open_store
from flowgauge.app.embedded import embedded, folder_source
from flowgauge.app.notify import notifying
from flowgauge.cli import options
from flowgauge.cli.model import compiling, loading
from flowgauge.cli.output import warn
from flowgauge.cli.worker_messages import StreamMessages
from flowgauge.domain.choices import Engine
from flowgauge.domain.object_keys import line_name
from flowgauge.local.folder_options import WAIT_SECONDS, After, FolderOptions, Identity

log = logging.getLogger(__name__)


def run(
    folder: Annotated[Path, typer.Argument(help="The folder in which images appear; folders below it count too.")],
    line: options.Line,
    store: options.Store,
    once: Annotated[bool, typer.Option("--once", help="Work off what is there and stop.")] = False,
    batch: options.Batch = 16,
    identity: Annotated[
        Identity,
        typer.Option(
            help="What makes a file a new image: its name with its content; with its time too, for a camera that writes"
            " one file again and again and may show two parts alike; or its name alone, where names are serials."
        ),
    ] = Identity.CONTENT,
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="How long to wait for a file that is not all there or may not be read, since its last change.",
        ),
    ] = WAIT_SECONDS,
    after: Annotated[After, typer.Option(help="What becomes of a file once its verdict is stored.")] = After.KEEP,
    move_to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where --after move puts files, with their subfolders.")
    ] = None,
    device: options.DeviceOption = options.Device.AUTO,
    engine: options.EngineOption = Engine.AUTO,
    notify: options.Notify = None,
    json: options.JsonLines = False,
) -> None:
    """Score images as they appear in a folder, watch the line for drift, and adapt its gauge.

    Runs until Ctrl-C. Everything is durable: start it again after any crash
    and it goes on where it was, with one verdict for each image. A name that
    comes again with other content is another image. A file is taken when it
    is quiet and all there; what does not become so, and what cannot be read,
    is a dead letter (flowgauge dead-letters list). A line without a
    gauge gets review verdicts and fills its buffer, from which
    flowgauge fit --from-buffer makes the first gauge.

    \b
    flowgauge run ./incoming --line press-3 --store ./plant
    flowgauge run ./incoming --line press-3 --store ./plant --once --json
    flowgauge run ./incoming --line press-3 --after move --move-to ./scored
    flowgauge run ./incoming --line press-3 --store ./plant --notify notify.toml
    """
    messages = StreamMessages(as_json=json)
    with open_store(store) as plant:
        chosen = FolderOptions(wait_seconds=wait, identity=identity)
        source = folder_source(plant, folder, line_name(line), chosen, after, move_to, warn)
        runner = embedded(
            plant,
            loading(device),
            adapt,
            [source],
            # a folder of a few images is scored before anything is compiled
            compile=None if once and engine is Engine.AUTO else compiling(engine, device),
            notifying=None if notify is None else notifying(notify, plant),
            batch=batch,
            observer=messages.step,
            unavailable=messages.unavailable,
        )
        runner.run_until_idle() if once else runner.run()
        source.close()
        if once and source.away is not None:
            raise source.away
    log.info(messages.summary())
