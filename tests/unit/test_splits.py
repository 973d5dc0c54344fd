import json
import re
from pathlib import Path

import pytest

from flowgauge.cli.demo.scenario import recorded_script
from flowgauge.domain.errors import DatasetError, UserError
from flowgauge.evaluation.datasets import Dataset
from flowgauge.evaluation.splits import (
    CONTAMINATION,
    Split,
    contaminated_splits,
    groups_by_name,
    groups_of,
    own_trial,
    read_groups,
    read_splits,
    trial,
)
from tests.support.folders import write_mvtec, write_plain

OWN_IMAGES = Path(__file__).parents[2] / "docs" / "how-to" / "own-images.md"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.open(write_mvtec(tmp_path / "data", train=3, test_good=3, defects={"crack": 3}))


def split(**changes: object) -> Split:
    fields = {
        "seed": 0,
        "noise": 0.25,
        "train": ["train/good/000.png", "train/good/001.png", "test/good/002.png", "test/crack/002.png"],
        "mislabelled": ["test/crack/002.png"],
        "test_good": ["test/good/000.png"],
        "test_defect": ["test/crack/000.png"],
    }
    return Split.model_validate(fields | changes)


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "splits.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_splits_file_is_chosen_from_by_seed_and_noise(tmp_path: Path) -> None:
    levels = [split(seed=seed, noise=noise).model_dump() for seed in (0, 1) for noise in (0.1, 0.2)]
    splits = read_splits(write(tmp_path, {"protocol": "p", "splits": levels}))
    chosen = splits.choose(1, 0.2)
    assert (chosen.seed, chosen.noise) == (1, 0.2)
    assert splits.choose(0).noise == 0.1
    with pytest.raises(DatasetError, match=r"no seed 2 with noise 0.1.*seed 1 noise 0.2"):
        splits.choose(2)


@pytest.mark.parametrize("content", ["not json", "[]", '{"splits": []}', '{"splits": [{"seed": 0}]}'])
def test_a_file_that_holds_no_splits_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(DatasetError, match=r"splits.json is no file of splits"):
        read_splits(write(tmp_path, content))


def test_a_missing_splits_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere.json cannot be read"):
        read_splits(tmp_path / "nowhere.json")


def test_a_trial_knows_only_how_many_are_mislabelled(dataset: Dataset) -> None:
    made = trial(dataset, split())
    assert [entry.name for entry in made.train] == list(split().train)
    assert [entry.name for entry in made.test] == ["test/good/000.png", "test/crack/000.png"]
    assert made.mislabelled_share == 0.25
    assert not any("test/crack/002.png" in str(value) for name, value in vars(made).items() if name != "train")


def test_an_image_on_both_sides_is_refused(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"trains and tests on 1 images alike, train/good/000.png"):
        trial(dataset, split(test_good=["train/good/000.png"]))


@pytest.mark.parametrize("name", ["test/good/999.png", "../data/test/good/000.png", "/etc/hostname"])
def test_a_path_that_the_data_set_does_not_hold_is_refused(dataset: Dataset, name: str) -> None:
    with pytest.raises(DatasetError, match="has no image"):
        trial(dataset, split(test_good=[name]))


@pytest.mark.parametrize("swap", [{"test_good": ["test/crack/001.png"]}, {"test_defect": ["test/good/001.png"]}])
def test_labels_and_folders_must_agree(dataset: Dataset, swap: dict[str, list[str]]) -> None:
    with pytest.raises(DatasetError, match=r"disagree on whether test/(crack|good)/001.png is defective"):
        trial(dataset, split(**swap))


def test_the_folders_make_a_trial_of_their_own(dataset: Dataset, tmp_path: Path) -> None:
    own = own_trial(dataset, seed=4)
    assert (own.seed, own.noise, len(own.train), len(own.test)) == (4, None, 3, 6)
    with pytest.raises(DatasetError, match="no test images"):
        own_trial(Dataset.open(write_plain(tmp_path / "plain", 3)), seed=0)


def test_a_limit_holds_for_training_and_for_each_kind_of_test_image(dataset: Dataset) -> None:
    limited = own_trial(dataset, seed=0).limited(2)
    assert len(limited.train) == 2
    assert sorted(entry.kind for entry in limited.test) == ["crack", "crack", "good", "good"]


def test_every_image_needs_a_group(dataset: Dataset, tmp_path: Path) -> None:
    path = write(tmp_path, {"train/good/000.png": "part-1", "train/good/001.png": "part-2"})
    groups = read_groups(path)
    assert groups_of(dataset.train[:2], groups) == ["part-1", "part-2"]
    with pytest.raises(DatasetError, match=r"1 images have no group, train/good/002.png"):
        groups_of(dataset.train, groups)


