from pathlib import Path

import pytest

from flowgauge.domain.errors import DatasetError, UnreadableImage
from flowgauge.evaluation.datasets import Dataset, Sample, Unreadable, evenly, read, require_enough, sift
from flowgauge.training.fit import MINIMUM_IMAGES
from tests.support.folders import SIDE, write_image, write_mask, write_mvtec, write_plain


def test_the_mvtec_layout_is_read(tmp_path: Path) -> None:
    dataset = Dataset.open(write_mvtec(tmp_path, train=3, test_good=2, defects={"crack": 2, "scratch": 1}))
    assert [entry.name for entry in dataset.train] == ["train/good/000.png", "train/good/001.png", "train/good/002.png"]
    assert [entry.kind for entry in dataset.test] == ["crack", "crack", "good", "good", "scratch"]
    assert dataset.entry("test/crack/001.png").mask == tmp_path / "ground_truth/crack/001_mask.png"
    assert dataset.entry("test/good/000.png").mask is None


def test_a_plain_folder_holds_good_images(tmp_path: Path) -> None:
    dataset = Dataset.open(write_plain(tmp_path, 4))
    assert (len(dataset.train), dataset.test) == (4, ())
    assert not any(entry.defective for entry in dataset.train)


def test_hidden_files_and_other_files_are_no_images(tmp_path: Path) -> None:
    write_plain(tmp_path, 1)
    write_image(tmp_path / ".hidden.png", 0)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    assert [entry.name for entry in Dataset.open(tmp_path).train] == ["000.png"]


def test_suffixes_are_read_in_either_case(tmp_path: Path) -> None:
    write_image(tmp_path / "A.JPG", 0)
    assert len(Dataset.open(tmp_path).train) == 1


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no folder .*nowhere"):
        Dataset.open(tmp_path / "nowhere")


@pytest.mark.parametrize("layout", ["", "train/good", "train/other"])
def test_a_data_set_without_good_images_says_which_layouts_there_are(tmp_path: Path, layout: str) -> None:
    (tmp_path / layout).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DatasetError, match=r"holds no good images.*MVTec AD"):
        Dataset.open(tmp_path)


def test_one_image_is_too_few_and_the_minimum_is_named() -> None:
    with pytest.raises(DatasetError, match=rf"only one image .* at least {MINIMUM_IMAGES}\."):
        require_enough(1, "The folder")
    require_enough(MINIMUM_IMAGES, "The folder")


def test_a_missing_mask_is_named_with_its_image(tmp_path: Path) -> None:
    write_mvtec(tmp_path, train=1, test_good=0, defects={"crack": 1})
    write_image(tmp_path / "test/crack/lonely.png", 5)
    with pytest.raises(DatasetError, match=r"crack/lonely.png has no mask ground_truth/crack/lonely_mask.png"):
        Dataset.open(tmp_path)


def test_without_background_truth_defects_have_no_patch(tmp_path: Path) -> None:
    write_plain(tmp_path / "train/good", 1)
    write_image(tmp_path / "test/crack/000.png", 5)
    (defect,) = Dataset.open(tmp_path).test
    assert read(defect).mask is None


def test_a_mask_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    write_mvtec(tmp_path, train=1, test_good=0, defects={"crack": 1})
    write_mask(tmp_path / "ground_truth/crack/000_mask.png", (SIDE * 2, SIDE + 8))
    with pytest.raises(DatasetError, match=r"crack/000_mask.png has 64 x 40 .* test/crack/000.png has 32 x 32"):
        read(Dataset.open(tmp_path).test[0])


def test_an_unreadable_mask_is_a_fault_of_the_data_set(tmp_path: Path) -> None:
    write_mvtec(tmp_path, train=1, test_good=0, defects={"crack": 1})
    (tmp_path / "ground_truth/crack/000_mask.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"000_mask.png cannot be read: The image is empty"):
        read(Dataset.open(tmp_path).test[0])


def test_a_mask_is_true_on_the_defect_and_false_on_good_images(tmp_path: Path) -> None:
    dataset = Dataset.open(write_mvtec(tmp_path, train=1, test_good=1, defects={"crack": 1}))
    defect, good = (read(entry).mask for entry in dataset.test)
    assert defect is not None
    assert good is not None
    assert defect.sum() == (SIDE // 4) ** 2
    assert defect[SIDE // 4, SIDE // 4]
    assert good.shape == (SIDE, SIDE)
    assert not good.any()


def test_an_unreadable_image_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    write_plain(tmp_path, 3)
    (tmp_path / "001.png").write_text("text")
    entries = Dataset.open(tmp_path).train
    with pytest.raises(UnreadableImage):
        read(entries[1])
    first, second, third = sift(entries)
    assert isinstance(second, Unreadable)
    assert second.name == "001.png"
    assert "no image in a known format" in second.cause
    assert isinstance(first, Sample)
    assert isinstance(third, Sample)
    assert (first.entry.name, third.entry.name) == ("000.png", "002.png")


def test_a_limit_takes_images_from_the_whole_range(tmp_path: Path) -> None:
    entries = Dataset.open(write_plain(tmp_path, 10)).train
    assert [entry.name for entry in evenly(entries, 3)] == ["000.png", "003.png", "006.png"]
    assert evenly(entries, 99) == evenly(entries, None) == entries


def test_masks_of_another_folder_cut_the_objects_out(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "data", train=1, test_good=0, defects={"crack": 1})
    for name in ("train/good/000.png", "test/crack/000.png"):
        write_mask(tmp_path / "masks" / name)
    dataset = Dataset.open(root, tmp_path / "masks")
    sample = read(dataset.test[0])
    assert sample.mask is not None, "the defect's own mask is another"
    outline = sample.picture.outline
    assert int(outline.sum()) == (SIDE // 4) ** 2
    assert sample.picture.pixels[outline].min() >= 60
    assert not sample.picture.pixels[~outline].any()


def test_an_image_without_a_mask_in_that_folder_is_named(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "data", train=2, test_good=0, defects={})
    write_mask(tmp_path / "masks/train/good/000.png")
    with pytest.raises(DatasetError, match=r"train/good/001.png has no mask .*masks/train/good/001.png"):
        Dataset.open(root, tmp_path / "masks")


def test_a_mask_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    root = write_plain(tmp_path / "data", 1)
    write_mask(tmp_path / "masks/000.png", white=False)
    with pytest.raises(DatasetError, match=r"000.png is all black"):
        read(Dataset.open(root, tmp_path / "masks").train[0])


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    root = write_plain(tmp_path / "data", 1)
    write_mask(tmp_path / "masks/000.png", (SIDE, SIDE + 1))
    with pytest.raises(DatasetError, match=r"32 x 33 pixels, but its image 000.png has 32 x 32"):
        read(Dataset.open(root, tmp_path / "masks").train[0])
