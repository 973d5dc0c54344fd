"""`flowgauge score`: predictions of single images, without a stream."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flowgauge.app.bootstrap import open_store
from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.model import torch_device
from flowgauge.cli.output import emit, show
from flowgauge.cli.progress import Report, bars
from flowgauge.domain.errors import UnreadableImage, UserError
from flowgauge.evaluation.datasets import cut_out, outline_of
from flowgauge.models.prediction import Prediction
from flowgauge.services.snapshots import stored_gauge
from flowgauge.training.gauge import BATCH, Gauge
from flowgauge.vision.decoding import Picture, decode


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
    with open_store(store) as plant:
        gauge = stored_gauge(plant, line, version, torch_device(device))
    with bars() as report:
        results = list(_predict(gauge, images, masks, report))
    if json:
        emit({"line": line, "gauge_version": gauge.version, "images": [each.document() for each in results]})
    else:
        show(("image", "score", "decision", "reasons"), (each.row() for each in results))
    raise typer.Exit(Exit.MISTAKE if any(isinstance(each, _Unread) for each in results) else Exit.FINE)


@dataclass(frozen=True)
class _Scored:
    path: Path
    prediction: Prediction

    def document(self) -> dict[str, Any]:
        found = self.prediction
        return {
            "image": str(self.path),
            "score": found.score,
            "threshold": found.threshold,
            "decision": found.decision.value,
            "reasons": list(found.reasons),
            "regions": [region.model_dump() for region in found.regions],
        }

    def row(self) -> tuple[object, ...]:
        return self.path, self.prediction.score, self.prediction.decision.value, "; ".join(self.prediction.reasons)


@dataclass(frozen=True)
class _Unread:
    """A file that could not be read, and why."""

    path: Path
    error: str

    def document(self) -> dict[str, Any]:
        return {"image": str(self.path), "error": self.error}

    def row(self) -> tuple[object, ...]:
        return self.path, None, "unreadable", self.error


def _predict(gauge: Gauge, paths: Sequence[Path], masks: Path | None, report: Report) -> Iterator[_Scored | _Unread]:
    """One result per path, in order. Where `masks` is given, the mask of that file's name in it cuts the object out.

    Raises `UserError` for a mask that is missing, or that two files share.
    """
    if masks is not None:
        outlines = Counter(outline_of(path.name, masks) for path in paths)
        if shared := [outline for outline, images in outlines.items() if images > 1]:
            raise UserError(
                f"Several images have the mask {shared[0]}.", "Score images of one name one folder at a time."
            )
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        pictures = [_read(path, gauge, masks) for path in batch]
        predictions = iter(gauge.predict([picture for picture in pictures if isinstance(picture, Picture)]))
        for path, picture in zip(batch, pictures, strict=True):
            yield _Scored(path, next(predictions)) if isinstance(picture, Picture) else picture
        report("judging images", start + len(batch), len(paths))


def _read(path: Path, gauge: Gauge, masks: Path | None) -> Picture | _Unread:
    try:
        picture = gauge.seen(decode(path.read_bytes()))
    except UnreadableImage as error:
        return _Unread(path, str(error))
    except OSError as error:
        return _Unread(path, f"The file cannot be read: {error.strerror}.")
    return picture if masks is None else cut_out(picture, outline_of(path.name, masks), path.name)
