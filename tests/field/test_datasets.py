"""Data sets as plants keep them: other names of folders and masks, folders of days, marks of Windows."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowgauge.domain.errors import DatasetError
from flowgauge.evaluation.datasets import Dataset, read
from flowgauge.evaluation.folder_names import is_defective, is_good
from flowgauge.evaluation.splits import read_groups, read_splits, trial
from tests.field.test_images import QUICK
from tests.support.folders import SIDE, write_image, write_mask, write_mvtec, write_plain
from tests.support.shell import Shell

GOOD = ["good", "Good", "OK", "ok", "O.K.", "okay", "normal", "Normal", "io", "i.O.", "IO-Teile", "pass", "ok_front"]
GOOD += ["no_defect", "defect-free", "OK 2", "nominal"]
DEFECTIVE = [
    "NG",
    "ng",
    "N.G.",
    "ko",
    "NOK",
    "n.i.O.",
    "nio",
    "bad",
    "Not OK",
    "defect",
    "NG_3",
    "anomaly",
    "def_front",
]


@pytest.mark.parametrize("name", GOOD)
def test_good_is_good_whatever_the_plant_calls_it(tmp_path: Path, name: str) -> None:
    write_plain(tmp_path / "train" / name, 3)
    write_plain(tmp_path / "test" / name, 2)
    write_plain(tmp_path / "test" / "scratch", 2)
    write_mask(tmp_path / "ground_truth" / "scratch" / "000.png")
    write_mask(tmp_path / "ground_truth" / "scratch" / "001.png")
    dataset = Dataset.open(tmp_path)
    assert len(dataset.train) == 3
    assert sorted(entry.kind for entry in dataset.test) == ["good", "good", "scratch", "scratch"]
    said = [note for note in dataset.notes if f"{name} is taken for good images" in note]
    assert len(said) == (0 if name == "good" else 2), "aloud, of both folders, unless it is called as in MVTec AD"


@pytest.mark.parametrize("name", DEFECTIVE)
def test_defective_is_defective_in_every_layout(tmp_path: Path, name: str) -> None:
    assert is_defective(name)
    write_plain(tmp_path / "set" / "train" / "good", 1)
    write_plain(tmp_path / "set" / "test" / name, 1)
    assert [entry.kind for entry in Dataset.open(tmp_path / "set").test] == [name]
    write_plain(tmp_path / "plain" / "OK", 3)
    write_plain(tmp_path / "plain" / name, 2)
    plain = Dataset.open(tmp_path / "plain")
    assert len(plain.train) == 3, "and never teaches"
    assert plain.notes == (f".: 2 in {name} passed over.",)


def test_a_pipe_by_the_name_of_an_image_is_passed_over_and_said(tmp_path: Path) -> None:
    write_plain(tmp_path, 3)
    os.mkfifo(tmp_path / "pipe.png")
    dataset = Dataset.open(tmp_path)
    assert len(dataset.train) == 3
    assert dataset.notes == (".: 1 pipes, devices or broken links passed over.",)


@pytest.mark.parametrize("name", ["scratch", "goodyear", "okra", "broken-ok-seal", "abnormal", "unknown", "2025-11-24"])
def test_other_names_are_not_good(name: str) -> None:
    assert not is_good(name)


@pytest.mark.parametrize("folder", ["ground_truth", "Ground Truth", "GT", "masks", "Mask", "labels"])
@pytest.mark.parametrize(
    "name",
    ["000.png", "000.BMP", "000_mask.tif", "000-GT.png", "000_label.png", "mask_000.png", "000_ground_truth.bmp"],
)
def test_masks_are_found_by_their_images_name(tmp_path: Path, folder: str, name: str) -> None:
    write_mvtec(tmp_path, train=1, test_good=1, defects={})
    write_image(tmp_path / "test" / "scratch" / "000.png", 1)
    write_mask(tmp_path / folder / "scratch" / name)
    dataset = Dataset.open(tmp_path)
    (defect,) = [entry for entry in dataset.test if entry.defective]
    mask = read(defect).mask
    assert mask is not None
    assert mask.sum() == (SIDE // 4) ** 2
    assert (f"{folder} is taken for the masks of defects." in dataset.notes) == (folder != "ground_truth")


@pytest.mark.parametrize("subfolder", ["", "scratch", "test/scratch", "Scratch", "scratch/monday"])
def test_masks_lie_as_the_images_do_or_all_together(tmp_path: Path, subfolder: str) -> None:
    write_plain(tmp_path / "train" / "good", 1)
    write_image(tmp_path / "test" / "scratch" / "monday" / "a.png", 1)
    write_mask(tmp_path / "ground_truth" / subfolder / "a.png")
    (defect,) = Dataset.open(tmp_path).test
    assert (defect.kind, defect.mask) == ("scratch", tmp_path / "ground_truth" / subfolder / "a.png")


def test_one_mask_is_not_given_to_two_defects(tmp_path: Path) -> None:
    write_plain(tmp_path / "train" / "good", 1)
    for kind in ("scratch", "dent"):
        write_image(tmp_path / "test" / kind / "000.png", 1)
    write_mask(tmp_path / "ground_truth" / "000.png")
    with pytest.raises(DatasetError, match=r"has no mask ground_truth/dent/000_mask.png.*or as 000.png"):
        Dataset.open(tmp_path)


def test_of_an_image_and_its_mask_side_by_side_the_mask_is_taken(tmp_path: Path) -> None:
    write_mvtec(tmp_path, train=1, test_good=0, defects={"crack": 1})
    write_image(tmp_path / "ground_truth/crack/000.png", 5)
    assert Dataset.open(tmp_path).test[0].mask == tmp_path / "ground_truth/crack/000_mask.png"


@pytest.mark.parametrize(
    ("values", "defective"),
    [
        ((0, 90, 127, 128, 255), (False, False, False, True, True)),
        ((0, 0, 60, 120, 200), (False, False, False, True, True)),
        ((0, 1, 2, 3, 4), (False, True, True, True, True)),
        ((0, 0, 0, 0, 1), (False, False, False, False, True)),
    ],
)
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_gray_rims_are_no_defect_and_class_numbers_are(
    tmp_path: Path, values: tuple[int, ...], defective: tuple[bool, ...], depth: type
) -> None:
    write_mvtec(tmp_path, train=1, test_good=0, defects={"crack": 1})
    columns: NDArray[Any] = np.array([*values, *[0] * (SIDE - len(values))]).astype(depth)
    (tmp_path / "ground_truth/crack/000_mask.png").unlink()
    Image.fromarray(np.repeat(columns[None], SIDE, axis=0)).save(tmp_path / "ground_truth/crack/000_mask.png")
    mask = read(Dataset.open(tmp_path).test[0]).mask
    assert mask is not None
    assert tuple(mask[0, : len(values)].tolist()) == defective


def test_masks_that_cut_objects_out_have_other_extensions_too(tmp_path: Path) -> None:
    root = write_plain(tmp_path / "data", 2)
    write_mask(tmp_path / "masks" / "000.bmp")
    write_mask(tmp_path / "masks" / "001_mask.tif")
    assert [entry.outline for entry in Dataset.open(root, tmp_path / "masks").train] == [
        tmp_path / "masks" / "000.bmp",
        tmp_path / "masks" / "001_mask.tif",
    ]


def test_folders_of_days_and_linked_folders_belong_to_the_folder_above(tmp_path: Path) -> None:
    for subfolder in ("good", "good/2025-11-24", "good/2025-11-25/night", "elsewhere"):
        write_plain(tmp_path / subfolder, 2)
    (tmp_path / "good" / "camera-1").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "good" / "round").symlink_to(tmp_path / "good", target_is_directory=True)
    write_image(tmp_path / "good" / ".trash" / "000.png", 0)
    names = [entry.name for entry in Dataset.open(tmp_path / "good").train]
    assert len(names) == len(set(names)) == 8
    assert "2025-11-25/night/001.png" in names
    assert "camera-1/000.png" in names


def test_what_is_passed_over_is_said(flowgauge: Shell, tmp_path: Path) -> None:
    write_plain(tmp_path / "set" / "train" / "OK", 12)
    write_plain(tmp_path / "set" / "train" / "maybe", 2)
    write_plain(tmp_path / "set" / "test", 1)
    write_plain(tmp_path / "set" / "test" / "NG", 1)
    (tmp_path / "set" / "train" / "OK" / "x.webp").write_bytes(b"RIFF")
    (tmp_path / "set" / "train" / "OK" / "notes.txt").write_text("")
    done = flowgauge("fit", tmp_path / "set", "--line", "a", "--store", tmp_path / "plant", *QUICK)
    assert done.code == 0, done.err
    for note in (
        "train: OK is taken for good images.",
        "train/OK: 1 .webp passed over.",
        "train/maybe: not called good, and passed over",
        "test: 1 images lie in no folder of a class",
    ):
        assert note in done.err
    assert "notes" not in done.err


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plain(tmp_path / "day", 1)
    listed = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "day":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DatasetError, match=r"day cannot be listed: Permission denied"):
        Dataset.open(tmp_path)


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_read_as_windows_writes_it(tmp_path: Path, encoding: str) -> None:
    dataset = Dataset.open(write_mvtec(tmp_path / "set", train=2, test_good=1, defects={"crack": 1}))
    groups = {r"train\good\000.png": "a", r".\train\good\001.png": "b"}
    path = tmp_path / "groups.json"
    path.write_bytes(json.dumps(groups).encode(encoding))
    assert {entry.name: read_groups(path)[entry.name] for entry in dataset.train} == {
        "train/good/000.png": "a",
        "train/good/001.png": "b",
    }
    split = {"seed": 0, "train": [r"train\good\000.png"], "test_good": [r"test\good\000.png"]}
    split["test_defect"] = [r"test\crack\000.png"]
    path.write_bytes(json.dumps({"splits": [split]}).encode(encoding))
    found = trial(dataset, read_splits(path).choose(0))
    assert [entry.name for entry in found.test] == ["test/good/000.png", "test/crack/000.png"]


def test_one_image_under_two_spellings_is_still_on_both_sides(tmp_path: Path) -> None:
    dataset = Dataset.open(write_mvtec(tmp_path / "set", train=2, test_good=1, defects={"crack": 1}))
    split = {"seed": 0, "train": ["test/good/000.png"], "test_good": [r"test\good\000.png"], "test_defect": []}
    (tmp_path / "splits.json").write_text(json.dumps({"splits": [split]}))
    with pytest.raises(DatasetError, match="trains and tests on 1 images alike"):
        trial(dataset, read_splits(tmp_path / "splits.json").choose(0))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_toml_is_read_as_windows_writes_it(flowgauge: Shell, tmp_path: Path, encoding: str) -> None:
    config = tmp_path / "plant.toml"
    config.write_bytes(f'store = "{tmp_path.as_posix()}/plant"\n'.encode(encoding))
    done = flowgauge("--config", config, "lines", "set", "a", "policy=off")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("kind", "said", "absent"),
    [
        ("good", "The test holds no defects: image_auroc, pixel_auroc, aupro and miss_share", "miss_share"),
        ("scratch", "The test holds no good images: image_auroc, its interval and false_alarm", "false_alarm_share"),
    ],
)
def test_a_one_sided_test_says_before_the_fit_what_cannot_be_had(
    flowgauge: Shell, tmp_path: Path, kind: str, said: str, absent: str
) -> None:
    write_plain(tmp_path / "set" / "train" / "good", 12)
    write_plain(tmp_path / "set" / "test" / kind, 4)
    done = flowgauge("evaluate", tmp_path / "set", "--json", "-", *QUICK)
    assert done.code == 0, done.err
    assert said in done.err
    assert (done.json["image_auroc"], done.json[absent]) == (None, None)
    write_plain(tmp_path / "few" / "train" / "good", 2)
    write_plain(tmp_path / "few" / "test" / kind, 4)
    early = flowgauge("evaluate", tmp_path / "few", *QUICK)
    assert early.code == 2
    assert early.err.index(said) < early.err.index("at least 8"), "before the work"


def test_an_estimate_without_defects_is_refused_before_anything_is_read(flowgauge: Shell, tmp_path: Path) -> None:
    write_plain(tmp_path / "set" / "train" / "good", 12)
    write_plain(tmp_path / "set" / "test" / "OK", 4)
    for path in (tmp_path / "set" / "test" / "OK").iterdir():
        path.write_bytes(b"")
    done = flowgauge("estimate", tmp_path / "set", "--size", "64", "--device", "cpu")
    assert done.code == 2
    assert "0 defective images of 0 parts are too few" in done.err
    assert "test: OK is taken for good images." in done.err
