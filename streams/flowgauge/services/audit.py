"""An audit: archived verdicts of a line predicted again from their own snapshots and images, and why some do not
reproduce."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from flowgauge.domain.errors import SnapshotCorrupt, SnapshotInvalid, UnreadableImage, UserError
from flowgauge.domain.messages import Verdict
from flowgauge.domain.object_keys import line_name, snapshot_prefix
from flowgauge.domain.ports import Objects
from flowgauge.processors.archive import read_file
from flowgauge.registry.gauges import Compile
from flowgauge.registry.snapshots import MANIFEST, WEIGHTS, announcements
from flowgauge.runtime.backend import Store
from flowgauge.services.archive_files import Report, archive_files, opened
from flowgauge.services.predictions import Repeated, predicted_alone, repeated
from flowgauge.training.gauge import BATCH, Gauge
from flowgauge.training.snapshot import load, read_manifest
from flowgauge.vision.decoding import Picture
from flowgauge.vision.pictures import in_batches


class Outcome(StrEnum):
    REPRODUCED = "reproduced"
    EXPIRED = "image expired"
    IMAGE_GONE = "image gone"
    IMAGE_CHANGED = "image changed"
    IMAGE_UNREADABLE = "image unreadable"
    SNAPSHOT_MISSING = "snapshot missing"
    SNAPSHOT_TAMPERED = "snapshot tampered"
    SNAPSHOT_UNUSABLE = "snapshot unusable"
    DECISION_DIFFERS = "decision differs"
    OTHER_ENGINE = "another engine"
    SCORE_DIFFERS = "score differs"

    @property
    def faultless(self) -> bool:
        """Whether nothing is wrong: retention deletes images, and their verdicts stay."""
        return self in (Outcome.REPRODUCED, Outcome.EXPIRED)


@dataclass(frozen=True)
class Finding:
    """`detail` names the object, or the figures; `difference` is the new score less the archived one, where there is a
    new one."""

    verdict: Verdict
    outcome: Outcome
    detail: str = ""
    difference: float | None = None


@dataclass(frozen=True)
class _Refused:
    """Why a version's verdicts cannot be predicted again."""

    outcome: Outcome
    detail: str


def audit(
    store: Store,
    line: str,
    sample: int,
    seed: int,
    expired: Callable[[Verdict], bool],
    report: Report,
    compile: Compile | None = None,
    device: str = "cpu",
) -> list[Finding]:
    """Findings on `sample` verdicts of `line`, or on all where there are fewer, drawn with `seed` of those that have a
    score; by gauge version and time. `expired` says whether retention may have deleted a verdict's image. What does not
    reproduce on torch is tried once more on the engine of `compile`. One gauge is in memory at a time.

    Raises `UserError` for a line without scored verdicts in the archive.
    """
    drawn = sorted(
        _sampled(store.objects, line_name(line), sample, seed, report),
        key=lambda each: (each.gauge_version or "", each.event_time),
    )
    if not drawn:
        raise UserError(f"The archive has no scored verdicts of line {line}.", "See `flowgauge lines list`.")
    announced = defaultdict(set)
    for message in announcements(store.log, line):
        announced[message.version].add(message.sha256)
        if message.trial is not None:  # a canary decides, though it may never become active
            announced[message.trial.version].add(message.trial.sha256)
    findings: list[Finding] = []
    by_version: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in drawn:
        by_version[verdict.gauge_version or ""].append(verdict)
    for version, verdicts in by_version.items():
        gauge = _gauge(store.objects, line, version, announced[version], device)
        if isinstance(gauge, _Refused):
            findings += [Finding(verdict, gauge.outcome, gauge.detail) for verdict in verdicts]
        else:
            for found in _audited(store.objects, gauge, verdicts, expired, compile):
                findings.append(found)
                report("predicting again", len(findings), len(drawn))
    report("predicting again", len(drawn), len(drawn))
    return findings


def summary(findings: Sequence[Finding]) -> dict[Outcome, int]:
    """How many there are of each outcome that there is."""
    counts = Counter(finding.outcome for finding in findings)
    return {outcome: counts[outcome] for outcome in Outcome if counts[outcome]}


def _sampled(objects: Objects, line: str, sample: int, seed: int, report: Report) -> Iterator[Verdict]:
    """Each verdict with the same chance: the files are gone through once for how many each has, and those that have
    been drawn of once more."""
    names = archive_files(objects)
    counts = np.zeros(len(names), dtype=np.int64)
    for number, name in enumerate(names):
        report("counting verdicts", number, len(names))
        counts[number] = len(_scored(objects, name, line, ["line"]))
    report("counting verdicts", len(names), len(names))
    total = int(counts.sum())
    rows = np.sort(np.random.default_rng(seed).choice(total, min(sample, total), replace=False))
    ends = np.cumsum(counts)
    files: NDArray[np.intp] = np.searchsorted(ends, rows, side="right")
    for number in np.unique(files):
        own = rows[files == number] - (ends[number] - counts[number])
        yield from map(_verdict, _scored(objects, names[number], line, None).take(own).to_pylist())


