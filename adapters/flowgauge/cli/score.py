"""`flowgauge score`: predictions of single images, without a stream."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flowgauge.app.bootstrap import open_existing
from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.model import compiling, torch_device
from flowgauge.cli.output import emit, show, warn
from flowgauge.cli.progress import bars
from flowgauge.domain.choices import Engine
from flowgauge.domain.errors import UnreadableImage, UserError
from flowgauge.domain.image_files import image_bytes
from flowgauge.domain.progress import Progress
from flowgauge.evaluation.datasets import cut_out, outline_of
from flowgauge.models.prediction import Predictor
from flowgauge.services.snapshots import stored_gauge
from flowgauge.training.gauge import BATCH
from flowgauge.vision.decoding import Picture, decode
from flowgauge.vision.pictures import in_batches

# images from which `auto` compiles the gauge: that takes as long as torch takes for a few hundred of them, once a gauge
_WORTH_COMPILING = 200


def score(
    line: Annotated[str, typer.Argument(help="The line whose gauge scores.")],
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG, BMP or TIFF files.")],
    store: options.Store,
    version: Annotated[str | None, typer.Option(help="A stored version instead of the active one.")] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of masks that cut the objects out: a PNG of each file's name, white on the object."),
    ] = None,
    device: options.DeviceOption = options.Device.AUTO,
    engine: options.EngineOption = Engine.AUTO,
    json: options.Json = False,
) -> None:
    """Score images with a line's gauge.

    Higher scores are more anomalous. Exits with 0 when every image got a
    verdict and with 2 when one could not be read; the others are scored all
    the same.

    \b
    flowgauge score press-3 part.png --store ./plant
    flowgauge score press-3 incoming/*.png --store ./plant --json
    """
    with open_existing(store) as plant:
        gauge: Predictor = stored_gauge(plant, line, version, torch_device(device))
    compile = compiling(engine, device)
    if compile and (engine is not Engine.AUTO or len(images) >= _WORTH_COMPILING):
        gauge, refused = compile(gauge)
        if refused:
            warn(f"Torch scores these images: {refused}.")
    with bars() as report:
        results = list(_predict(gauge, images, masks, report))
    if json:
        emit({"line": line, "gauge_version": gauge.version, "images": results})
    else:
        rows = (
            (
                each["image"],
                each.get("score"),
                each.get("decision", "unreadable"),
                each.get("error") or "; ".join(each["reasons"]),
            )
            for each in results
        )
        show(("image", "score", "decision", "reasons"), rows)
    raise typer.Exit(Exit.MISTAKE if any("error" in each for each in results) else Exit.FINE)


def _predict(gauge: Predictor, paths: Sequence[Path], masks: Path | None, report: Progress) -> Iterator[dict[str, Any]]:
    """One document per path, in order; `error` is in that of a file that could not be read. Where `masks` is given, the
    mask of that file's name in it cuts the object out.

    Raises `UserError` for a mask that is missing, or that two files share.
    """
    if masks is not None:
        outlines = Counter(outline_of(path.name, masks) for path in paths)
        if shared := [outline for outline, images in outlines.items() if images > 1]:
            raise UserError(
                f"Several images have the mask {shared[0]}.", "Score images of one name one folder at a time."
            )
    done = 0
    read = ((path, _read(path, gauge, masks)) for path in paths)
    for batch in in_batches(read, BATCH, lambda item: item[1] if isinstance(item[1], Picture) else None):
        predictions = iter(gauge.predict([picture for _, picture in batch if isinstance(picture, Picture)]))
        for path, picture in batch:
            if isinstance(picture, str):
                yield {"image": str(path), "error": picture}
                continue
            found = next(predictions)
            yield {
                "image": str(path),
                "score": found.score,
                "threshold": found.threshold,
                "decision": found.decision.value,
                "reasons": list(found.reasons),
                "regions": [region.model_dump() for region in found.regions],
            }
        done += len(batch)
        report("scoring images", done, len(paths))


def _read(path: Path, gauge: Predictor, masks: Path | None) -> Picture | str:
    """As `gauge` sees it, or why it cannot be read."""
    try:
        data = image_bytes(path)
        # masks have the size of the whole image
        picture = gauge.manifest.preprocessing.decode(data) if masks is None else decode(data)
    except UnreadableImage as error:
        return str(error)
    except OSError as error:
        return f"The file cannot be read: {error.strerror}."
    return picture if masks is None else gauge.seen(cut_out(picture, outline_of(path.name, masks), path.name))
