import os
from dataclasses import replace
from pathlib import Path

import pytest

from flowgauge.domain.errors import GaugeMissing, SnapshotOfOtherSchema, Unavailable
from flowgauge.domain.messages import SNAPSHOTS, Alert, AlertKind, SnapshotAnnouncement
from flowgauge.domain.object_keys import snapshot_prefix
from flowgauge.domain.ports import Outgoing
from flowgauge.local.objects import SnapshotFolder
from flowgauge.models.prediction import Predictor
from flowgauge.registry.gauges import Gauges
from flowgauge.registry.snapshots import active_snapshot, announcements, fetch_snapshot, publish_snapshot, roll_back
from flowgauge.runtime.backend import Store
from tests.support.executors import Later
from tests.support.failing import Failing
from tests.support.streaming import LINE, START, BrightnessGauge, SetClock, fitted, load, opened, snapshot


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return opened(tmp_path, SetClock())


@pytest.fixture
def gauges(store: Store) -> Gauges:
    return Gauges(store.log, store.objects, load)


def version(gauges: Gauges, line: str = LINE) -> str | None:
    gauges.refresh()
    gauge = gauges.gauge(line)
    return gauge.version if gauge else None


def announce(store: Store, name: str, epoch: int) -> None:
    """What a second process that did not see the first might announce."""
    files = snapshot(name)
    publish_snapshot(store, "elsewhere", name, files, None)
    for part, data in (("manifest.json", files.manifest), ("weights.safetensors", files.weights)):
        store.objects.put(f"{snapshot_prefix(LINE, name)}/{part}", data)
    message = SnapshotAnnouncement(
        line=LINE, epoch=epoch, version=name, uri="", sha256=files.sha256, parent=None, at=START
    )
    store.log.append([Outgoing(SNAPSHOTS, LINE, message.encode())])