def _verdict(row: dict[str, Any]) -> Verdict:
    """In a copy, what was written before a field was added has nothing there, where the field has a default."""
    for part in ("statistics", "source"):
        row[part] = {name: value for name, value in row[part].items() if value is not None}
    fields = Verdict.model_fields
    return Verdict.model_validate(
        {name: value for name, value in row.items() if value is not None or fields[name].is_required()}
    )


def _scored(objects: Objects, name: str, line: str, columns: list[str] | None) -> Any:
    wanted = (pc.field("line") == line) & pc.field("score").is_valid() & pc.field("gauge_version").is_valid()
    return read_file(name, opened(objects, name), columns=columns, filters=wanted)


def _gauge(objects: Objects, line: str, version: str, announced: set[str], device: str) -> Gauge | _Refused:
    prefix, files = snapshot_prefix(line, version), []
    for name in (f"{prefix}/{MANIFEST}", f"{prefix}/{WEIGHTS}"):
        try:
            files.append(objects.get(name))
        except KeyError:
            return _Refused(Outcome.SNAPSHOT_MISSING, f"{name} is not in the store")
    manifest, weights = files
    if announced and sha256(manifest).hexdigest() not in announced:
        return _Refused(Outcome.SNAPSHOT_TAMPERED, f"{prefix}/{MANIFEST} is not what was announced")
    try:
        if sha256(weights).hexdigest() != read_manifest(manifest).weights_sha256:
            return _Refused(Outcome.SNAPSHOT_TAMPERED, f"{prefix}/{WEIGHTS} is not what the manifest names")
        return load(manifest, weights, device=device)
    except SnapshotCorrupt as error:
        return _Refused(Outcome.SNAPSHOT_TAMPERED, f"{prefix}/{MANIFEST}: {error.cause}")
    except SnapshotInvalid as error:
        return _Refused(Outcome.SNAPSHOT_UNUSABLE, error.cause)


def _audited(
    objects: Objects,
    gauge: Gauge,
    verdicts: Sequence[Verdict],
    expired: Callable[[Verdict], bool],
    compile: Compile | None,
) -> Iterator[Finding]:
    compiled: Gauge | None = None  # once it is needed: that takes as long as hundreds of images
    items = ((verdict, _picture(objects, gauge, verdict, expired)) for verdict in verdicts)
    for batch in in_batches(items, BATCH, lambda item: item[1] if isinstance(item[1], Picture) else None):
        together = iter(gauge.predict([picture for _, picture in batch if isinstance(picture, Picture)]))
        for verdict, picture in batch:
            if isinstance(picture, _Refused):
                yield Finding(verdict, picture.outcome, picture.detail)
                continue
            found = repeated(gauge, next(together), verdict)
            if not found.holds:
                found = predicted_alone(gauge, picture, verdict)
            if not found.holds and compile is not None:
                faster = compiled or compile(gauge)[0]
                assert isinstance(faster, Gauge), "a gauge is compiled to a gauge"
                compiled, again = faster, predicted_alone(faster, picture, verdict)
                found = again if again.holds else found
            yield _compared(gauge, found, verdict)


def _picture(
    objects: Objects, gauge: Gauge, verdict: Verdict, expired: Callable[[Verdict], bool]
) -> Picture | _Refused:
    uri = verdict.image_uri
    if uri is None:
        return _Refused(Outcome.EXPIRED, "the image was never kept")
    try:
        name = objects.name(uri)
    except KeyError:
        return _Refused(Outcome.IMAGE_GONE, f"{uri} is no address in this store")
    try:
        data = objects.get(name)
    except KeyError:
        return _Refused(Outcome.EXPIRED if expired(verdict) else Outcome.IMAGE_GONE, f"{name} is not in the store")
    if sha256(data).hexdigest() != verdict.image_sha256:
        return _Refused(Outcome.IMAGE_CHANGED, f"{name} is not what was scored")
    try:
        return gauge.manifest.preprocessing.decode(data)
    except UnreadableImage as error:
        return _Refused(Outcome.IMAGE_UNREADABLE, f"{name}: {error}")


def _compared(gauge: Gauge, found: Repeated, verdict: Verdict) -> Finding:
    facts, difference = gauge.manifest, found.difference
    if not found.holds:
        outcome = Outcome.OTHER_ENGINE if found.may_be_compiled else Outcome.SCORE_DIFFERS
        said = f"{verdict.score:.6g} in the archive, {found.prediction.score:.6g} now"
        return Finding(verdict, outcome, said, difference)
    if verdict.threshold != facts.threshold.value:
        said = f"threshold {verdict.threshold} in the archive, {facts.threshold.value} in the snapshot"
        return Finding(verdict, Outcome.DECISION_DIFFERS, said, difference)
    if verdict.decision is not found.prediction.decision:
        said = f"{verdict.decision} in the archive, {found.prediction.decision} now"
        return Finding(verdict, Outcome.DECISION_DIFFERS, said, difference)
    return Finding(verdict, Outcome.REPRODUCED, "", difference)
