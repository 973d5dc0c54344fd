"""`flowgauge publish`: what a production line does, from a folder of images."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flowgauge.app.bootstrap import open_store
from flowgauge.cli import options
from flowgauge.cli.output import say, warn
from flowgauge.cli.progress import bars
from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import Event, from_epoch
from flowgauge.domain.object_keys import line_name, path_text
from flowgauge.kafka.publisher import ImagePublisher
from flowgauge.local.folder import images_below
from flowgauge.settings.environment import kafka_settings


def publish(
    folder: Annotated[Path, typer.Argument(help="Images below it are sent, in the order of their names.")],
    line: options.Line,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Images a second; all speed by default.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Send to this one; by the line's name else.")] = None,
    store: Annotated[
        str | None,
        typer.Option(envvar="FLOWGAUGE_STORE", help="s3://BUCKET for images above 1 MiB, which travel by reference."),
    ] = None,
) -> None:
    """Send the images of a folder to the plant, as a production line would.

    Returns when the brokers have them all. The id of an image is its path
    below the folder, its time of capture the file's. An image that is sent
    again is not scored again while it is among the last 10,000 of its
    partition; beyond them it is: a larger folder is scored twice.

    \b
    export FLOWGAUGE_KAFKA_BOOTSTRAP=localhost:9092
    flowgauge publish ./parts --line press-3 --rate 10
    """
    paths = images_below(folder, warn)
    if not paths:
        raise DatasetError(f"There is no image below {folder}.", "Give a folder of PNG, JPEG, BMP or TIFF files.")
    events = events_of(paths, folder, line_name(line))
    objects = open_store(store).objects if store is not None and store.startswith("s3://") else None
    with bars() as report, ImagePublisher(kafka_settings(os.environ), objects) as publisher:
        start = time.monotonic()
        for done, (path, event) in enumerate(zip(paths, events, strict=True), start=1):
            if rate is not None:
                time.sleep(max(0.0, start + (done - 1) / rate - time.monotonic()))
            publisher.publish(event, path.read_bytes(), partition)
            report(f"publishing to {line}", done, len(paths))
    say(f"{len(paths)} images of {line} are published.")


def events_of(paths: Sequence[Path], folder: Path, line: str) -> list[Event]:
    """An image's id is its path below `folder`, its time of capture the file's."""
    return [
        Event(
            image_id=path_text(path.relative_to(folder)),
            source=f"/lines/{line}",
            line=line,
            captured_at=from_epoch(path.stat().st_mtime),
        )
        for path in paths
    ]