def flip(store: Store, name: str, part: str) -> None:
    path = f"{snapshot_prefix(LINE, name)}/{part}"
    data = bytearray(store.objects.get(path))
    data[len(data) // 2] ^= 1
    store.objects.put(path, bytes(data))


def invalid(gauges: Gauges) -> list[Alert]:
    return [Alert.decode(outgoing.value) for outgoing in gauges.alerts()]


def test_a_line_that_was_never_fitted_has_no_gauge(gauges: Gauges) -> None:
    assert version(gauges) is None


def test_the_highest_epoch_is_active_whatever_the_order(store: Store, gauges: Gauges) -> None:
    for name, epoch in (("b", 2), ("c", 3), ("a", 1)):
        announce(store, name, epoch)
    assert version(gauges) == "c"
    assert active_snapshot(store.log, LINE).version == "c"


def test_among_equal_epochs_the_first_in_log_order_is_active(store: Store, gauges: Gauges) -> None:
    announce(store, "first", 1)
    announce(store, "second", 1)
    assert version(gauges) == "first"
    assert active_snapshot(store.log, LINE).version == "first"


@pytest.mark.parametrize("refused", ["", "scores differ", "no room"])
def test_a_gauge_is_compiled_beside_scoring_and_swapped_by_a_refresh(store: Store, refused: str) -> None:
    beside = Later()

    def compile(gauge: Predictor) -> tuple[Predictor, str]:
        assert isinstance(gauge, BrightnessGauge)
        if refused == "no room":
            raise MemoryError(refused)
        return (gauge, refused) if refused else (replace(gauge, detector_name="compiled"), "")

    gauges = Gauges(store.log, store.objects, load, compile=compile, beside=beside)
    fitted(store, "fit-1")
    assert version(gauges) == "fit-1"
    loaded = gauges.loaded(LINE)
    for work in beside.waiting:
        work()
    assert gauges.loaded(LINE) is loaded, "a batch is scored by one gauge"
    gauges.refresh()
    found = gauges.gauge(LINE)
    assert found is not None
    assert (found.version, found.detector_name) == ("fit-1", "brightness" if refused else "compiled")
    assert [(alert.kind, refused in alert.message) for alert in invalid(gauges)] == (
        [(AlertKind.ENGINE_REFUSED, True)] if refused else []
    )
    gauges.refresh()
    assert len(beside.waiting) == 1, "compiled once"


def test_a_gauge_is_swapped_by_a_refresh_and_only_then(store: Store, gauges: Gauges) -> None:
    fitted(store, "fit-1")
    assert version(gauges) == "fit-1"
    fitted(store, "fit-2")
    held = gauges.gauge(LINE)
    assert held is not None
    assert held.version == "fit-1"
    assert version(gauges) == "fit-2"


def test_a_rollback_is_a_new_epoch(store: Store, gauges: Gauges) -> None:
    fitted(store, "fit-1")
    fitted(store, "fit-2")
    roll_back(store, LINE, "fit-1")
    assert version(gauges) == "fit-1"
    assert [(message.epoch, message.version) for message in announcements(store.log, LINE)][-1] == (3, "fit-1")


def test_a_rollback_to_what_is_not_there_changes_nothing(store: Store) -> None:
    fitted(store, "fit-1")
    with pytest.raises(GaugeMissing, match="no snapshot 'fit-9'"):
        roll_back(store, LINE, "fit-9")
    assert len(list(announcements(store.log, LINE))) == 1


@pytest.mark.parametrize("part", ["manifest.json", "weights.safetensors"])
def test_a_snapshot_with_one_flipped_byte_is_reported_and_the_gauge_before_it_stays(
    store: Store, gauges: Gauges, part: str
) -> None:
    fitted(store, "fit-1")
    assert version(gauges) == "fit-1"
    fitted(store, "fit-2")
    flip(store, "fit-2", part)
    assert version(gauges) == "fit-1"
    [alert] = invalid(gauges)
    assert (alert.kind, alert.line) == (AlertKind.SNAPSHOT_INVALID, LINE)
    assert "fit-2" in alert.message
    assert version(gauges) == "fit-1"
    assert invalid(gauges) == []


def test_after_a_restart_a_broken_snapshot_falls_back_to_the_last_that_loads(store: Store, gauges: Gauges) -> None:
    for name in ("fit-1", "fit-2", "fit-3"):
        fitted(store, name)
    flip(store, "fit-3", "manifest.json")
    store.objects.delete(f"{snapshot_prefix(LINE, 'fit-2')}/weights.safetensors")
    assert version(gauges) == "fit-1"
    assert len(invalid(gauges)) == 2


def test_a_snapshot_of_a_newer_schema_is_reported_with_the_remedy(store: Store) -> None:
    def too_new(manifest: bytes, weights: bytes) -> Predictor:
        raise SnapshotOfOtherSchema("The manifest has schema 9.", "Upgrade Flowgauge.")

    gauges = Gauges(store.log, store.objects, too_new)
    fitted(store, "fit-1")
    assert version(gauges) is None
    assert "Upgrade Flowgauge." in invalid(gauges)[0].message


def test_a_store_that_is_away_leaves_the_gauge_that_is_loaded(store: Store) -> None:
    objects = Failing(store.objects, ["get"], times=0)
    gauges = Gauges(store.log, objects, load)
    fitted(store, "fit-1")
    assert version(gauges) == "fit-1"
    fitted(store, "fit-2")
    objects.left = 1
    assert version(gauges) == "fit-1"
    assert version(gauges) == "fit-2"


def test_without_any_gauge_loaded_a_store_that_is_away_is_waited_for(store: Store) -> None:
    gauges = Gauges(store.log, Failing(store.objects, ["get"]), load)
    fitted(store, "fit-1")
    with pytest.raises(Unavailable):
        version(gauges)
    assert version(gauges) == "fit-1"


def test_gauges_of_lines_that_rest_leave_memory_and_come_back(store: Store) -> None:
    loaded: list[str] = []

    def fencing(manifest: bytes, weights: bytes) -> Predictor:
        gauge = load(manifest, weights)
        loaded.append(gauge.line)
        return gauge

    gauges = Gauges(store.log, store.objects, fencing, capacity=2)
    for line in ("a", "b", "c"):
        fitted(store, line=line)
    for line in ("a", "b", "a", "c", "a", "b"):
        assert version(gauges, line) == "fit-1"
    assert loaded == ["a", "b", "c", "b"]


def test_a_gauge_that_leaves_memory_is_compiled_no_more(store: Store) -> None:
    beside = Later()
    gauges = Gauges(store.log, store.objects, load, 1, compile=lambda gauge: (gauge, ""), beside=beside)
    for line in ("a", "b"):
        fitted(store, line=line)
        assert version(gauges, line) == "fit-1"
    assert [future.cancelled() for future in beside.futures] == [True, False]


def test_a_snapshot_is_found_by_its_version(store: Store) -> None:
    fitted(store, "fit-1")
    assert fetch_snapshot(store.objects, LINE, "fit-1") == snapshot("fit-1")
    with pytest.raises(GaugeMissing):
        fetch_snapshot(store.objects, LINE, "fit-2")


def test_while_the_store_is_away_a_worker_starts_with_the_last_good_snapshot_on_its_disk(
    store: Store, tmp_path: Path
) -> None:
    fitted(store, "fit-1")
    disk = SnapshotFolder(tmp_path / "cache")
    assert version(Gauges(store.log, store.objects, load, disk=disk)) == "fit-1"
    fitted(store, "fit-2")

    objects = Failing(store.objects, ["get"], times=1_000)
    restarted = Gauges(store.log, objects, load, disk=disk)
    assert version(restarted) == "fit-1"
    objects.left = 0
    assert version(restarted) == "fit-2"


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_snapshot_that_was_damaged_on_disk_is_fetched_again(store: Store, tmp_path: Path, suffix: str) -> None:
    fitted(store, "fit-1")
    disk = SnapshotFolder(tmp_path / "cache")
    assert version(Gauges(store.log, store.objects, load, disk=disk)) == "fit-1"
    (file,) = (tmp_path / "cache").glob(f"*{suffix}")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"?")
    assert version(Gauges(store.log, store.objects, load, disk=disk)) == "fit-1"
    assert file.read_bytes() == whole


