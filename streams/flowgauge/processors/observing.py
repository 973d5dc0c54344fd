"""Observing: fills each line's buffer, monitors it for drift, and says when it is time to adapt."""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from flowgauge.domain.buffer import to_evict
from flowgauge.domain.messages import Verdict
from flowgauge.domain.object_keys import snapshot_prefix
from flowgauge.domain.ports import Buffered, Outgoing
from flowgauge.processors.line_monitor import LineMonitor, LineState
from flowgauge.registry.lines import SettingsCache
from flowgauge.registry.snapshots import MANIFEST
from flowgauge.runtime.backend import Store, kept_state
from flowgauge.runtime.fencing import Counted, VerdictReader
from flowgauge.runtime.meter import UNMETERED, Meter
from flowgauge.training.thresholds import Threshold

# what a line may pause without losing its schedule and what was seen of its drift; longer only keeps dead lines' state
_TTL_SECONDS = 30 * 86_400


class Observing(VerdictReader):
    """Looks at verdicts with `use_for_training` alone. State is stored after the requests and alerts that followed from
    it are durable; a crash in between repeats them with the ids that they had.

    A line is known by its verdicts, and after a restart by what was stored of its partition, so that the schedule of a
    line that pauses holds too.
    """

    name = "observing"

    def __init__(self, store: Store, meter: Meter = UNMETERED, settings: SettingsCache | None = None) -> None:
        super().__init__(store.log)
        self._meter = meter
        self._state = store.state
        self._objects = store.objects
        self._clock = store.clock
        self._settings = settings or SettingsCache(store)
        self._monitors: dict[str, LineMonitor] = {}
        self._touched: set[str] = set()
        self._minute: datetime | None = None

    def start_offset(self, topic: str, partition: int, committed: int) -> int:
        known = self._state.get(_partition_key(partition))
        end = self._log.end(topic, partition)
        for line in json.loads(known) if known else ():
            self._restore(line)
            state = self._monitors[line].state
            if state.seen.get(partition, -1) >= end:  # of a topic that was made anew: its verdicts would pass unseen
                state.seen[partition] = -1
                self._touched.add(line)
        return committed

    def receive(self, counted: Sequence[Counted]) -> list[Outgoing]:
        of_line: defaultdict[str, list[Counted]] = defaultdict(list)
        for item in counted:
            if item.verdict.use_for_training:
                of_line[item.verdict.line].append(item)
        # whatever may raise `Unavailable` comes first and may be repeated: the monitors see each verdict once
        for line, items in of_line.items():
            self._fill(line, [item.verdict for item in items])
            self._restore(line)
        self._touched |= of_line.keys()
        outgoing: list[Outgoing] = []
        for line, items in of_line.items():
            self._keep_to_schedule(line, self._clock.now())
            settings = self._settings.of(line)
            for item in items:
                outgoing += self._monitors[line].see(item, settings)
        return outgoing

    def punctuate(self, now: datetime) -> list[Outgoing]:
        """What schedules ask for of lines that pause; looked at once in every minute."""
        minute = now.replace(second=0, microsecond=0)
        if minute == self._minute:
            return []
        self._touched |= {line for line in self._monitors if self._keep_to_schedule(line, now)}
        # another worker may have had a line since: what it has asked for is in the state that it stored
        stored = {line: kept_state(self._state, _key(line), LineState) for line in self._due(now)}
        for line, state in stored.items():
            if state is not None:
                self._monitors[line] = LineMonitor(line, state, self._threshold)
        due = self._due(now)
        self._minute = minute
        self._touched |= {*due}
        asked = [out for line in due for out in self._monitors[line].tick(now, self._settings.of(line))]
        if not asked:  # then nobody appends anything, after which `checkpoint` would be called
            self.checkpoint()
        return asked

    def checkpoint(self) -> None:
        for line in sorted(self._touched):
            self._state.put(_key(line), self._monitors[line].state.encode(), _TTL_SECONDS)
        partitions = {number for line in self._touched for number in self._monitors[line].partitions}
        for number in sorted(partitions):
            lines = sorted(line for line, monitor in self._monitors.items() if number in monitor.partitions)
            self._state.put(_partition_key(number), json.dumps(lines).encode(), _TTL_SECONDS)
        self._touched = set()

    def _fill(self, line: str, verdicts: Sequence[Verdict]) -> None:
        """Add to the buffer what was kept of the images, and evict what should leave it."""
        settings = self._settings.of(line)
        entries = [
            Buffered(
                image_id=verdict.image_id,
                image_uri=verdict.image_uri,
                image_sha256=verdict.image_sha256,
                captured_at=verdict.event_time,
                score=verdict.score,
                decision=verdict.decision,
                fingerprint=verdict.statistics.fingerprint,
                subject=verdict.subject,
            )
            for verdict in verdicts
            if verdict.image_uri is not None
        ]
        if entries:
            self._state.buffer_add(line, entries, settings.buffer_size)
            held = self._state.buffer(line)
            gone = to_evict(held, settings, self._clock.now())
            self._state.buffer_remove(line, gone)
            self._meter.buffered(line, len(held) - len(gone), settings.buffer_size)

    def _keep_to_schedule(self, line: str, now: datetime) -> bool:
        return self._monitors[line].schedule(self._settings.of(line).adapt_schedule, now)

    def _due(self, now: datetime) -> list[str]:
        return [line for line, monitor in self._monitors.items() if monitor.due(now)]

    def _restore(self, line: str) -> None:
        if line not in self._monitors:
            state = kept_state(self._state, _key(line), LineState) or LineState()
            self._monitors[line] = LineMonitor(line, state, self._threshold)

    def _threshold(self, line: str, version: str) -> Threshold | None:
        """Out of the gauge's manifest, without loading the gauge; None where there is none that can be read."""
        try:
            manifest = self._objects.get(f"{snapshot_prefix(line, version)}/{MANIFEST}")
            return Threshold.model_validate(json.loads(manifest)["threshold"])
        except (KeyError, ValueError):
            return None


def _key(line: str) -> str:
    return f"observing/{line}"


def _partition_key(number: int) -> str:
    return f"observing-partitions/{number}"
