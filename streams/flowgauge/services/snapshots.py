"""Stored gauges of a line: loaded, made the active one again."""

from flowgauge.registry import snapshots as registry
from flowgauge.registry.snapshots import active_snapshot, fetch_snapshot
from flowgauge.registry.trials import record_end
from flowgauge.runtime.backend import Store
from flowgauge.services.changes import recorded
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import load
from flowgauge.trials.tally import Outcome


def stored_gauge(store: Store, line: str, version: str | None = None, device: str = "cpu") -> Gauge:
    """The gauge of that version; None stands for the active one.

    Raises `GaugeMissing` where there is none and `SnapshotInvalid` for one that must not be loaded.
    """
    sha256 = None
    if version is None:
        active = active_snapshot(store.log, line)
        version, sha256 = active.version, active.sha256
    files = fetch_snapshot(store.objects, line, version)
    return load(files.manifest, files.weights, device=device, sha256=sha256)


def roll_back(store: Store, line: str, version: str, by: str) -> bool:
    """Make a stored version the active one again, as the person `by` wants; False where it is that already, and nothing
    changes.

    Raises `GaugeMissing`, and `SnapshotInvalid` for one that does not load: it must not become active.
    """
    stored_gauge(store, line, version)
    before = active_snapshot(store.log, line).version
    if before == version:
        return False
    with recorded(store, by, "roll back", line, version, {"version": before}, {"version": version}):
        announced = registry.roll_back(store, line, version)
        record_end(store, announced, Outcome.SUPERSEDED, by, f"{version} became active")
    return True
