"""The gauges that are active or on trial, loaded: what the snapshots topic says, verified, kept in memory for the lines
in use.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from flowgauge.domain.errors import (
    AuthenticationFailed,
    GaugeMissing,
    InvalidName,
    SnapshotCorrupt,
    SnapshotInvalid,
    Unavailable,
)
from flowgauge.domain.messages import SNAPSHOTS, AlertKind, SnapshotAnnouncement, Trial
from flowgauge.domain.object_keys import line_name
from flowgauge.domain.ports import Log, Objects, Outgoing
from flowgauge.models.prediction import Predictor
from flowgauge.registry.snapshots import SnapshotDisk, announcements_since, fetch_snapshot
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.meter import UNMETERED, Meter
from flowgauge.runtime.roles import GAUGES_IN_MEMORY

# announcements per line: with fewer there is nothing to fall back to when the newest are broken; more only take memory
_REMEMBERED = 16
_BROKEN = SnapshotInvalid, GaugeMissing

Load = Callable[[bytes, bytes], Predictor]
"""Manifest and weights to a gauge; raises `SnapshotInvalid`."""


Compile = Callable[[Predictor], tuple[Predictor, str]]
"""A gauge to the same one on a faster engine; or as it was, with the reason why."""


@dataclass(frozen=True)
class Wanted:
    """A snapshot as an announcement names it."""

    line: str
    version: str
    sha256: str
    epoch: int
    at: datetime

    @classmethod
    def active(cls, announced: SnapshotAnnouncement) -> "Wanted":
        return cls(announced.line, announced.version, announced.sha256, announced.epoch, announced.at)

    @classmethod
    def candidate(cls, announced: SnapshotAnnouncement, trial: Trial) -> "Wanted":
        return cls(announced.line, trial.version, trial.sha256, announced.epoch, announced.at)

    @property
    def key(self) -> tuple[str, str]:
        return self.line, self.sha256


@dataclass
class Held:
    """`compiling`: beside scoring, which goes on with `gauge` until it is done."""

    wanted: Wanted
    gauge: Predictor
    compiling: Future[tuple[Predictor, str]] | None = None


@dataclass(frozen=True)
class OnTrial:
    """`candidate` is None where it does not load."""

    trial: Trial
    candidate: Predictor | None


class Gauges:
    """`refresh` between two batches is the only moment at which a gauge is swapped.

    Of a line's announcements the highest epoch wins, the first in log order among equals. One that is broken is
    reported once and passed over for good; the next highest that loads takes its place. The `capacity` gauges that were
    used last stay in memory, those that are on trial among them. Snapshots that have loaded are kept on `disk`, and
    while the object store is away a worker that starts takes the highest that lies there.

    A gauge scores as it was loaded until `compile` is done with it, which runs in `beside`; a refresh puts the compiled
    one in its place. Where it is refused, the gauge stays as it was loaded, and an alert says why.
    """

    def __init__(
        self,
        log: Log,
        objects: Objects,
        load: Load,
        capacity: int = GAUGES_IN_MEMORY,
        disk: SnapshotDisk | None = None,
        compile: Compile | None = None,
        beside: Executor | None = None,
        meter: Meter = UNMETERED,
    ) -> None:
        self._log = log
        self._objects = objects
        self._load = load
        self._disk = disk
        self._capacity = capacity
        self._compile = compile
        self._beside = beside
        self._meter = meter
        self._read: dict[int, int] = {}
        self._announced: defaultdict[str, list[SnapshotAnnouncement]] = defaultdict(list)
        self._broken: set[Wanted] = set()
        self._held: OrderedDict[tuple[str, str], Held] = OrderedDict()
        self._active: dict[str, Wanted] = {}
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
                    self._alerts.append(_engine_refused(held.wanted, refused))
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
            wanted = Wanted.active(announced)
            try:
                if gauge := self._loaded(wanted, "was not activated; the gauge before it stays"):
                    self._activate(announced, wanted)
                    return gauge
            except Unavailable as error:
                if (gauge := self.loaded(line)) is not None:
                    return gauge
                away = away or error
        if away is not None:
            raise away
        return None

    def on_trial(self, line: str) -> OnTrial | None:
        """The candidate beside the gauge of `line`; None while there is none, or the store that holds it is away, and
        until both are compiled: their times would not compare.
        """
        announced = next(iter(self._announced.get(line, [])), None)
        # where the newest announcement does not hold, its trial does not either
        if announced is None or announced.trial is None or Wanted.active(announced) in self._broken:
            return None
        wanted = Wanted.candidate(announced, announced.trial)
        try:
            # whatever goes wrong with a candidate, such as too little memory for two, scoring goes on without it
            candidate = self._loaded(wanted, "cannot be tried", Exception)
        except (Unavailable, AuthenticationFailed):
            return None
        held = [self._held.get(key) for key in (wanted.key, (line, announced.sha256))]
        if any(each is not None and each.compiling is not None for each in held):
            return None
        return OnTrial(announced.trial, candidate)

    def loaded(self, line: str) -> Predictor | None:
        """The active gauge of `line` that is in memory; asks nobody. From any thread."""
        active = self._active.get(line)
        held = None if active is None else self._held.get(active.key)
        return None if held is None else held.gauge

    def version(self, line: str, version: str) -> Predictor | None:
        """One of the line's gauges, active, on trial or neither any more; None where it was never announced or does not
        load.
        """
        named: list[Wanted] = []
        for announced in self._announced.get(line, []):
            named.append(Wanted.active(announced))
            if announced.trial is not None:
                named.append(Wanted.candidate(announced, announced.trial))
        found = next((wanted for wanted in named if wanted.version == version), None)
        if found is None:
            return None
        try:
            return held.gauge if (held := self._held.get(found.key)) else self._verified(found)
        except _BROKEN:
            return None

    def alerts(self) -> list[Outgoing]:
        """The `snapshot_invalid` alerts since the last call."""
        due, self._alerts = self._alerts, []
        return due

    def _loaded(
        self, wanted: Wanted, otherwise: str, broken: type[Exception] | tuple[type[Exception], ...] = _BROKEN
    ) -> Predictor | None:
        """The gauge, in memory from now on; None where it is broken, as an error out of `broken` tells, which is
        reported once: it `otherwise`. Raises `Unavailable` where it is not in memory and cannot be fetched.
        """
        if wanted in self._broken:
            return None
        held = self._held.get(wanted.key)
        if held is None:
            try:
                gauge = self._verified(wanted)
            except (Unavailable, AuthenticationFailed):
                raise
            except broken as error:
                self._broken.add(wanted)
                trigger = f"{wanted.epoch}:{wanted.sha256}"
                message = f"Snapshot {wanted.version} {otherwise}. {error}"
                kind, version = AlertKind.SNAPSHOT_INVALID, wanted.version
                self._alerts.append(alert(wanted.line, kind, trigger, wanted.at, message, version=version))
                return None
            self._meter.gauge_loaded()
            compiling = self._beside.submit(self._compile, gauge) if self._compile and self._beside else None
            held = self._held[wanted.key] = Held(wanted, gauge, compiling)
        self._held.move_to_end(wanted.key)
        if len(self._held) > self._capacity:
            self._let_go(next(iter(self._held)))
        return held.gauge

    def _let_go(self, key: tuple[str, str]) -> None:
        held = self._held.pop(key)
        if held.compiling is not None:
            # or what waits to be compiled keeps gauges in memory that nobody scores with
            held.compiling.cancel()

    def _activate(self, announced: SnapshotAnnouncement, wanted: Wanted) -> None:
        """Let go of what the line has neither in use nor on trial any more."""
        if self._active.get(wanted.line) == wanted:
            return
        self._active[wanted.line] = wanted
        kept = {wanted.key, (wanted.line, announced.trial.sha256)} if announced.trial else {wanted.key}
        for key in [key for key in self._held if key[0] == wanted.line and key not in kept]:
            self._let_go(key)

    def _verified(self, announced: Wanted) -> Predictor:
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


def _engine_refused(announced: Wanted, why: str) -> Outgoing:
    line, version = announced.line, announced.version
    message = f"Snapshot {version} is scored by torch, not by the faster engine: {why}."
    trigger = f"{announced.epoch}:{announced.sha256}"
    return alert(line, AlertKind.ENGINE_REFUSED, trigger, announced.at, message, version=version)
