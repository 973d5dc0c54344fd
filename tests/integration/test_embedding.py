"""Centre-embedding from the command line to verdicts: parts that lie anywhere, on any ground."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowgauge.domain.messages import Decision
from tests.support.plants import LINE
from tests.support.shell import Shell
from tests.support.strewn import CANVAS, scene, write_strewn

QUICK = ("--detector", "glass", "--set", "steps=20", "--size", 96, "--device", "cpu")


@pytest.fixture(scope="module")
def strewn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set, and its masks."""
    root = tmp_path_factory.mktemp("strewn")
    return write_strewn(root / "data", root / "masks", train=24, test_good=6, per_kind=2), root / "masks"


@pytest.fixture
def fitted(flowgauge: Shell, strewn: tuple[Path, Path], tmp_path: Path) -> Path:
    """A store whose line has an embedding gauge that was fitted with the segmenter's outlines."""
    store = tmp_path / "store"
    done = flowgauge("fit", strewn[0], "--line", LINE, "--store", store, "--aspect", "masked-crop", *QUICK)
    assert done.code == 0, done.err
    return store


def cut_out(path: Path, part: int, background: int) -> Path:
    """An image as a camera with a segmenter of its own would send it: what is not the part is transparent."""
    pixels, lies, _ = scene(part, "good", background)
    Image.fromarray(np.dstack([pixels, lies.astype(np.uint8) * 255])).save(path)
    return path


def test_a_gauge_keeps_its_window_and_scores_a_part_wherever_it_lies(
    flowgauge: Shell, fitted: Path, tmp_path: Path
) -> None:
    preprocessing = flowgauge("snapshots", "show", LINE, "--store", fitted, "--json").json["preprocessing"]
    assert preprocessing["aspect"] == "masked-crop"
    assert 90 <= preprocessing["window"] <= 110, "washers of some 80 pixels, and a tenth of them around"

    images = [cut_out(tmp_path / f"{background}.png", 3, background) for background in (50, 51)]
    first, second = flowgauge("score", LINE, *images, "--store", fitted, "--json").json["images"]
    assert first["score"] == second["score"]


def test_without_a_part_in_sight_a_person_should_look(flowgauge: Shell, fitted: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    Image.fromarray(np.full((CANVAS, CANVAS, 3), 40, np.uint8)).save(empty)
    (done,) = flowgauge("score", LINE, empty, "--store", fitted, "--json").json["images"]
    assert done["decision"] == Decision.REVIEW
    assert "no object stands out" in " ".join(done["reasons"])


def test_masks_of_a_folder_take_the_patch_of_the_segmenter(
    flowgauge: Shell, fitted: Path, strewn: tuple[Path, Path], tmp_path: Path
) -> None:
    data, masks = strewn
    with_masks = tmp_path / "with-masks"
    fit = ("fit", data, "--line", LINE, "--aspect", "masked-crop", "--masks", masks, *QUICK, "--store", with_masks)
    assert flowgauge(*fit).code == 0

    def scores(store: Path, *options: object) -> list[float]:
        images = sorted(data.glob("test/good/*.png"))
        found = flowgauge("score", LINE, *images, "--store", store, *options, "--json")
        assert found.code == 0, found.err
        return [each["score"] for each in found.json["images"]]

    plain, reported = scores(fitted), scores(with_masks, "--masks", masks / "test" / "good")
    assert plain == pytest.approx(reported, abs=0.15), "on a plain ground the segmenter sees what the masks tell"

    good = sorted(data.glob("test/good/*.png"))
    twice = ("score", LINE, good[0], good[0], "--store", with_masks, "--masks", masks / "test" / "good")
    assert "Several images have the mask" in flowgauge(*twice).err
    astray = flowgauge("score", LINE, good[0], "--store", with_masks, "--masks", masks)
    assert astray.code == 2
    assert f"{good[0].name} has no mask" in astray.err

    missing = flowgauge("fit", data, "--line", LINE, "--store", tmp_path / "s", "--masks", tmp_path, *QUICK)
    assert missing.code == 2
    assert "has no mask" in missing.err


def test_an_evaluation_takes_masks_and_tests_patches_in_the_whole_image(
    flowgauge: Shell, strewn: tuple[Path, Path], tmp_path: Path
) -> None:
    data, masks = strewn
    out = tmp_path / "found.json"
    done = flowgauge("evaluate", data, "--aspect", "masked-crop", "--masks", masks, *QUICK, "--json", out)
    assert done.code == 0, done.err
    figures = json.loads(out.read_text())
    assert figures["pixel_auroc"] > 0.94, "more than one would have who knew where the part lies, and nothing more"


@pytest.fixture
def splits(strewn: tuple[Path, Path], tmp_path: Path) -> Path:
    def under(folder: str) -> list[str]:
        return sorted(str(path.relative_to(strewn[0])) for path in strewn[0].glob(f"{folder}/*.png"))

    whole = {"seed": 0, "noise": 0.0, "train": under("train/good"), "mislabelled": []}
    judged = {"test_good": under("test/good"), "test_defect": under("test/[!g]*")}
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"splits": [whole | judged]}))
    return path


@pytest.mark.parametrize("command", ["contamination", "leave-one-class-out", "loss-amplification"])
def test_benchmarks_over_splits_take_masks(
    flowgauge: Shell, strewn: tuple[Path, Path], splits: Path, tmp_path: Path, command: str
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    done = flowgauge("benchmark", command, strewn[0], "--splits", splits, "--seeds", 0, "--masks", masks)
    assert done.code == 2
    assert "has no mask" in done.err
    assert str(masks) in done.err
