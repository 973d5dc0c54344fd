"""`flowgauge benchmark`, as a person runs it, on a small data set."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path, PosixPath

import pytest
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from flowgauge.cli.benchmark.detectors import DetectorComparison, FitTask
from flowgauge.cli.model import Model
from flowgauge.cli.options import Device
from flowgauge.domain.errors import Unavailable
from flowgauge.evaluation import loss_amplification
from flowgauge.evaluation.splits import CONTAMINATION
from tests.support.folders import write_mvtec
from tests.support.plants import SIDE, tiny_dataset
from tests.support.shell import Shell


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """One seed at one level; the mislabelled images come from the test folder."""
    root = tiny_dataset()
    goods = sorted(path.relative_to(root).as_posix() for path in (root / "train" / "good").iterdir())
    test_good = sorted(path.relative_to(root).as_posix() for path in (root / "test" / "good").iterdir())
    scratches, stains = (
        sorted(path.relative_to(root).as_posix() for path in (root / "test" / kind).iterdir())
        for kind in ("scratch", "stain")
    )
    dirty = {"seed": 0, "noise": 0.2, "train": goods[:12] + scratches, "mislabelled": scratches}
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"splits": [dirty | {"test_good": test_good, "test_defect": stains}]}))
    return path


@pytest.mark.usefixtures("quick_fits")
def test_the_noise_benchmark_writes_goes_on_and_draws(flowgauge: Shell, splits: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "noise.json", tmp_path / "noise.svg"
    data = ("benchmark", "contamination", tiny_dataset(), "--splits", splits, "--seeds", "0", "--size", SIDE)
    command = (*data, "--device", "cpu", "--cache", tmp_path / "cache", "--json", out)

    done = flowgauge(*command, "--variant", "plain")
    assert done.code == 0
    first = json.loads(out.read_text())
    assert first["variant"] == "plain"
    assert [point["noise"] for point in first["curve"]] == [0.2]
    assert all(point["seeds"] == [0] and 0 <= point["image_auroc_mean"] <= 1 for point in first["curve"])
    assert len(list((tmp_path / "cache").iterdir())) == 1

    done = flowgauge(*command, "--variant", "clean-oracle", "--plot", plot)
    assert done.code == 0
    assert "clean-oracle" in done.out
    second = json.loads(out.read_text())
    assert [curve["variant"] for curve in second["curves"]] == ["plain", "clean-oracle"]
    assert second["curves"][0]["curve"] == first["curve"]
    again = {(cell["variant"], cell["noise"]): cell for cell in second["cells"]}
    assert all(again[cell["variant"], cell["noise"]] == cell for cell in first["cells"]), (
        "what was done is not repeated"
    )
    assert plot.read_text().count('class="curve"') == 2

    splits.write_text(splits.read_text().replace('"noise": 0.2', '"noise": 0.25'))
    other = flowgauge(*command, "--variant", "plain")
    assert other.code == 2
    assert "other images or settings" in other.err
    assert json.loads(out.read_text()) == second


@pytest.mark.usefixtures("quick_fits")
def test_without_splits_a_data_sets_own_defects_contaminate(flowgauge: Shell, tmp_path: Path) -> None:
    out, root = tmp_path / "noise.json", write_mvtec(tmp_path / "data", train=20, test_good=4, defects={"crack": 20})
    data = ("benchmark", "contamination", root, "--variant", "clean-oracle", "--seeds", "0", "--size", SIDE)
    done = flowgauge(*data, "--device", "cpu", "--cache", tmp_path / "cache", "--json", out)
    assert done.code == 0, done.err
    cells = json.loads(out.read_text())["cells"]
    assert [cell["noise"] for cell in cells] == list(CONTAMINATION)
    assert all(cell["kept_mislabelled_share"] == 0 for cell in cells[1:]), "they are known, and left out"


def test_an_image_that_cannot_be_read_is_named(flowgauge: Shell, splits: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset(), root)
    broken = sorted((root / "train" / "good").iterdir())[3]
    broken.write_bytes(b"no image")
    done = flowgauge(
        "benchmark", "contamination", root, "--splits", splits, "--seeds", "0", "--cache", tmp_path / "cache"
    )
    assert done.code == 2
    assert broken.name in done.err
    assert "cannot be read" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--variant", "magic"), "plain"),
        (("--seeds", "7"), "no seed 7"),
        (("--plot", "curve.jpg"), ".svg"),
        (("--json", "nowhere/out.json"), "no place"),
    ],
)
def test_what_cannot_be_measured_is_said_before_the_work(
    flowgauge: Shell, splits: Path, options: tuple[str, str], said: str
) -> None:
    done = flowgauge("benchmark", "contamination", tiny_dataset(), "--splits", splits, "--seeds", "0", *options)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.fixture
def phases(tmp_path: Path) -> Path:
    """A first gauge from twelve images, and one phase with a scratched part in its buffer."""
    root = tiny_dataset()

    def named(folder: str) -> list[str]:
        return sorted(path.relative_to(root).as_posix() for path in (root / folder).iterdir())

    goods, scratches = named("train/good"), named("test/scratch")
    phase = {"name": "as ever", "buffer": [*goods[12:24], *scratches[:1]], "mislabelled": scratches[:1]}
    held_back = {"test_good": named("test/good"), "test_defect": named("test/stain")}
    path = tmp_path / "phases.json"
    path.write_text(json.dumps({"runs": [{"seed": 0, "fit": goods[:12], "phases": [phase | held_back]}]}))
    return path


@pytest.mark.usefixtures("quick_fits")
def test_a_line_is_followed_through_its_phases_once(flowgauge: Shell, phases: Path, tmp_path: Path) -> None:
    out = tmp_path / "drift.json"
    data = ("benchmark", "drift", tiny_dataset(), "--phases", phases, "--seeds", "0", "--size", SIDE)
    command = (*data, "--no-refit", "--device", "cpu", "--json", out)
    done = flowgauge(*command)
    assert done.code == 0
    assert "in-use" in done.out
    found = json.loads(out.read_text())
    assert [summary["way"] for summary in found["summary"]] == ["frozen", "adapted", "in-use"]
    assert all(0 <= line["false_alarms"] <= 1 for line in found["lines"])
    seconds = [line["seconds"] for line in found["lines"]]
    again = flowgauge(*command)
    assert again.code == 0
    assert [line["seconds"] for line in json.loads(out.read_text())["lines"]] == seconds, (
        "what was done is not repeated"
    )
    assert flowgauge(*command, "--variant", "no-head", "--variant", "full").code == 0
    more = json.loads(out.read_text())["lines"]
    assert more[: len(seconds)] == found["lines"]
    assert [(line["way"], line["variant"]) for line in more[len(seconds) :]] == [
        ("adapted", "no-head"),
        ("in-use", "no-head"),
    ], "the first gauge was read before"


@pytest.mark.usefixtures("quick_fits")
def test_the_images_of_a_data_set_are_changed(flowgauge: Shell, tmp_path: Path) -> None:
    out = tmp_path / "changed.json"
    data = ("benchmark", "drift", tiny_dataset(), "--change", "contrast", "--seeds", "0", "--size", SIDE)
    done = flowgauge(*data, "--no-refit", "--device", "cpu", "--json", out)
    assert done.code == 0, done.err
    ways = [(summary["phase"], summary["way"]) for summary in json.loads(out.read_text())["summary"]]
    assert ways == [(phase, way) for phase in ("as it is", "contrast") for way in ("frozen", "adapted", "in-use")]


def test_what_cannot_be_followed_is_a_mistake(flowgauge: Shell, phases: Path, tmp_path: Path) -> None:
    alone = flowgauge("benchmark", "drift", "--phases", phases)
    assert alone.code == 2
    assert "--phases needs the folder of its images" in alone.err
    unknown = flowgauge("benchmark", "poisoning", "--change", "weather")
    assert unknown.code == 2
    assert "light, contrast, focus, texture" in unknown.err
    material = flowgauge("benchmark", "poisoning", "--material", "cheese", "--rounds", "2")
    assert material.code == 2
    assert "no material 'cheese'" in material.err
    other = tmp_path / "other.json"
    other.write_text("{}")
    taken = flowgauge("benchmark", "drift", "--json", other)
    assert taken.code == 2
    assert "no result of this benchmark" in taken.err
    assert other.read_text() == "{}"


@pytest.mark.usefixtures("quick_fits")
def test_left_out_classes_are_left_out_in_turn_and_a_second_run_goes_on(flowgauge: Shell, tmp_path: Path) -> None:
    root, splits, out = tiny_dataset(), tmp_path / "clean.json", tmp_path / "left_out.json"
    goods, test_good, scratches, stains = (
        sorted(path.relative_to(root).as_posix() for path in (root / folder).iterdir())
        for folder in ("train/good", "test/good", "test/scratch", "test/stain")
    )
    whole = {"seed": 0, "train": goods, "test_good": test_good, "test_defect": scratches + stains}
    splits.write_text(json.dumps({"splits": [whole]}))
    data = ("benchmark", "leave-one-class-out", root, "--splits", splits, "--seeds", "0", "--size", SIDE, "--labels", 2)
    command = (*data, "--device", "cpu", "--cache", tmp_path / "cache", "--json", out)

    done = flowgauge(*command)
    assert done.code == 0, done.err
    assert "labels add" in done.out
    first = json.loads(out.read_text())
    assert [row["kind"] for row in sorted(first["by_class"], key=lambda row: row["kind"])] == ["scratch", "stain"]
    assert all(len(cell["labelled"]) == 2 for cell in first["cells"])
    assert first["gain"]["interval"][0] <= first["gain"]["mean"] <= first["gain"]["interval"][1]

    again = flowgauge(*command)
    assert again.code == 0
    assert json.loads(out.read_text()) == first


@pytest.mark.usefixtures("quick_fits")
def test_detectors_are_compared_each_in_its_own_process(flowgauge: Shell, tmp_path: Path) -> None:
    out, page = tmp_path / "detectors.json", tmp_path / "detectors.html"
    data = ("benchmark", "detectors", tiny_dataset(), "--size", SIDE, "--device", "cpu", "--limit", "10")
    done = flowgauge(*data, "--detector", "headflow", "--json", out, "--html", page)
    assert done.code == 0, done.err
    first = json.loads(out.read_text())
    (contender,) = first["contenders"]
    assert contender["peak_bytes"] > 10 * contender["snapshot_bytes"] > 0
    assert {image["kind"] for image in contender["shown_images"]} == {"good", "scratch", "stain"}
    assert "headflow ranks them best" in page.read_text()

    again = flowgauge(*data, "--detector", "headflow", "--json", out)
    assert again.code == 0
    assert json.loads(out.read_text()) == first


@pytest.mark.parametrize(
    ("name", "said"), [("multidirectional", "benchmark leave-one-class-out"), ("magic", "no detector 'magic'")]
)
def test_what_cannot_be_compared_is_said(flowgauge: Shell, name: str, said: str) -> None:
    done = flowgauge("benchmark", "detectors", tiny_dataset(), "--detector", name)
    assert done.code == 2
    assert said in done.err


def test_a_mistake_in_the_other_process_is_reported_like_any_other(flowgauge: Shell, splits: Path) -> None:
    done = flowgauge("benchmark", "detectors", tiny_dataset(), "--detector", "rad", "--splits", splits, "--seeds", "7")
    assert done.code == 2
    assert "no seed 7" in done.err
    assert "Traceback" not in done.err


class _Deadly(PosixPath):
    """Whoever unpickles it is killed, as by a system that is out of memory."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return signal.raise_signal, (signal.SIGKILL,)


