"""Two stored gauges of a line on the same images: their scores, and the decisions that differ."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from io import BytesIO

import numpy as np
from PIL import Image

from flowgauge.domain.errors import UnreadableImage, UserError
from flowgauge.domain.golden import Label
from flowgauge.domain.messages import Decision
from flowgauge.evaluation.intervals import PairedShares
from flowgauge.models.detector import Progress
from flowgauge.registry.golden_sets import golden_set
from flowgauge.runtime.backend import Store
from flowgauge.services.history import DAYS, archived_tables
from flowgauge.services.snapshots import stored_gauge
from flowgauge.training.gauge import BATCH, Gauge, decide, score_by_each
from flowgauge.training.manifest import Manifest
from flowgauge.vision.decoding import Picture, decode
from flowgauge.vision.pictures import in_batches

IMAGES = 400
"""The newest of the line, unless somebody says otherwise: fewer leave differences of a few per cent to chance, and on
one core each takes some 60 ms."""

# pixels of the longest side: less hides what a gauge saw, more makes pages of pictures slow to load
_THUMBNAIL = 224
# decisions that differ and are shown, the largest first: more make the page too long to read
SHOWN = 48


@dataclass(frozen=True)
class Compared:
    """One image under both gauges. `scores` are in each gauge's unit, `standard` in its calibration's: 0 at the good
    median, 1 per robust deviation. `label` is None for an image that nobody labelled. `thumbnail` is a JPEG of those
    whose decisions differ.
    """

    name: str
    part: str
    label: Label | None
    scores: tuple[float, float]
    standard: tuple[float, float]
    alarms: tuple[bool, bool]
    decisions: tuple[Decision, Decision]
    thumbnail: bytes

    @property
    def changed(self) -> bool:
        return self.decisions[0] is not self.decisions[1]


@dataclass(frozen=True)
class SnapshotComparison:
    """`first` and `second` are the gauges' manifests, `images` the recent ones and the labelled ones. `lost` images are
    no longer stored, or cannot be read.
    """

    line: str
    first: Manifest
    second: Manifest
    images: Sequence[Compared]
    lost: int

    @property
    def changed(self) -> list[Compared]:
        """Images whose decisions differ: what one passes and the other rejects first, and of those the largest
        difference of standardised scores.
        """

        def order(image: Compared) -> tuple[bool, float]:
            return Decision.REVIEW in image.decisions, -abs(image.standard[1] - image.standard[0])

        return sorted((image for image in self.images if image.changed), key=order)

    @property
    def shares(self) -> dict[str, PairedShares]:
        """Paired, by what is counted: rejects and reviews of the recent images, false alarms and misses of labelled."""
        recent = [image for image in self.images if image.label is None]
        good, defects = ([each for each in self.images if each.label is label] for label in Label)
        asked: dict[str, tuple[list[Compared], Callable[[Compared, int], bool]]] = {
            "rejected, of recent images": (recent, lambda image, side: image.decisions[side] is Decision.REJECT),
            "for review, of recent images": (recent, lambda image, side: image.decisions[side] is Decision.REVIEW),
            "false alarms, of labelled good images": (good, lambda image, side: image.alarms[side]),
            "misses, of labelled defects": (defects, lambda image, side: not image.alarms[side]),
        }
        return {
            name: PairedShares.of(
                np.array([says(image, 0) for image in images]),
                np.array([says(image, 1) for image in images]),
                [image.part for image in images],
            )
            for name, (images, says) in asked.items()
            if images
        }


def compare_snapshots(
    store: Store,
    line: str,
    first: str,
    second: str,
    *,
    images: int = IMAGES,
    days: int = DAYS,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> SnapshotComparison:
    """Both gauges on the line's newest `images` of the buffer and of the archive's last `days`, and on its golden set.

    Each image is decoded once, and gauges with the same backbone and preprocessing share its passes. Raises
    `GaugeMissing`, `SnapshotInvalid`, and `UserError` where there are no images.
    """
    gauges = stored_gauge(store, line, first, device), stored_gauge(store, line, second, device)
    reading = _Reading(store, [*_golden(store, line), *_recent(store, line, images, days, progress)], gauges, progress)
    batches = in_batches(reading.pictures(), BATCH, lambda item: item[1])
    found = [compared for batch in batches for compared in _compared(gauges, batch)]
    if not found:
        raise UserError(
            f"Line {line} has no images to compare on.",
            "Stream some, or add labelled ones with flowgauge golden add.",
        )
    return SnapshotComparison(line, gauges[0].manifest, gauges[1].manifest, found, reading.lost)


@dataclass(frozen=True)
class _Source:
    name: str
    part: str
    object_name: str
    label: Label | None = None


class _Reading:
    """Decodes images one by one, as finely as the finer of the gauges needs; `lost` counts those that cannot be."""

    def __init__(
        self, store: Store, sources: Sequence[_Source], gauges: tuple[Gauge, Gauge], progress: Progress
    ) -> None:
        self._store = store
        self._sources = sources
        self._preprocessing = [gauge.manifest.preprocessing for gauge in gauges]
        self._progress = progress
        self.lost = 0

    def pictures(self) -> Iterator[tuple[_Source, Picture]]:
        """Of each image once, though a golden one may be buffered and archived too."""
        seen: set[str] = set()
        for done, source in enumerate(self._sources):
            self._progress("comparing", done, len(self._sources))
            try:
                data = self._store.objects.get(source.object_name)
                if (digest := sha256(data).hexdigest()) not in seen:
                    yield source, decode(data, self._reduction)
                    seen.add(digest)
            except (KeyError, UnreadableImage):
                self.lost += 1
        self._progress("comparing", len(self._sources), len(self._sources))

    def _reduction(self, size: tuple[int, int]) -> int:
        return min(each.reduction(size) for each in self._preprocessing)


def _golden(store: Store, line: str) -> Iterator[_Source]:
    for each in golden_set(store.objects, line):
        yield _Source(each.image_id, each.image_id, each.name, each.label)


def _recent(store: Store, line: str, most: int, days: int, progress: Progress) -> list[_Source]:
    """The newest `most` of the buffer and the archive, by when they were captured."""
    columns = ("image_id", "image_uri", "subject", "captured_at", "arrived_at", "clock_off")
    found: dict[str, tuple[datetime, str, str | None]] = {}
    for _, table in archived_tables(store, line, days, columns, progress):
        for row in table.to_pylist() if len(found) < most else ():
            if row["image_uri"] is not None:
                at = row["arrived_at"] if row["clock_off"] and row["arrived_at"] else row["captured_at"]
                found[row["image_uri"]] = at, row["image_id"], row["subject"]
    buffer = store.state.buffer(line)
    found |= {each.image_uri: (each.captured_at, each.image_id, each.subject) for each in buffer}
    newest = sorted(found.items(), key=lambda item: item[1][0])[-most:] if most else []
    return [_Source(name, subject or name, store.objects.name(uri)) for uri, (_, name, subject) in newest]


def _compared(gauges: tuple[Gauge, Gauge], batch: Sequence[tuple[_Source, Picture]]) -> Iterator[Compared]:
    """Of one batch."""
    pictures = [picture for _, picture in batch]
    first = [gauges[0].crop(picture) for picture in pictures]
    if gauges[0].manifest.preprocessing == gauges[1].manifest.preprocessing:
        crops = first, first
        scores = score_by_each(gauges, np.stack([crop.pixels for crop in first]))
    else:
        crops = first, [gauges[1].crop(picture) for picture in pictures]
        scores = [
            score_by_each([gauge], np.stack([crop.pixels for crop in own]))[0]
            for gauge, own in zip(gauges, crops, strict=True)
        ]
    for row, (source, picture) in enumerate(batch):
        facts = [gauge.manifest for gauge in gauges]
        own = float(scores[0][row]), float(scores[1][row])
        decided = [
            decide(facts[side], own[side], crops[side][row].statistics, crops[side][row].unclear_reasons)[0]
            for side in (0, 1)
        ]
        yield Compared(
            name=source.name,
            part=source.part,
            label=source.label,
            scores=own,
            standard=(facts[0].calibration.standardise(own[0]), facts[1].calibration.standardise(own[1])),
            alarms=(own[0] > facts[0].threshold.value, own[1] > facts[1].threshold.value),
            decisions=(decided[0], decided[1]),
            thumbnail=_thumbnail(picture) if decided[0] is not decided[1] else b"",
        )


def _thumbnail(picture: Picture) -> bytes:
    shown, made = Image.fromarray(picture.pixels), BytesIO()
    shown.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    shown.save(made, "JPEG", quality=85)
    return made.getvalue()
