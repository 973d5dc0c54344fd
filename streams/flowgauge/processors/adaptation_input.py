"""What an adaptation is given: the line's gauges, its buffer as pictures, and the golden images that judge."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import sha256

from flowgauge.adaptation.contract import AdaptationInput, Progress, adaptation_seed, adapted_version
from flowgauge.domain.buffer import to_evict
from flowgauge.domain.errors import DatasetError, SnapshotCorrupt, UnreadableImage
from flowgauge.domain.golden import Label
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.messages import AdaptationRequest, SnapshotAnnouncement
from flowgauge.domain.ports import Buffered, Objects
from flowgauge.models.prediction import Predictor
from flowgauge.registry.gauges import Load
from flowgauge.registry.golden_sets import golden_set, hold_out_pictures
from flowgauge.registry.lines import line_settings
from flowgauge.registry.snapshots import SnapshotFiles, fetch_snapshot
from flowgauge.runtime.backend import Store
from flowgauge.vision.decoding import decode
from flowgauge.vision.preprocessing import Crop


def gathered(
    store: Store, load: Load, request: AdaptationRequest, active: SnapshotAnnouncement, progress: Progress
) -> AdaptationInput:
    """Raises `DatasetError` for a buffer that is too small, `GaugeMissing` and `SnapshotInvalid` for a line whose gauge
    or anchor cannot be loaded, and `Unavailable`."""
    settings = line_settings(store.objects, request.line)
    entries = _may_train(store, request, settings)
    _enough(request.line, len(entries), settings)
    parent_files = fetch_snapshot(store.objects, request.line, active.version)
    parent = load(parent_files.manifest, parent_files.weights)
    anchor = _anchor(store.objects, load, parent, parent_files)
    buffered = _crops(store.objects, entries, anchor, progress)
    _enough(request.line, len(buffered), settings)
    good, defects = (
        [anchor.crop(picture) for picture in hold_out_pictures(store.objects, request.line, label)]
        for label in (Label.GOOD, Label.DEFECT)
    )
    return AdaptationInput(
        line=request.line,
        version=adapted_version(request),
        at=request.requested_at,
        anchor=anchor,
        parent=parent,
        buffered=buffered,
        golden_good=good,
        golden_defect=defects,
        seed=adaptation_seed(request),
        progress=progress,
    )


def _anchor(objects: Objects, load: Load, parent: Predictor, files: SnapshotFiles) -> Predictor:
    version = anchor_version(files.manifest)
    if version == parent.version:
        return parent
    anchor = fetch_snapshot(objects, parent.line, version)
    return load(anchor.manifest, anchor.weights)


def anchor_version(manifest: bytes) -> str:
    """The version that a person fitted, out of any snapshot's manifest."""
    try:
        return str(json.loads(manifest)["anchor"])
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotCorrupt("The manifest names no anchor.", "Fit the line again.") from error


def _may_train(store: Store, request: AdaptationRequest, settings: LineSettings) -> list[Buffered]:
    """The buffer without what is too old, and what people have labelled."""
    entries = _since(request.since, store.state.buffer(request.line))
    barred = set(to_evict(entries, settings, store.clock.now()))
    labelled = {
        sha256(store.objects.get(golden.name)).hexdigest() for golden in golden_set(store.objects, request.line)
    }
    return [entry for entry in entries if entry.image_id not in barred and entry.image_sha256 not in labelled]


def _since(start: datetime | None, entries: list[Buffered]) -> list[Buffered]:
    return [entry for entry in entries if start is None or entry.captured_at >= start]


def _crops(
    objects: Objects, entries: Sequence[Buffered], anchor: Predictor, progress: Progress
) -> list[tuple[Buffered, Crop]]:
    """What the anchor needs of each image. Left out: what cannot be read, or whose retention has passed."""
    crops = []
    for done, entry in enumerate(entries):
        progress("reading images", done / len(entries))
        with suppress(KeyError, UnreadableImage):
            crops.append((entry, anchor.crop(decode(objects.get(objects.name(entry.image_uri))))))
    return crops


def _enough(line: str, images: int, settings: LineSettings) -> None:
    lacking = settings.buffer_minimum - images
    if lacking > 0:
        raise DatasetError(
            f"The buffer of {line} holds {images} images that may train, {lacking} too few.",
            "Let more images pass, or lower buffer_minimum.",
        )
