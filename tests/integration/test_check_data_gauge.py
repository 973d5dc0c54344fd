"""What the data checks say of a gauge: of turned goods, and of where it looks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowgauge.datachecks.background import positions_check
from flowgauge.datachecks.issue import Level
from flowgauge.datachecks.orientation import turned_check
from flowgauge.training.gauge import Gauge
from flowgauge.training.snapshot import save
from tests.support.examination import looked_at, silent
from tests.support.folders import write_dataset
from tests.support.gauges import gauge, line
from tests.support.shell import Shell


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the line that the gauge was fitted to."""
    root = tmp_path_factory.mktemp("gauge") / "set"
    write_dataset(line(), root, train=8, test_good=10, per_kind=6, kinds=("scratch", "stain", "pit", "crack"))
    return root


@pytest.fixture(scope="module")
def fitted() -> Gauge:
    return gauge()


def test_brushed_metal_that_lies_across_would_be_rejected_which_is_a_note(root: Path, fitted: Gauge) -> None:
    check = turned_check(looked_at(root), fitted, silent)
    (finding,) = check.findings
    assert finding.level is Level.NOTE
    assert len(check.figures) == 8
    assert check.figures["turned by 90°"] == 1.0
    as_it_lies = check.figures["as it lies"]
    assert isinstance(as_it_lies, float)
    assert as_it_lies < 0.5


def test_a_gauge_that_looks_at_the_defects_is_reported_so(root: Path, fitted: Gauge) -> None:
    check = positions_check(looked_at(root), fitted, silent)
    assert check.skipped == ""
    assert check.findings == ()


def test_a_gauge_that_rejects_for_another_patch_is_found(root: Path, fitted: Gauge, tmp_path: Path) -> None:
    """The masks say that the defects were in the corner opposite to the map's peaks."""
    moved = Path(shutil.copytree(root, tmp_path / "moved"))
    for path in moved.glob("ground_truth/*/*"):
        mask = np.asarray(Image.open(path))
        corner = np.zeros_like(mask)
        corner[-6:, -6:] = 255
        Image.fromarray(corner).save(path)
    (finding,) = positions_check(looked_at(moved), fitted, silent).findings
    assert finding.title == "Right for the wrong reason"
    assert all(image.name.startswith("test/") for image in finding.images)


def test_the_command_takes_a_snapshot_of_any_line(root: Path, fitted: Gauge, flowgauge: Shell, tmp_path: Path) -> None:
    files = save(fitted)
    (tmp_path / "manifest.json").write_bytes(files.manifest)
    (tmp_path / "weights.safetensors").write_bytes(files.weights)
    outcome = flowgauge("check-data", root, "--gauge", tmp_path, "--json", "-")
    assert outcome.code == 0
    assert [check["name"] for check in outcome.json["checks"]][-2:] == ["turned", "patches"]
