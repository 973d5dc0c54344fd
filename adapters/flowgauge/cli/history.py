"""Reads the story back: from the verdicts and alerts topics, the snapshots and the audit records, and nowhere else."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from itertools import pairwise

import numpy as np
from PIL import Image

from flowgauge.cli.script import Script
from flowgauge.domain.messages import DEAD_LETTERS, VERDICTS, AlertKind, Decision, Verdict
from flowgauge.domain.trace import AdaptationReport
from flowgauge.processors.adaptation import audits
from flowgauge.registry.snapshots import announcements
from flowgauge.reports.figures import last_rejected
from flowgauge.reports.story import (
    Adaptation,
    Call,
    Counts,
    Drift,
    GaugeFacts,
    Phase,
    Point,
    RejectedImage,
    Snapshot,
    Story,
    Suspect,
    Swap,
    Truth,
)
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.fencing import count
from flowgauge.vision.decoding import decode

REJECTS_PER_PHASE = 6
SUSPECTS_PER_ADAPTATION = 24
_SMALL, _SMALLER = 208, 112  # pixels of a thumbnail's longer side: sharp enough at the size they are shown


@dataclass(frozen=True)
class Introduction:
    """What no topic holds: the script with its truth, what the first gauge says of each image, and how the story is
    told again.
    """

    script: Script
    gauge: GaugeFacts
    frozen: Mapping[str, Call]
    command: str
    software: str


class History:
    """`store` holds a demonstration of the script's line, played to its end. Nothing is written."""

    def __init__(self, store: Store, introduction: Introduction) -> None:
        self._store = store
        self._introduction = introduction
        self._script = introduction.script
        self._truth = {frame.image_id: frame.truth for frame in self._script.shots}
        self._verdicts = [verdict for verdict in _counted_verdicts(store) if verdict.line == self._script.line]
        self._captured = [verdict.captured_at for verdict in self._verdicts]

    def story(self) -> Story:
        script, points = self._script, self._points()
        adaptations = self._adaptations()
        return Story(
            line=script.line,
            source=script.source,
            seed=script.seed,
            command=self._introduction.command,
            software=self._introduction.software,
            gauge=self._introduction.gauge,
            phases=self._phases(),
            points=points,
            drifts=self._drifts(),
            adaptations=adaptations,
            swaps=tuple(_swaps(points)),
            snapshots=self._snapshots(),
            suspects=tuple(suspect for adaptation in adaptations for suspect in self._suspects(adaptation)),
            rejects=tuple(self._rejects(points)),
            counts=self.counts(),
        )

    def counts(self) -> Counts:
        judged = {verdict.image_id for verdict in self._verdicts}
        return Counts(
            sent=len(self._truth),
            verdicts=len(self._verdicts),
            missing=len(self._truth.keys() - judged),
            dead_letters=sum(
                self._store.log.end(DEAD_LETTERS, number) for number in range(self._store.log.partitions(DEAD_LETTERS))
            ),
        )

    def _points(self) -> tuple[Point, ...]:
        phase_of = {frame.image_id: index for index, act in enumerate(self._script.acts) for frame in act.shots}
        return tuple(self._point(index, verdict, phase_of) for index, verdict in enumerate(self._verdicts))

    def _point(self, index: int, verdict: Verdict, phase_of: Mapping[str, int]) -> Point:
        return Point(
            index=index,
            image_id=verdict.image_id,
            phase=phase_of[verdict.image_id],
            truth=self._truth[verdict.image_id],
            use_for_training=verdict.use_for_training,
            adapted=_call(verdict),
            frozen=self._introduction.frozen[verdict.image_id],
            standard_score=verdict.standard_score,
        )

    def _phases(self) -> tuple[Phase, ...]:
        """With the measured brightness where the script does not say what the condition was."""
        by_id = {verdict.image_id: verdict for verdict in self._verdicts}
        phases = []
        for act in self._script.acts:
            light = [by_id[frame.image_id].statistics.brightness for frame in act.shots if frame.image_id in by_id]
            measured = f"brightness {np.mean(light):.2f}" if light else ""
            phases.append(Phase(name=act.phase.name, condition=act.phase.condition or measured))
        return tuple(phases)

    def _drifts(self) -> tuple[Drift, ...]:
        found = (alert for alert in alerts(self._store.log, self._script.line) if alert.kind is AlertKind.DRIFT)
        return tuple(Drift(index=self._last_before(alert.at), message=alert.message) for alert in found)

    def _adaptations(self) -> tuple[Adaptation, ...]:
        return tuple(
            Adaptation(index=self._last_before(report.at), report=report, buffer=self._buffer(report))
            for report in audits(self._store, self._script.line)
        )

    def _buffer(self, report: AdaptationReport) -> dict[str, Truth]:
        return {image_id: self._truth.get(image_id, Truth.UNKNOWN) for image_id in report.buffered}

    def _last_before(self, at: datetime) -> int:
        """The index of the last image captured by `at`."""
        return max(bisect_right(self._captured, at) - 1, 0)

    def _snapshots(self) -> tuple[Snapshot, ...]:
        return tuple(
            Snapshot(version=message.version, epoch=message.epoch, parent=message.parent, sha256=message.sha256)
            for message in announcements(self._store.log, self._script.line)
        )

    def _rejects(self, points: Sequence[Point]) -> Iterator[RejectedImage]:
        """The strongest alarms of each phase, rejects before what was left to a person."""
        for phase in range(len(self._script.acts)):
            alarms = [p for p in points if p.phase == phase and p.adapted.alarm and self._verdicts[p.index].heatmap_uri]
            strongest = sorted(alarms, key=_rejects_first)[:REJECTS_PER_PHASE]
            yield from (self._reject(point, self._verdicts[point.index]) for point in strongest)

    def _reject(self, point: Point, verdict: Verdict) -> RejectedImage:
        return RejectedImage(
            index=point.index,
            image_id=point.image_id,
            truth=point.truth,
            call=point.adapted,
            picture=self._thumbnail(verdict.image_uri, _SMALL),
            overlay=self._thumbnail(verdict.heatmap_uri, _SMALL),
        )

    def _suspects(self, adaptation: Adaptation) -> Iterator[Suspect]:
        report = adaptation.report
        for image_id in last_rejected(adaptation)[:SUSPECTS_PER_ADAPTATION]:
            yield Suspect(
                adaptation=report.version,
                image_id=image_id,
                truth=self._truth.get(image_id, Truth.UNKNOWN),
                round=_first_round(report, image_id),
                picture=self._thumbnail(report.rejected_uris.get(image_id), _SMALLER),
            )

    def _thumbnail(self, uri: str | None, side: int) -> bytes:
        """A small JPEG of the stored object; empty where none is kept."""
        if uri is None:
            return b""
        image = Image.fromarray(decode(self._store.objects.get(self._store.objects.name(uri))).pixels)
        image.thumbnail((side, side))
        stream = BytesIO()
        image.save(stream, "JPEG", quality=82)
        return stream.getvalue()


def _counted_verdicts(store: Store) -> Iterator[Verdict]:
    for partition in range(store.log.partitions(VERDICTS)):
        records = store.log.read(VERDICTS, partition, 0, store.log.end(VERDICTS, partition))
        yield from (counted.verdict for counted in count(records).counted)


def _call(verdict: Verdict) -> Call:
    assert verdict.score is not None, "the line has had a gauge from its first image on"
    assert verdict.threshold is not None
    assert verdict.gauge_version is not None
    return Call(
        score=verdict.score,
        threshold=verdict.threshold,
        decision=verdict.decision,
        version=verdict.gauge_version,
    )


def _rejects_first(point: Point) -> tuple[bool, float]:
    return point.adapted.decision is not Decision.REJECT, point.adapted.threshold - point.adapted.score


def _swaps(points: Iterable[Point]) -> Iterator[Swap]:
    for before, after in pairwise(points):
        if before.adapted.version != after.adapted.version:
            yield Swap(index=after.index, version=after.adapted.version)


def _first_round(report: AdaptationReport, image_id: str) -> int:
    return next(number for number, round_ in enumerate(report.trace.rounds, 1) if image_id in round_.rejected)
