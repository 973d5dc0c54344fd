"""Files to predictions, each on its own. Loads torch, so commands import it when they run and not before."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgauge.cli.progress import Report
from flowgauge.domain.errors import UnreadableImage, UserError
from flowgauge.evaluation.datasets import cut_out, outline_of
from flowgauge.models.prediction import Prediction
from flowgauge.training.gauge import BATCH, Gauge
from flowgauge.vision.decoding import Picture, decode
from flowgauge.vision.pictures import in_batches


@dataclass(frozen=True)
class Judged:
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
class Unjudged:
    """A file that could not be read, and why."""

    path: Path
    error: str

    def document(self) -> dict[str, Any]:
        return {"image": str(self.path), "error": self.error}

    def row(self) -> tuple[object, ...]:
        return self.path, None, "unreadable", self.error


def predict_files(
    gauge: Gauge, paths: Sequence[Path], masks: Path | None, report: Report
) -> Iterator[Judged | Unjudged]:
    """One result per path, in order. Where `masks` is given, the mask of that file's name in it cuts the object out.

    Raises `UserError` for a mask that is missing, or that two files share.
    """
    if masks is not None:
        _require_masks(paths, masks)
    done = 0
    opened = ((path, _picture(path, gauge, masks)) for path in paths)
    for batch in in_batches(opened, BATCH, lambda item: item[1] if isinstance(item[1], Picture) else None):
        predictions = iter(gauge.predict([picture for _, picture in batch if isinstance(picture, Picture)]))
        for path, picture in batch:
            yield Judged(path, next(predictions)) if isinstance(picture, Picture) else picture
        done += len(batch)
        report("judging images", done, len(paths))


def _picture(path: Path, gauge: Gauge, masks: Path | None) -> Picture | Unjudged:
    try:
        picture = gauge.seen(decode(path.read_bytes()))
    except UnreadableImage as error:
        return Unjudged(path, str(error))
    except OSError as error:
        return Unjudged(path, f"The file cannot be read: {error.strerror}.")
    if masks is None:
        return picture
    return cut_out(picture, outline_of(path.name, masks), path.name)


def _require_masks(paths: Sequence[Path], masks: Path) -> None:
    outlines = Counter(outline_of(path.name, masks) for path in paths)
    shared = [outline for outline, images in outlines.items() if images > 1]
    if shared:
        raise UserError(f"Several images have the mask {shared[0]}.", "Score images of one name one folder at a time.")
