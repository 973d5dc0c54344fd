"""`flowgauge benchmark suite`, as a person runs it, on two small data sets."""

import json
import shutil
from pathlib import Path

from tests.support.plants import SIDE, tiny_dataset
from tests.support.shell import Shell


def test_detectors_are_compared_over_data_sets_and_a_second_run_goes_on(flowgauge: Shell, tmp_path: Path) -> None:
    root, out, page = tmp_path / "data", tmp_path / "suite.json", tmp_path / "suite.html"
    for name in ("iron", "steel"):
        shutil.copytree(tiny_dataset(), root / name)
    shutil.copytree(root / "iron" / "train", root / "untested" / "train")
    small = ("--set", "rad.hidden=16", "--set", "rad.blocks=2", "--set", "rad.training.steps=40")
    data = ("benchmark", "suite", root, *small, "--size", SIDE, "--device", "cpu", "--limit", "10", "--json", out)
    first = flowgauge(*data, "--detector", "rad", "--dataset", "iron")
    assert first.code == 0, first.err
    (done,) = json.loads(out.read_text())["runs"]
    assert done["miss_share_at"].keys() == {"0.01", "0.05", "0.1"}

    second = flowgauge(*data, "--detector", "rad", "--shots", "8", "--html", page)
    assert second.code == 0, second.err
    assert "untested: " in second.err
    assert "no test images" in second.err
    found = json.loads(out.read_text())
    assert found["runs"][0] == done, "what was done is not repeated"
    assert [(run["dataset"], run["shots"]) for run in found["runs"]] == [
        ("iron", None),
        ("iron", 8),
        ("steel", None),
        ("steel", 8),
    ]
    assert [run["run"]["fitted_images"] for run in found["runs"]] == [10, 8, 10, 8]
    assert found["detectors"][0]["worst"] <= found["detectors"][0]["image_auroc"]
    assert "rad" in second.out
    assert "miss_at_5%" in second.out
    whole = page.read_text()
    assert "Few-shot curves" in whole
    assert "What could not be measured" in whole


def test_what_cannot_be_compared_is_said_before_the_work(flowgauge: Shell, tmp_path: Path) -> None:
    for options, said in (
        ((tmp_path,), "holds no data set"),
        ((tmp_path, "--detector", "magic"), "no detector 'magic'"),
        ((tiny_dataset(),), "is one data set"),
        ((tmp_path, "--json", tmp_path / "nowhere" / "out.json"), "no place"),
        ((tmp_path, "--detector", "rad", "--init", "shipped"), "No meta-learned parameters of rad"),
        ((tmp_path, "--detector", "featureflow", "--detector", "rad", "--init", "shipped"), "several run"),
    ):
        done = flowgauge("benchmark", "suite", *options)
        assert done.code == 2
        assert said in done.err
