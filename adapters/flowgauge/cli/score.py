"""`flowgauge score`: predictions of single images, without a stream."""

from pathlib import Path
from typing import Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.output import emit, show
from flowgauge.cli.progress import bars


def score(
    line: Annotated[str, typer.Argument(help="The line whose gauge judges.")],
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG, BMP or TIFF files.")],
    store: options.Store,
    version: Annotated[str | None, typer.Option(help="A stored version instead of the active one.")] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of masks that cut the objects out: a PNG of each file's name, white on the object."),
    ] = None,
    device: options.DeviceOption = options.Device.AUTO,
    json: options.Json = False,
) -> None:
    """Judge images with a line's gauge.

    Higher scores are more anomalous. Exits with 0 when every image got a
    verdict and with 2 when one could not be read; the others are judged all
    the same.

    \b
    flowgauge score press-3 part.png --store ./plant
    flowgauge score press-3 incoming/*.png --store ./plant --json
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.cli.model import stored_gauge
    from flowgauge.cli.predict_files import Unjudged, predict_files

    with open_store(store) as plant:
        gauge = stored_gauge(plant, line, version, device)
    with bars() as report:
        results = list(predict_files(gauge, images, masks, report))
    if json:
        emit({"line": line, "gauge_version": gauge.version, "images": [each.document() for each in results]})
    else:
        show(("image", "score", "decision", "reasons"), (each.row() for each in results))
    raise typer.Exit(Exit.MISTAKE if any(isinstance(each, Unjudged) for each in results) else Exit.FINE)
