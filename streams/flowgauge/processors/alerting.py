"""Alerting: what a person must see of verdicts, on images and on parts, and of dead letters."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from uuid import UUID

from flowgauge.domain.dead_letters import LONGEST_REASON, REASON
from flowgauge.domain.errors import InvalidName
from flowgauge.domain.messages import DEAD_LETTERS, PART_VERDICTS, VERDICTS, AlertKind, Decision, PartVerdict
from flowgauge.domain.object_keys import line_name
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.processors.scoring import NO_GAUGE
from flowgauge.processors.tallies import Tallies
from flowgauge.registry.lines import SettingsCache
from flowgauge.runtime.alerts import NO_LINE
from flowgauge.runtime.backend import Store
from flowgauge.runtime.fencing import Counted, Rank, VerdictReader, fenced, highest_before

_MESSAGES = {
    AlertKind.REJECT: "{line}: {count} rejected, the first is {example}.",
    AlertKind.NO_GAUGE: "{line} has no gauge: {count} images are for review. "
    "Make one with `flowgauge fit --line {line} --from-buffer`.",
    AlertKind.CLOCK_OFF: "{line}: the camera's clock is {off} {side}: {count} images, the first is {example}, captured "
    "at {captured_at} by that clock. They are filed by when they arrived. Set the clock; where images are meant to "
    "come so late, run `flowgauge lines set {line} clock_tolerance_seconds=SECONDS`.",
    AlertKind.DEAD_LETTER: "{line}: {count} messages could not be processed, the first is {example}. {reason}",
}
_PART_REJECTED = "{line}: {count} of its parts rejected, the first is {example}."


class Alerting(VerdictReader):
    """Tells of each kind as `Tallies` does. On a line with parts a part that is rejected is told, and not its views.

    `reported` are the counts of earlier alerts, by their ids; without them a start reports open windows again.
    """

    name = "alerting"
    inputs = (VERDICTS, DEAD_LETTERS, PART_VERDICTS)

    def __init__(
        self,
        store: Store,
        settings: SettingsCache | None = None,
        reported: Mapping[UUID, int] = MappingProxyType({}),
    ) -> None:
        super().__init__(store.log)
        self._settings = settings or SettingsCache(store)
        self._tallies = Tallies(self._settings, store.log, reported)
        self._highest_part: dict[int, Rank] = {}

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        last = records[-1]
        take = {VERDICTS: super().process, DEAD_LETTERS: self._dead_letters, PART_VERDICTS: self._parts}[last.topic]
        return [*take(records), *self._tallies.passed(last)]

    def receive(self, counted: Sequence[Counted]) -> list[Outgoing]:
        reported: list[Outgoing] = []
        for record, verdict in ((item.record, item.verdict) for item in counted):
            if verdict.clock_off and verdict.arrived_at is not None:
                ahead = verdict.captured_at - verdict.arrived_at
                reported += self._add(
                    AlertKind.CLOCK_OFF,
                    verdict.line,
                    record,
                    verdict.image_id,
                    off=str(timedelta(seconds=round(abs(ahead.total_seconds())))),
                    side="ahead" if ahead > timedelta() else "behind",
                    off_seconds=ahead.total_seconds(),
                    captured_at=verdict.captured_at.isoformat(),
                    arrived_at=verdict.arrived_at.isoformat(),
                )
            of_part = verdict.subject and self._settings.of(verdict.line).part_views is not None
            if verdict.decision is Decision.REJECT and not of_part:
                artifacts = {"image_uri": verdict.image_uri, "heatmap_uri": verdict.heatmap_uri}
                reported += self._add(AlertKind.REJECT, verdict.line, record, verdict.image_id, **artifacts)
            elif NO_GAUGE in verdict.reasons:
                reported += self._add(AlertKind.NO_GAUGE, verdict.line, record, verdict.image_id)
        return reported

    def committable_offset(self, topic: str, partition: int, read: int) -> int:
        return self._tallies.committable_offset(topic, partition, read)

    def punctuate(self, now: datetime) -> list[Outgoing]:
        self._tallies.find_complete(now)
        return self._tallies.due(now)

    def flush(self) -> list[Outgoing]:
        return self._tallies.so_far()

    def _parts(self, records: Sequence[Record]) -> list[Outgoing]:
        partition, offset = records[0].partition, records[0].offset
        if partition not in self._highest_part:
            self._highest_part[partition] = highest_before(self._log, PART_VERDICTS, partition, offset, PartVerdict)
        counted, outgoing, self._highest_part[partition] = fenced(records, self._highest_part[partition], PartVerdict)
        for record, part in counted:
            if part.decision is Decision.REJECT:
                rejected = [view.image_id for view in part.views if view.decision is Decision.REJECT]
                found = {"part_id": str(part.part_id), "rejected_views": rejected, "reasons": part.reasons}
                outgoing += self._tallies.add(
                    AlertKind.REJECT, part.line, record, _PART_REJECTED, part.subject, **found
                )
        return outgoing

    def _dead_letters(self, records: Sequence[Record]) -> list[Outgoing]:
        reported: list[Outgoing] = []
        for record in records:
            try:
                line = line_name(record.key)
            except InvalidName:  # which may be why it is a dead letter; it must be told all the same
                line = NO_LINE
            # of what others wrote both may be as long as a message, and an alert that is longer is never written
            example = record.headers.get("ce_id", "without an id")
            reason = record.headers.get(REASON, "")[:LONGEST_REASON]
            reported += self._add(AlertKind.DEAD_LETTER, line, record, example, reason=reason)
        return reported

    def _add(self, kind: AlertKind, line: str, record: Record, example: str, **detail: object) -> list[Outgoing]:
        return self._tallies.add(kind, line, record, _MESSAGES[kind], example, **detail)
