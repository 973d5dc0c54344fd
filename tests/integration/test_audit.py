"""`flowgauge audit`: verdicts of a real gauge that reproduce, and every way in which one may not."""

import json
import os
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.messages import Decision, Expected, TrialRules, Verdict
from flowgauge.domain.object_keys import snapshot_prefix
from flowgauge.domain.ports import Objects
from flowgauge.processors.archive import SCHEMA, archived
from flowgauge.registry.lines import set_line
from flowgauge.registry.snapshots import active_snapshot, as_record
from flowgauge.registry.trials import as_canary, begun
from flowgauge.services.audit import Outcome, audit
from flowgauge.services.retention import PassRetention, expired
from flowgauge.services.threshold import stored_threshold
from tests.support.plants import LINE, fitted_store, tiny_dataset
from tests.support.shell import Outcome as Done
from tests.support.shell import Shell
from tests.support.streaming import SetClock

CAPTURED = 1_790_000_000  # seconds, months before any run of this test
IMAGES = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plant whose archive has verdicts of two gauges."""
    root = tmp_path_factory.mktemp("audited")
    return fitted_store(root / "plant")


@pytest.fixture
def plant(made: Path, flowgauge: Shell, tmp_path: Path) -> Path:
    if not (made / "objects" / "verdicts").exists():
        for part, images in enumerate(
            (sorted(tiny_dataset().glob("test/good/*")), sorted(tiny_dataset().glob("test/s*/*")))
        ):
            folder = made.parent / f"in-{part}"
            folder.mkdir()
            for number, image in enumerate(images):
                path = shutil.copy(image, folder / f"{part}-{number}.png")
                os.utime(path, (CAPTURED + 60 * number, CAPTURED + 60 * number))
            run = flowgauge("run", folder, "--line", LINE, "--store", made, "--once", "--device", "cpu")
            assert run.code == 0, run.err
            if part == 0:
                changed = flowgauge("threshold", "set", LINE, "--false-alarms", 0.2, "--store", made)
                assert changed.code == 0, changed.err
    return Path(shutil.copytree(made, tmp_path / "plant"))


def verdicts(plant: Path) -> list[Verdict]:
    with open_store(str(plant)) as store:
        return list(archived(store.objects, LINE))


def audited(flowgauge: Shell, plant: Path, *options: object) -> Done:
    return flowgauge("audit", LINE, "--store", plant, "--device", "cpu", *options)


def rescored(objects: Objects, victim: Verdict, by: float) -> None:
    """The archive, with another score of one verdict."""
    for name in objects.names("verdicts/"):
        rows = pq.read_table(BytesIO(objects.get(name)), partitioning=None).to_pylist()
        for row in rows:
            row["score"] += by * (row["verdict_id"] == str(victim.verdict_id))
        buffer = BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer)
        objects.put(name, buffer.getvalue())


def fault(outcome: Done) -> dict[str, Any]:
    """The one finding that is a fault."""
    assert (outcome.code, outcome.json["outcomes"]["reproduced"]) == (5, IMAGES - 1)
    [found] = [each for each in outcome.json["findings"] if each["outcome"] != "reproduced"]
    return dict(found)


def test_verdicts_reproduce(flowgauge: Shell, plant: Path) -> None:
    done = audited(flowgauge, plant, "--json")
    assert done.code == 0, done.out
    assert (done.json["verdicts"], done.json["outcomes"]) == (IMAGES, {"reproduced": IMAGES})
    assert len({each["gauge_version"] for each in done.json["findings"]}) == 2
    assert max(abs(each["difference"]) for each in done.json["findings"]) <= done.json["tolerance"] == 1e-5
    table = audited(flowgauge, plant)
    assert table.code == 0
    assert table.out.split() == ["outcome", "verdicts", "reproduced", str(IMAGES)]


def test_a_seed_draws_the_same_sample_from_files_and_from_copies(flowgauge: Shell, plant: Path) -> None:
    def drawn(seed: int) -> list[str]:
        done = audited(flowgauge, plant, "--sample", 4, "--seed", seed, "--json")
        return [each["image_id"] for each in done.json["findings"]]

    first = drawn(1)
    assert len(set(first)) == 4
    assert drawn(1) == first
    assert len({tuple(drawn(seed)) for seed in range(5)}) > 1


def test_a_changed_image_is_named(flowgauge: Shell, plant: Path) -> None:
    victim = verdicts(plant)[3]
    name = (victim.image_uri or "").removeprefix("store:///")
    (plant / "objects" / name).write_bytes(b"another image")
    found = fault(audited(flowgauge, plant, "--json"))
    assert (found["outcome"], found["image_id"]) == ("image changed", victim.image_id)
    assert name in found["detail"]
    assert name in audited(flowgauge, plant).out


def test_what_retention_deleted_differs_from_what_somebody_deleted(plant: Path) -> None:
    later = SetClock(datetime.now(UTC) + timedelta(days=10))
    passes = {each.image_id for each in verdicts(plant) if each.decision is Decision.PASS}
    flagged = [each for each in verdicts(plant) if each.decision is not Decision.PASS]
    assert passes

    def outcomes() -> dict[str, Outcome]:
        with open_store(str(plant), later) as store:
            found = audit(store, LINE, IMAGES, 0, expired(store, LINE, None), lambda what, done, total: None)
        return {each.verdict.image_id: each.outcome for each in found}

    with open_store(str(plant), later) as store:
        set_line(store.objects, LINE, pass_retention_days=3)
        store.state.buffer_remove(LINE, [each.image_uri for each in store.state.buffer(LINE)])
        PassRetention(store).tidy()
    reproduced = {each.image_id: Outcome.REPRODUCED for each in flagged}
    assert outcomes() == reproduced | dict.fromkeys(passes, Outcome.EXPIRED)
    assert Outcome.EXPIRED.faultless, "retention did what it was asked to"

    victim = flagged[0]
    (plant / "objects" / (victim.image_uri or "").removeprefix("store:///")).unlink()
    assert outcomes()[victim.image_id] is Outcome.IMAGE_GONE
    with open_store(str(plant), later) as store:
        set_line(store.objects, LINE, pass_retention_days=30)
    assert set(outcomes().values()) == {Outcome.REPRODUCED, Outcome.IMAGE_GONE}, "too young to be retention's"


@pytest.mark.parametrize(
    ("file", "change", "outcome"),
    [
        ("weights.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "snapshot tampered"),
        ("manifest.json", lambda data: data + b" ", "snapshot tampered"),
        ("manifest.json", lambda data: b"{}", "snapshot tampered"),
        ("weights.safetensors", None, "snapshot missing"),
        ("manifest.json", None, "snapshot missing"),
    ],
)
def test_a_snapshot_that_is_not_what_it_was_is_named(
    flowgauge: Shell, plant: Path, file: str, change: Any, outcome: str
) -> None:
    version = verdicts(plant)[0].gauge_version or ""
    name = f"{snapshot_prefix(LINE, version)}/{file}"
    path = plant / "objects" / name
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    done = audited(flowgauge, plant, "--json")
    of_it = sum(each.gauge_version == version for each in verdicts(plant))
    assert (done.code, done.json["outcomes"]) == (5, {"reproduced": IMAGES - of_it, outcome: of_it})
    assert {name in each["detail"] for each in done.json["findings"] if each["outcome"] == outcome} == {True}


def test_a_canary_s_snapshot_is_checked_though_it_never_was_active(
    flowgauge: Shell, plant: Path, tmp_path: Path
) -> None:
    with open_store(str(plant)) as store:
        made = stored_threshold(store, LINE, "a test", false_alarms=0.1)
        active = active_snapshot(store.log, LINE)
        rules = TrialRules(canary_share=1, canary_images=1000)
        begun_now = begun(store, active, made.version, made.files.sha256, "a test", Expected.SAME, rules)
        assert begun_now.trial is not None
        store.log.append([as_record(as_canary(store, begun_now, begun_now.trial))])
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(next(iter(sorted(tiny_dataset().glob("test/good/*")))), folder / "canary.png")
    assert flowgauge("run", folder, "--line", LINE, "--store", plant, "--once", "--device", "cpu").code == 0
    assert [each.gauge_version for each in verdicts(plant)].count(made.version) == 1
    assert audited(flowgauge, plant, "--json").json["outcomes"] == {"reproduced": IMAGES + 1}
    path = plant / "objects" / snapshot_prefix(LINE, made.version) / "manifest.json"
    path.write_bytes(path.read_bytes() + b" ")
    outcomes = audited(flowgauge, plant, "--json").json["outcomes"]
    assert outcomes == {"reproduced": IMAGES, "snapshot tampered": 1}


def test_a_threshold_that_was_changed_where_no_announcement_tells_is_named(flowgauge: Shell, plant: Path) -> None:
    version = verdicts(plant)[0].gauge_version or ""
    path = plant / "objects" / snapshot_prefix(LINE, version) / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["threshold"]["value"] += 1
    path.write_text(json.dumps(manifest))
    # as in a compacted topic, which keeps each line's last announcement alone
    with sqlite3.connect(plant / "log.db") as log:
        log.execute("DELETE FROM records WHERE topic = 'snapshots'")
    done = audited(flowgauge, plant, "--json")
    assert done.code == 5
    assert "decision differs" in done.json["outcomes"]


@pytest.mark.parametrize(("share", "outcome"), [(0.1, "another engine"), (5.0, "score differs")])
def test_another_score_is_reported_with_how_far_off_it_is(
    flowgauge: Shell, plant: Path, share: float, outcome: str
) -> None:
    victim = verdicts(plant)[2]
    with open_store(str(plant)) as store:
        manifest = json.loads(store.objects.get(f"{snapshot_prefix(LINE, victim.gauge_version or '')}/manifest.json"))
        limit = 0.02 * abs(manifest["threshold"]["value"] - manifest["calibration"]["median"])
        rescored(store.objects, victim, share * limit)
    found = fault(audited(flowgauge, plant, "--json"))
    assert (found["outcome"], found["image_id"]) == (outcome, victim.image_id)
    assert found["difference"] == pytest.approx(-share * limit, abs=1e-5)


def test_a_line_without_verdicts_is_a_mistake(flowgauge: Shell, plant: Path) -> None:
    done = flowgauge("audit", "other", "--store", plant)
    assert done.code == 2
    assert "no scored verdicts of line other" in done.err
