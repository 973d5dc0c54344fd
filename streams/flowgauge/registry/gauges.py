"""The gauges that are active, loaded: what the snapshots topic says, verified, kept in memory for the lines in use."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass

from flowgauge.domain.errors import GaugeMissing, InvalidName, SnapshotCorrupt, SnapshotInvalid, Unavailable
from flowgauge.domain.messages import SNAPSHOTS, AlertKind, SnapshotAnnouncement
from flowgauge.domain.object_keys import line_name
from flowgauge.domain.ports import Log, Objects, Outgoing
from flowgauge.models.prediction import Predictor
from flowgauge.registry.snapshots import SnapshotDisk, announcements_since, fetch_snapshot
from flowgauge.runtime.alerts import alert

# announcements per line: with fewer there is nothing to fall back to when the newest are broken; more only take memory
_REMEMBERED = 16
# gauges in memory: more, and a worker of many lines outgrows it; fewer than lines that send at a time, and every batch
# loads one again
_IN_MEMORY = 32

Load = Callable[[bytes, bytes], Predictor]
"""Manifest and weights to a gauge; raises `SnapshotInvalid`."""


Compile = Callable[[Predictor], tuple[Predictor, str]]
"""A gauge to the same one on a faster engine; or as it was, with the reason why."""


@dataclass
class Held:
    """`compiling`: beside scoring, which goes on with `gauge` until it is done."""

    announced: SnapshotAnnouncement
    gauge: Predictor
    compiling: Future[tuple[Predictor, str]] | None = None


class Gauges:
    """`refresh` between two batches is the only moment at which a gauge is swapped.

    Of a line's announcements the highest epoch wins, the first in log order among equals. One that is broken is
    reported once and passed over for good; the next highest that loads takes its place. The `capacity` gauges that were
    used last stay in memory. Snapshots that have loaded are kept on `disk`, and while the object store is away a worker
    that starts takes the highest that lies there.

    A gauge scores as it was loaded until `compile` is done with it, which runs in `beside`; a refresh puts the compiled
    one in its place. Where it is refused, the gauge stays as it was loaded, and an alert says why.
    """

    def __init__(
        self,
        log: Log,
        objects: Objects,
        load: Load,
        capacity: int = _IN_MEMORY,
        disk: SnapshotDisk | None = None,
        compile: Compile | None = None,
        beside: Executor | None = None,
    ) -> None:
        self._log = log
        self._objects = objects
        self._load = load
        self._disk = disk
        self._capacity = capacity
        self._compile = compile
        self._beside = beside
        self._read: dict[int, int] = {}
        self._announced: defaultdict[str, list[SnapshotAnnouncement]] = defaultdict(list)
        self._broken: set[tuple[str, int]] = set()
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._alerts: list[Outgoing] = []

    def refresh(self) -> None:
        """Read what has been announced since the last call, and take what was compiled. Raises `Unavailable`."""
        for held in self._held.values():
            if held.compiling is not None and held.compiling.done():
                # whatever goes wrong in a compiler, the gauge that was loaded scores on
                error = held.compiling.exception()
                held.gauge, refused = (held.gauge, repr(error)) if error else held.compiling.result()
                held.compiling = None
                if refused:
                    self._alerts.append(_engine_refused(held.announced, refused))
        for partition in range(self._log.partitions(SNAPSHOTS)):
            for record, message in announcements_since(self._log, partition, self._read.get(partition, 0)):
                self._read[partition] = record.offset + 1
                if message is None:
                    source = f"{partition}:{record.offset}"
                    why = f"The record {source} of the snapshots topic is no announcement; the gauge before it stays."
                    with suppress(InvalidName):  # a key that names no line names nobody to tell
                        line, kind = line_name(record.key), AlertKind.SNAPSHOT_INVALID
                        self._alerts.append(alert(line, kind, source, record.at, why))
                    continue
                known = self._announced[message.line]
                # two workers that announce at once take the same epoch: whoever reads must choose the same one
                if all(message.epoch != other.epoch for other in known):
                    known.append(message)
                    known.sort(key=lambda announced: -announced.epoch)
                    del known[_REMEMBERED:]

    def gauge(self, line: str) -> Predictor | None:
        """The gauge to score `line` with; None while it has none that loads.

        While the store is away, the gauge that is loaded stays, else the newest on disk; `Unavailable` only where there
        is none.
        """
        away: Unavailable | None = None
        for announced in self._announced.get(line, []):
            try:
                if (line, announced.epoch) not in self._broken and (gauge := self._activated(announced)):
                    return gauge
            except Unavailable as error:
                away = away or error
        if away is not None:
            raise away
        return None

    def loaded(self, line: str) -> Predictor | None:
        """The gauge of `line` that is in memory; asks nobody. From any thread."""
        held = self._held.get(line)
        return None if held is None else held.gauge

    def version(self, line: str, version: str) -> Predictor | None:
        """One of the line's gauges, active or not; None where it was never announced or does not load."""
        gauge = self.loaded(line)
        if gauge is not None and gauge.version == version:
            return gauge
        announced = [each for each in self._announced.get(line, []) if each.version == version]
        try:
            return self._verified(announced[0]) if announced else None
        except (SnapshotInvalid, GaugeMissing):
            return None

    def alerts(self) -> list[Outgoing]:
        """The `snapshot_invalid` alerts since the last call."""
        due, self._alerts = self._alerts, []
        return due

    def _activated(self, announced: SnapshotAnnouncement) -> Predictor | None:
        """The announced gauge, in memory from now on; None where it is broken, which is reported. While the store is
        away, the gauge of the line that is in memory."""
        held = self._held.get(announced.line)
        if held is None or held.announced != announced:
            try:
                gauge = self._verified(announced)
                compiling = self._beside.submit(self._compile, gauge) if self._compile and self._beside else None
                held = Held(announced, gauge, compiling)
            except (SnapshotInvalid, GaugeMissing) as error:
                self._broken.add((announced.line, announced.epoch))
                trigger = f"{announced.epoch}:{announced.sha256}"
                message = f"Snapshot {announced.version} was not activated; the gauge before it stays. {error}"
                line, version, kind = announced.line, announced.version, AlertKind.SNAPSHOT_INVALID
                self._alerts.append(alert(line, kind, trigger, announced.at, message, version=version))
                return None
            except Unavailable:
                if held is None:
                    raise
                return held.gauge
        self._held[announced.line] = held
        self._held.move_to_end(announced.line)
        if len(self._held) > self._capacity:
            self._held.popitem(last=False)
        return held.gauge

    def _verified(self, announced: SnapshotAnnouncement) -> Predictor:
        """Loaded from disk, else from the object store, where its manifest must be the one that was announced."""
        found = self._disk.get(announced.sha256) if self._disk is not None else None
        if found is not None:
            with suppress(SnapshotInvalid):  # files that were damaged on our disk may be whole in the object store
                return self._load(*found)
        files = fetch_snapshot(self._objects, announced.line, announced.version)
        if files.sha256 != announced.sha256:
            raise SnapshotCorrupt(
                f"The manifest of {announced.line} {announced.version} is not the one that was announced.",
                "Restore the object, or roll back to another version.",
            )
        gauge = self._load(files.manifest, files.weights)
        if self._disk is not None:
            self._disk.put(files.sha256, files.manifest, files.weights)
        return gauge


def _engine_refused(announced: SnapshotAnnouncement, why: str) -> Outgoing:
    line, version = announced.line, announced.version
    message = f"Snapshot {version} is scored by torch, not by the faster engine: {why}."
    trigger = f"{announced.epoch}:{announced.sha256}"
    return alert(line, AlertKind.ENGINE_REFUSED, trigger, announced.at, message, version=version)