def test_a_process_that_is_killed_is_reported() -> None:
    model = Model(detector="rad", size=SIDE)
    task = FitTask(_Deadly(tiny_dataset()), None, None, None, model, Device.CPU, 4)
    comparison_run = DetectorComparison(task, (model,), lambda *reported: None)
    with pytest.raises(Unavailable, match=r"measured rad was killed"):
        comparison_run.run([0], None)


@pytest.mark.usefixtures("quick_fits")
def test_loss_amplification_is_compared_on_digits_and_on_patches_and_goes_on(
    flowgauge: Shell, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = load_digits()
    few = Bunch(images=digits.images[:200], target=digits.target[:200])
    monkeypatch.setattr(loss_amplification, "load_digits", lambda: few)
    out = tmp_path / "lamp.json"
    data = (tiny_dataset(), "--splits", splits, "--size", 64, "--cache", tmp_path / "cache")
    command = ("benchmark", "loss-amplification", *data, "--steps", 2, "--seeds", "0", "--device", "cpu", "--json", out)
    done = flowgauge(*command)
    assert done.code == 0, done.err
    first = json.loads(out.read_text())
    rows = {(row["where"], row["loss"], row["optimiser"]) for row in first["comparisons"]}
    losses = ("l1", "l2", "ssim")
    assert {key for key in rows if key[0] == "digits"} == {
        ("digits", loss, optimiser) for loss in losses for optimiser in ("sgd", "rmsprop", "adam")
    }
    assert {key[1:] for key in rows if key[0] != "digits"} == {(loss, "adam") for loss in losses}
    assert all(0 <= value <= 1 for cell in first["cells"] for value in cell["auroc"].values())
    assert len(done.out.splitlines()) == 1 + len(rows) + 1

    first["cells"] = first["cells"][1:]
    out.write_text(json.dumps(first))
    assert flowgauge(*command).code == 0
    again = json.loads(out.read_text())["cells"]
    assert [cell for cell in again if cell in first["cells"]] == first["cells"], "what was done is not repeated"
    assert len(again) == len(first["cells"]) + 1
