"""What no camera should send and no person should ask for, through the command line and the runner."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.messages import IMAGES
from flowgauge.domain.ports import Outgoing
from flowgauge.registry.snapshots import SnapshotFiles, active_snapshot, fetch_snapshot, publish_snapshot
from tests.support.files import Pixels, broken_files, equal_files
from tests.support.folders import write_image, write_mask, write_mvtec, write_plain
from tests.support.plants import LINE, QUICK_FIT, fitted_store, tiny_dataset
from tests.support.shell import Shell


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return fitted_store(tmp_path / "store")


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """A folder with three images of the line's good parts."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    for path in sorted((tiny_dataset() / "test" / "good").iterdir())[:3]:
        shutil.copy(path, folder)
    return folder


def pixels_of(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


def named(image_id: object) -> str:
    """The file's name, without what makes the ids of two files of one name differ."""
    return str(image_id).partition("@")[0]


def with_broken(folder: Path) -> dict[str, str]:
    """Put every broken file among the good ones; name -> what its reason says."""
    broken = broken_files(pixels_of(next(folder.glob("0*.png"))))
    for name, (data, _) in broken.items():
        (folder / name).write_bytes(data)
    return {name: reason for name, (_, reason) in broken.items()}


def run_once(flowgauge: Shell, folder: Path, store: Path) -> list[dict[str, object]]:
    """Work the folder off; all verdicts and alerts that came of it."""
    wait = ("--wait", "0")  # nobody completes these files
    done = flowgauge("run", folder, "--line", LINE, "--store", store, "--once", "--json", "--device", "cpu", *wait)
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_broken_files_are_named_and_the_others_are_scored(flowgauge: Shell, store: Path, incoming: Path) -> None:
    good = sorted(incoming.iterdir())
    alone = flowgauge("score", LINE, *good, "--store", store, "--json").json["images"]
    reasons = with_broken(incoming)
    done = flowgauge("score", LINE, *sorted(incoming.iterdir()), "--store", store, "--json")
    assert done.code == 2
    results = {Path(each["image"]).name: each for each in done.json["images"]}
    for name, reason in reasons.items():
        assert reason in results[name]["error"]
    assert [results[path.name] for path in good] == alone


def test_a_file_that_is_missing_is_named_and_the_others_are_scored(
    flowgauge: Shell, store: Path, incoming: Path
) -> None:
    done = flowgauge("score", LINE, incoming / "nowhere.png", *sorted(incoming.iterdir()), "--store", store, "--json")
    assert done.code == 2
    first, *others = done.json["images"]
    assert "No such file" in first["error"]
    assert len(others) == 3
    assert all("score" in each for each in others)


def test_a_pipe_and_a_device_are_named_and_the_others_are_scored(
    flowgauge: Shell, store: Path, incoming: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    done = flowgauge("score", LINE, pipe, "/dev/zero", *sorted(incoming.iterdir()), "--store", store, "--json")
    assert done.code == 2
    first, second, *others = done.json["images"]
    assert first["error"].startswith(f"{pipe} is a folder, pipe or device")
    assert second["error"].startswith("/dev/zero is a folder, pipe or device")
    assert all("score" in each for each in others)


def test_broken_files_become_dead_letter_and_the_others_get_verdicts(
    flowgauge: Shell, store: Path, incoming: Path
) -> None:
    good = {path.name for path in incoming.iterdir()}
    reasons = with_broken(incoming)
    messages = run_once(flowgauge, incoming, store)
    assert {named(message["image_id"]) for message in messages if message["topic"] == "verdicts"} == good
    dead_letters = flowgauge("dead-letters", "list", "--line", LINE, "--store", store, "--json").json
    assert {named(letter["image_id"]) for letter in dead_letters} == reasons.keys()
    for letter in dead_letters:
        assert reasons[named(letter["image_id"])] in letter["reason"]


def test_working_the_folder_off_again_changes_nothing(flowgauge: Shell, store: Path, incoming: Path) -> None:
    reasons = with_broken(incoming)
    run_once(flowgauge, incoming, store)
    again = run_once(flowgauge, incoming, store)
    assert [message for message in again if message["topic"] == "verdicts"] == []
    assert len(flowgauge("dead-letters", "list", "--store", store, "--json").json) == len(reasons)


def test_an_id_cannot_climb_out_of_its_folder(flowgauge: Shell, store: Path, tmp_path: Path) -> None:
    data = next((tiny_dataset() / "test" / "scratch").iterdir()).read_bytes()
    with open_store(str(store)) as plant:
        headers = {"ce_id": "../../../../escaped.png", "ce_source": f"/lines/{LINE}"}
        plant.log.append([Outgoing(IMAGES, LINE, data, headers)])
    before = {path for path in tmp_path.rglob("*") if store not in path.parents}
    empty = tmp_path / "empty"
    empty.mkdir()
    (verdict,) = (message for message in run_once(flowgauge, empty, store) if message["topic"] == "verdicts")
    assert verdict["image_id"] == "../../../../escaped.png"
    assert {path for path in tmp_path.rglob("*") if store not in path.parents} == before | {empty}
    with open_store(str(store)) as plant:
        uri = verdict["image_uri"]
        assert isinstance(uri, str)
        assert plant.objects.get(plant.objects.name(uri)) == data


def test_ordinary_forms_of_one_image_get_one_score(flowgauge: Shell, store: Path, tmp_path: Path) -> None:
    gray = pixels_of(next((tiny_dataset() / "test" / "good").iterdir()))[:, :, 0]
    for name, data in equal_files(gray).items():
        (tmp_path / name).write_bytes(data)
    files = [tmp_path / name for name in equal_files(gray)]
    done = flowgauge("score", LINE, *files, "--store", store, "--json")
    assert done.code == 0
    assert len({each["score"] for each in done.json["images"]}) == 1


def test_a_cmyk_jpeg_and_a_translucent_png_are_scored(flowgauge: Shell, store: Path, tmp_path: Path) -> None:
    image = Image.open(next((tiny_dataset() / "test" / "good").iterdir())).convert("RGB")
    image.convert("CMYK").save(tmp_path / "ink.jpg")
    image.putalpha(128)
    image.save(tmp_path / "glass.png")
    assert flowgauge("score", LINE, tmp_path / "ink.jpg", tmp_path / "glass.png", "--store", store).code == 0


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["weights.safetensors", "manifest.json"])
def test_a_snapshot_with_one_flipped_byte_is_never_loaded(
    file: str, flowgauge: Shell, store: Path, incoming: Path
) -> None:
    (path,) = store.rglob(file)
    flip_a_byte(path)
    done = flowgauge("score", LINE, *incoming.iterdir(), "--store", store)
    assert (done.code, done.out) == (4, "")
    assert "Traceback" not in done.err
    messages = run_once(flowgauge, incoming, store)
    assert [m["decision"] for m in messages if m["topic"] == "verdicts"] == ["review"] * 3
    assert "snapshot_invalid" in {m["kind"] for m in messages if m["topic"] == "alerts"}


def test_a_manifest_from_a_newer_schema_is_refused_and_the_gauge_before_it_stays(
    flowgauge: Shell, store: Path, incoming: Path
) -> None:
    with open_store(str(store)) as plant:
        fitted = active_snapshot(plant.log, LINE).version
        files = fetch_snapshot(plant.objects, LINE, fitted)
        newer = json.dumps(json.loads(files.manifest) | {"schema_version": 99, "version": "newer"}).encode()
        publish_snapshot(plant, LINE, "newer", SnapshotFiles(newer, files.weights), fitted)
    done = flowgauge("score", LINE, *incoming.iterdir(), "--store", store)
    assert done.code == 4
    assert "schema 99" in done.err
    assert "Upgrade Flowgauge" in done.err
    messages = run_once(flowgauge, incoming, store)
    assert {m["gauge_version"] for m in messages if m["topic"] == "verdicts"} == {fitted}
    assert "snapshot_invalid" in {m["kind"] for m in messages if m["topic"] == "alerts"}


def test_a_broken_snapshot_cannot_be_rolled_back_to(flowgauge: Shell, store: Path) -> None:
    (path,) = store.rglob("weights.safetensors")
    version = path.parent.name
    flip_a_byte(path)
    before = flowgauge("snapshots", "list", "--store", store, "--json").json
    assert flowgauge("snapshots", "rollback", LINE, version, "--store", store).code == 4
    assert flowgauge("snapshots", "list", "--store", store, "--json").json == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Sixty-four megabytes, of which a store takes half."""
    mount = tmp_path / "disk"
    mount.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"NOT TESTED: a full disk. Mounting a small tmpfs takes the rights of root ({error}).")
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that is left."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        while shutil.disk_usage(disk).free:
            file.write(bytes(4096))
            file.flush()
    return filler


def test_a_full_disk_is_reported_and_the_work_goes_on_once_there_is_room(
    flowgauge: Shell, small_disk: Path, incoming: Path
) -> None:
    store = fitted_store(small_disk / "store")
    filler = fill(small_disk)
    done = flowgauge("run", incoming, "--line", LINE, "--store", store, "--once", "--device", "cpu")
    assert done.code == 1
    assert "o space is left" in done.err
    assert "Traceback" not in done.err
    filler.unlink()
    verdicts = [message for message in run_once(flowgauge, incoming, store) if message["topic"] == "verdicts"]
    assert sorted(named(verdict["image_id"]) for verdict in verdicts) == sorted(
        path.name for path in incoming.iterdir()
    )


def test_a_gauge_that_finds_no_room_leaves_the_old_one(flowgauge: Shell, small_disk: Path) -> None:
    store = fitted_store(small_disk / "store")
    before = flowgauge("snapshots", "list", "--store", store, "--json").json
    filler = fill(small_disk)
    small = ("--size", 128, "--limit", 9, "--device", "cpu", *QUICK_FIT)
    done = flowgauge("fit", tiny_dataset(), "--line", LINE, "--store", store, *small)
    assert done.code == 1
    assert "o space is left" in done.err
    filler.unlink()
    assert flowgauge("snapshots", "list", "--store", store, "--json").json == before


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_a_data_set_without_good_images_is_refused(command: str, flowgauge: Shell, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "train" / "good").mkdir(parents=True)
    done = flowgauge(command, data, *({"fit": ["--line", "a", "--store", tmp_path / "store"]}.get(command, [])))
    assert done.code == 2
    assert "holds no good images" in done.err


def test_a_data_set_with_one_image_is_refused_and_the_minimum_is_named(flowgauge: Shell, tmp_path: Path) -> None:
    fitted = flowgauge("fit", write_plain(tmp_path / "one", 1), "--line", "a", "--store", tmp_path / "store")
    judged = flowgauge("evaluate", write_mvtec(tmp_path / "set", train=1, test_good=1, defects={"crack": 1}))
    for done in (fitted, judged):
        assert done.code == 2
        assert "only one image" in done.err
        assert "at least 8" in done.err


def test_a_mask_of_the_wrong_size_is_named_before_any_fit(flowgauge: Shell, tmp_path: Path) -> None:
    data = write_mvtec(tmp_path / "data", train=9, test_good=1, defects={"crack": 1})
    write_mask(data / "ground_truth" / "crack" / "000_mask.png", (48, 40))
    done = flowgauge("evaluate", data)
    assert done.code == 2
    assert "000_mask.png has 48 x 40 pixels, but its image test/crack/000.png has 32 x 32" in done.err


def test_unreadable_training_images_are_named_and_left_out(flowgauge: Shell, tmp_path: Path) -> None:
    folder = write_plain(tmp_path / "good", 8)
    write_image(folder / "a.png", 1)
    (folder / "a.png").write_bytes(b"")
    (folder / "007.png").write_bytes(b"words")
    done = flowgauge("fit", folder, "--line", "a", "--store", tmp_path / "store")
    assert done.code == 2
    assert "007.png is left out. This is no image" in done.err
    assert "a.png is left out. The image is empty" in done.err
    assert "offers 7 images to learn from; a gauge needs at least 8" in done.err
