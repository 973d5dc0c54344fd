"""Reads the story back: from the verdicts and alerts topics, the snapshots and the audit records, and nowhere else."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np

from flowgauge.cli.demo.scenario import Script
from flowgauge.domain.messages import DEAD_LETTERS, VERDICTS, AlertKind, Decision
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
from flowgauge.vision.encoding import thumbnail

# images in the report: fewer of them show no spread, more make a file of many megabytes, for all stand in the page
REJECTS_PER_PHASE, SUSPECTS_PER_ADAPTATION = 6, 24
# pixels of a thumbnail's longer side, of rejects and of suspects: sharp at the size they are shown, and no larger
_SMALL, _SMALLER = 208, 112


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
        verdicts = (
            each.verdict
            for partition in range(store.log.partitions(VERDICTS))
            for each in count(store.log.read(VERDICTS, partition, 0, store.log.end(VERDICTS, partition))).counted
        )
        self._verdicts = [verdict for verdict in verdicts if verdict.line == self._script.line]
        self._captured = [verdict.captured_at for verdict in self._verdicts]

    def story(self) -> Story:
        script, log, points = self._script, self._store.log, self._points()
        adaptations = tuple(
            Adaptation(
                index=self._last_before(report.at),
                report=report,
                buffer={image_id: self._truth.get(image_id, Truth.UNKNOWN) for image_id in report.buffered},
            )
            for report in audits(self._store, script.line)
        )
        return Story(
            line=script.line,
            source=script.source,
            seed=script.seed,
            command=self._introduction.command,
            software=self._introduction.software,
            gauge=self._introduction.gauge,
            phases=self._phases(),
            points=points,
            drifts=tuple(
                Drift(index=self._last_before(alert.at), message=alert.message)
                for alert in alerts(log, script.line)
                if alert.kind is AlertKind.DRIFT
            ),
            adaptations=adaptations,
            swaps=tuple(
                Swap(index=after.index, version=after.adapted.version)
                for before, after in pairwise(points)
                if before.adapted.version != after.adapted.version
            ),
            snapshots=tuple(
                Snapshot(version=message.version, epoch=message.epoch, parent=message.parent, sha256=message.sha256)
                for message in announcements(log, script.line)
            ),
            suspects=tuple(suspect for adaptation in adaptations for suspect in self._suspects(adaptation)),
            rejects=tuple(self._rejects(points)),
            counts=self.counts(),
        )

    def counts(self) -> Counts:
        log = self._store.log
        return Counts(
            sent=len(self._truth),
            verdicts=len(self._verdicts),
            missing=len(self._truth.keys() - {verdict.image_id for verdict in self._verdicts}),
            dead_letters=sum(log.end(DEAD_LETTERS, number) for number in range(log.partitions(DEAD_LETTERS))),
        )

    def _points(self) -> tuple[Point, ...]:
        phase_of = {frame.image_id: index for index, act in enumerate(self._script.acts) for frame in act.shots}
        points = []
        for index, verdict in enumerate(self._verdicts):
            assert verdict.score is not None, "the line has had a gauge from its first image on"
            assert verdict.threshold is not None
            assert verdict.gauge_version is not None
            adapted = Call(
                score=verdict.score,
                threshold=verdict.threshold,
                decision=verdict.decision,
                version=verdict.gauge_version,
            )
            points.append(
                Point(
                    index=index,
                    image_id=verdict.image_id,
                    phase=phase_of[verdict.image_id],
                    truth=self._truth[verdict.image_id],
                    use_for_training=verdict.use_for_training,
                    adapted=adapted,
                    frozen=self._introduction.frozen[verdict.image_id],
                    standard_score=verdict.standard_score,
                )
            )
        return tuple(points)

    def _phases(self) -> tuple[Phase, ...]:
        """With the measured brightness where the script does not say what the condition was."""
        by_id = {verdict.image_id: verdict for verdict in self._verdicts}
        phases = []
        for act in self._script.acts:
            light = [by_id[frame.image_id].statistics.brightness for frame in act.shots if frame.image_id in by_id]
            measured = f"brightness {np.mean(light):.2f}" if light else ""
            phases.append(Phase(name=act.phase.name, condition=act.phase.condition or measured))
        return tuple(phases)

    def _last_before(self, at: datetime) -> int:
        """The index of the last image captured by `at`."""
        return max(bisect_right(self._captured, at) - 1, 0)

    def _rejects(self, points: Sequence[Point]) -> Iterator[RejectedImage]:
        """The strongest alarms of each phase, rejects before what was left to a person."""

        def rejects_first(point: Point) -> tuple[bool, float]:
            return point.adapted.decision is not Decision.REJECT, point.adapted.threshold - point.adapted.score

        for phase in range(len(self._script.acts)):
            alarms = [p for p in points if p.phase == phase and p.adapted.alarm and self._verdicts[p.index].heatmap_uri]
            for point in sorted(alarms, key=rejects_first)[:REJECTS_PER_PHASE]:
                verdict = self._verdicts[point.index]
                yield RejectedImage(
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
            rounds = (number for number, each in enumerate(report.trace.rounds, 1) if image_id in each.rejected)
            yield Suspect(
                adaptation=report.version,
                image_id=image_id,
                truth=self._truth.get(image_id, Truth.UNKNOWN),
                round=next(rounds),
                picture=self._thumbnail(report.rejected_uris.get(image_id), _SMALLER),
            )

    def _thumbnail(self, uri: str | None, side: int) -> bytes:
        """A small JPEG of the stored object; empty where none is kept."""
        if uri is None:
            return b""
        return thumbnail(decode(self._store.objects.get(self._store.objects.name(uri))).pixels, side)
