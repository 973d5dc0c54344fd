"""A line that streams in tests: a gauge that is light, real and deterministic, images, and a clock that is set."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from flowgauge.adaptation.contract import AdaptationInput, AdaptationOutcome
from flowgauge.app.bootstrap import open_store
from flowgauge.domain.errors import SnapshotCorrupt
from flowgauge.domain.messages import VERDICTS, Decision, Event, Source, Statistics, Verdict
from flowgauge.domain.object_keys import verdict_id
from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.domain.trace import AdaptationTrace, Check, GateReport
from flowgauge.models.prediction import Prediction
from flowgauge.registry.snapshots import SnapshotFiles, publish_snapshot
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import image_record
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import Crop, Preprocessing

LINE = "press-3"
START = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)


class SetClock:
    """Stands still until it is told otherwise."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class BrightnessFacts:
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(size=64))


@dataclass(frozen=True)
class BrightnessGauge:
    """Scores an image by its mean gray value: 100 is typical, 10 one deviation, above `threshold` a reject."""

    line: str
    version: str
    threshold: float
    detector_name: str = "brightness"
    manifest: BrightnessFacts = BrightnessFacts()

    def seen(self, picture: Picture) -> Picture:
        return picture

    def crop(self, picture: Picture) -> Crop:
        return Crop(picture.pixels, picture.statistics)

    def predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        return self.predict_each([(self, picture) for picture in pictures])

    def predict_each(self, items: Sequence[tuple["BrightnessGauge", Picture]]) -> list[Prediction]:
        return [gauge._prediction(picture) for gauge, picture in items]

    def _prediction(self, picture: Picture) -> Prediction:
        score = float(picture.pixels.mean())
        return Prediction(
            score=score,
            standard_score=(score - 100) / 10,
            threshold=self.threshold,
            decision=Decision.REJECT if score > self.threshold else Decision.PASS,
            reasons=("too bright",) if score > self.threshold else (),
            regions=(),
            anomaly_map=np.full((4, 4), score / self.threshold, np.float32),
            map_ceiling=1.0,
            peak=(0.5, 0.5),
        )


def snapshot(version: str, threshold: float = 150, line: str = LINE, anchor: str | None = None) -> SnapshotFiles:
    weights = b"weights of " + version.encode()
    manifest = {
        "line": line,
        "version": version,
        "anchor": anchor or version,
        "threshold": threshold,
        "weights_sha256": sha256(weights).hexdigest(),
    }
    return SnapshotFiles(json.dumps(manifest).encode(), weights)


def load(manifest: bytes, weights: bytes) -> BrightnessGauge:
    facts = json.loads(manifest)
    if sha256(weights).hexdigest() != facts["weights_sha256"]:
        raise SnapshotCorrupt("The weights do not match their SHA-256.", "Restore the object.")
    return BrightnessGauge(facts["line"], facts["version"], facts["threshold"])


def adapt(given: AdaptationInput) -> AdaptationOutcome:
    """Accepts, with a threshold that lies 50 above the buffer's mean."""
    given.progress("adapting", 0.5)
    mean = float(np.mean([crop.pixels.mean() for _, crop in given.buffered]))
    return _outcome(given, mean + 50, Check(name="finite", value=1, limit=1, passed=True, message="All is finite."))


def refuse(given: AdaptationInput) -> AdaptationOutcome:
    check = Check(name="defects", value=0.2, limit=0.8, passed=False, message="It misses synthetic anomalies.")
    return _outcome(given, 250, check)


def _outcome(given: AdaptationInput, threshold: float, check: Check) -> AdaptationOutcome:
    files = snapshot(given.version, threshold, given.line, anchor=given.anchor.version)
    images = len(given.buffered)
    trace = AdaptationTrace(buffered=images, trained=images, rounds=(), steps=())
    return AdaptationOutcome(files.manifest, files.weights, trace, GateReport(accepted=check.passed, checks=(check,)))


def png(brightness: int, seed: int = 0, side: int = 16) -> bytes:
    """Gray noise around `brightness`."""
    noise = np.random.default_rng(seed).integers(-8, 9, (side, side))
    pixels = np.clip(brightness + noise, 0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def event(image_id: str, line: str = LINE, use_for_training: bool = True, at: datetime = START) -> Event:
    return Event(
        image_id=image_id, source=f"/lines/{line}", line=line, captured_at=at, use_for_training=use_for_training
    )


def send(store: Store, images: Iterable[tuple[str, bytes]], line: str = LINE, use_for_training: bool = True) -> None:
    now = store.clock.now()
    store.log.append([image_record(event(image_id, line, use_for_training, now), data) for image_id, data in images])


def opened(root: Path, clock: SetClock, partitions: int = 1) -> Store:
    return open_store(str(root), clock, partitions)


def fitted(store: Store, version: str = "fit-1", threshold: float = 150, line: str = LINE) -> Store:
    """`store` with a gauge for `line`."""
    publish_snapshot(store, line, version, snapshot(version, threshold, line), parent=None)
    return store


def verdict(offset: int, image_id: str | None = None, score: float | None = 100.0, **changes: object) -> Verdict:
    """A passing verdict on the image at `offset`."""
    image_id = image_id or f"image-{offset:04d}"
    facts = Verdict(
        verdict_id=verdict_id(f"/lines/{LINE}", image_id),
        image_id=image_id,
        image_sha256=sha256(image_id.encode()).hexdigest(),
        image_uri=f"store:///images/{LINE}/2026-03-01/{image_id}",
        line=LINE,
        captured_at=START + timedelta(seconds=offset),
        scored_at=START + timedelta(seconds=offset),
        score=score,
        threshold=150,
        decision=Decision.PASS,
        gauge_version="fit-1",
        detector="brightness",
        statistics=Statistics(brightness=0.4, contrast=0.05, focus=1.0, fingerprint=f"{hash_bits(offset):016x}"),
        source=Source(topic="images", partition=0, offset=offset),
        standard_score=None if score is None else (score - 100) / 10,
        peak=(0.5, 0.5),
    )
    return Verdict.model_validate(facts.model_dump() | changes)


def hash_bits(number: int) -> int:
    """64 bits that differ in half their places from any other number's."""
    return int.from_bytes(sha256(str(number).encode()).digest()[:8])


def append_verdicts(log: Log, verdicts: Iterable[Verdict]) -> None:
    log.append([Outgoing(VERDICTS, each.line, each.encode(), partition=0) for each in verdicts])


def records(log: Log, topic: str, partition: int = 0) -> list[Record]:
    return log.read(topic, partition, 0, 1_000_000)


def verdicts(log: Log, partition: int = 0) -> list[Verdict]:
    return [Verdict.decode(record.value) for record in records(log, VERDICTS, partition)]