def test_the_disk_keeps_the_snapshots_that_were_used_last(tmp_path: Path) -> None:
    disk = SnapshotFolder(tmp_path / "cache", kept=2)
    digests = []
    for name in ("a", "b", "c"):
        files = snapshot(name)
        digests.append(files.sha256)
        disk.put(files.sha256, files.manifest, files.weights)
        stamp = 1_000_000 + len(digests)
        os.utime(tmp_path / "cache" / f"{files.sha256}.json", (stamp, stamp))
    disk.put(digests[2], snapshot("c").manifest, snapshot("c").weights)
    assert [disk.get(digest) is not None for digest in digests] == [False, True, True]
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_disk_that_cannot_be_written_keeps_no_gauge_from_loading(store: Store, tmp_path: Path) -> None:
    fitted(store, "fit-1")
    (tmp_path / "file").write_text("")
    assert version(Gauges(store.log, store.objects, load, disk=SnapshotFolder(tmp_path / "file" / "cache"))) == "fit-1"


def test_what_is_no_announcement_is_passed_over_and_reported_once(store: Store, gauges: Gauges) -> None:
    fitted(store, "fit-1")
    store.log.append([Outgoing(SNAPSHOTS, LINE, b"nonsense"), Outgoing(SNAPSHOTS, "no line!", b"{}")])
    assert version(gauges) == "fit-1"
    assert version(gauges) == "fit-1"
    (reported,) = invalid(gauges)
    assert (reported.kind, reported.line) == (AlertKind.SNAPSHOT_INVALID, LINE)
    fitted(store, "fit-2")
    assert version(gauges) == "fit-2"
    assert active_snapshot(store.log, LINE).version == "fit-2"
