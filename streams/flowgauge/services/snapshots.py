"""Stored gauges of a line: loaded, given another threshold, made the active one again."""

from operator import methodcaller

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import Expected
from flowgauge.registry import snapshots as registry
from flowgauge.registry.snapshots import SnapshotFiles, active_snapshot, fetch_snapshot
from flowgauge.registry.trials import introduce
from flowgauge.runtime.backend import Store
from flowgauge.services.changes import record_change
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import load, read_manifest, with_threshold


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


def set_threshold(store: Store, line: str, value: float | None, false_alarms: float | None, by: str) -> tuple[str, str]:
    """Publish the active gauge with another threshold, which the person `by` wants: `value`, or the one that promises
    the rate `false_alarms`.

    Its version, and that of the gauge before it. Raises `UserError` unless one of the two is given, and `GaugeMissing`.
    """
    if (value is None) == (false_alarms is None):
        raise UserError("A threshold is set by its value or by a promise.", "Give --value or --false-alarms.")
    change = methodcaller("repromised", false_alarms) if value is None else methodcaller("moved_to", value)
    parent = active_snapshot(store.log, line).version
    files = fetch_snapshot(store.objects, line, parent)
    manifest, version = with_threshold(files.manifest, change, store.clock.now())
    higher = read_manifest(manifest).threshold.value > read_manifest(files.manifest).threshold.value
    expected = Expected.FEWER if higher else Expected.MORE
    introduce(store, line, version, SnapshotFiles(manifest, files.weights), parent, by, expected)
    record_change(store, by, "threshold", line, version, {"version": parent}, {"version": version})
    return version, parent


def roll_back(store: Store, line: str, version: str, by: str) -> None:
    """Make a stored version the active one again, as the person `by` wants.

    Raises `GaugeMissing`, and `SnapshotInvalid` for one that does not load: it must not become active.
    """
    stored_gauge(store, line, version)
    before = active_snapshot(store.log, line).version
    registry.roll_back(store, line, version)
    record_change(store, by, "roll back", line, version, {"version": before}, {"version": version})