def test_groups_that_are_no_mapping_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no file of groups"):
        read_groups(write(tmp_path, ["a"]))


def test_the_part_is_what_the_pattern_finds() -> None:
    names = ["test/crack/exp1_num_17.jpg", "train/good/exp6_num_17.jpg", "train/good/exp1_num_4.jpg"]
    assert list(groups_by_name(names, r"num_(\d+)").values()) == ["17", "17", "4"]
    assert list(groups_by_name(names, r"num_\d+").values()) == ["num_17", "num_17", "num_4"]
    assert list(groups_by_name(names, r"/(\w)\w+/exp\d_num_(\d+)").values()) == ["c|17", "g|17", "g|4"]


def test_a_pattern_that_is_none_or_finds_nothing_is_a_mistake() -> None:
    with pytest.raises(UserError, match="no regular expression"):
        groups_by_name(["a"], "(")
    with pytest.raises(DatasetError, match="finds nothing in 2 names, b among them"):
        groups_by_name(["a1", "b", "c"], r"\d")


def test_contaminated_splits_share_their_test_and_differ_in_the_defects_that_train(tmp_path: Path) -> None:
    dataset = Dataset.open(write_mvtec(tmp_path / "data", train=30, test_good=3, defects={"crack": 9, "stain": 12}))
    found = contaminated_splits(dataset, [0, 1])
    assert [(split.seed, split.noise) for split in found] == [
        (seed, share) for seed in (0, 1) for share in CONTAMINATION
    ]
    for split in found:
        assert trial(dataset, split).noise == split.noise, "no image on both sides, and every path is there"
        assert len(split.train) == 20, "twice the ten defects that may be among them"
        assert len(split.mislabelled) == round(20 * split.noise)
        assert set(split.mislabelled) == {name for name in split.train if not name.startswith("train/good/")}
        assert (split.test_good, split.test_defect) == (found[0].test_good, found[0].test_defect)
    assert {Path(name).parent.name for name in found[0].test_defect} == {"crack", "stain"}
    of_seed = {split.seed: set(split.mislabelled) for split in found if split.noise == 0.2}
    assert of_seed[0] != of_seed[1]
    assert contaminated_splits(dataset, [0]) == found[: len(CONTAMINATION)]


def test_few_good_images_all_train_where_there_is_no_contamination(tmp_path: Path) -> None:
    dataset = Dataset.open(write_mvtec(tmp_path / "data", train=12, test_good=3, defects={"crack": 16}))
    clean, *_, half = contaminated_splits(dataset, [0])
    assert sorted(clean.train) == sorted(entry.name for entry in dataset.train)
    assert len(half.train) == 12
    assert len(half.mislabelled) == 6


@pytest.mark.parametrize(("train", "test_good", "cracks"), [(12, 3, 9), (9, 3, 12), (12, 0, 12), (12, 3, 0)])
def test_contamination_needs_images_of_all_kinds(tmp_path: Path, train: int, test_good: int, cracks: int) -> None:
    root = write_mvtec(tmp_path / "data", train=train, test_good=test_good, defects={"crack": cracks} if cracks else {})
    with pytest.raises(DatasetError, match=rf"has {test_good} good test images and {cracks // 2} defects"):
        contaminated_splits(Dataset.open(root), [0])


def test_the_files_of_the_how_to_page_are_read(tmp_path: Path, dataset: Dataset) -> None:
    named = re.findall(r"`(\w+)\.json`.*?```json\n(.*?)```", OWN_IMAGES.read_text(encoding="utf-8"), re.DOTALL)
    example = dict(named)
    for name, text in example.items():
        (tmp_path / f"{name}.json").write_text(text)
    groups = read_groups(tmp_path / "groups.json")
    assert groups_of(dataset.train, groups) == ["part-1", "part-1", "part-2"]
    with pytest.raises(DatasetError, match=r"5 images have no group, test/crack/000\.png among them"):
        groups_of((*dataset.train, *dataset.test), groups)
    found = trial(dataset, read_splits(tmp_path / "splits.json").choose(0))
    assert (len(found.train), len(found.test), found.mislabelled_share) == (3, 2, 1 / 3)
    (run,) = json.loads(example["phases"])["runs"]
    (phase,) = run["phases"]
    for image in (*run["fit"], *phase["buffer"], *phase["test_good"], *phase["test_defect"]):
        (tmp_path / image).parent.mkdir(exist_ok=True)
        (tmp_path / image).touch()
    (act,) = recorded_script(tmp_path, tmp_path / "phases.json", 0).acts
    assert (act.phase.name, len(act.training), len(act.testing)) == ("winter light", 2, 2)
