"""The demonstration, whole: a recorded line of small pictures through fit, stream, adaptation, swap and report."""

import json
from pathlib import Path

import pytest
from PIL import Image

from flowgauge.reports.story import Story, Truth
from flowgauge.synthetic.procedural import DEFECTS, Condition, ProceduralLine, Sample
from tests.support.shell import Outcome, Shell

SIDE = 64
FITTED, TRAINING, TESTING = 24, 56, 8
BRIGHT = Condition(gain=1.4)


def written(sample: Sample, folder: Path) -> str:
    name = f"{sample.kind}-{sample.index:03d}.png"
    Image.fromarray(sample.pixels).save(folder / name)
    return name


def phase(line: ProceduralLine, folder: Path, name: str, condition: Condition, first: int) -> dict[str, object]:
    """Every eighth of the buffer is defective; half of the test images are."""
    training, testing = range(first, first + TRAINING), range(first + TRAINING, first + TRAINING + TESTING)
    spoilt = [written(line.defect(i, DEFECTS[i % len(DEFECTS)], condition), folder) for i in training if i % 8 == 7]
    return {
        "condition": name,
        "buffer": [written(line.good(i, condition), folder) for i in training if i % 8 != 7] + spoilt,
        "mislabelled": spoilt,
        "test_good": [written(line.good(i, condition), folder) for i in testing if i % 2],
        "test_defect": [written(line.defect(i, "crack", condition), folder) for i in testing if i % 2 == 0],
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures and one phase, which is much brighter than what is fitted."""
    folder = tmp_path_factory.mktemp("washers")
    line = ProceduralLine("brushed-metal", seed=0, size=SIDE)
    run = {
        "seed": 0,
        "fit": [written(line.good(i), folder) for i in range(FITTED)],
        "phases": [phase(line, folder, "bright", BRIGHT, 100)],
    }
    (folder / "phases.json").write_text(json.dumps({"runs": [run]}))
    return folder


def play(flowgauge: Shell, recorded: Path, out: Path) -> Outcome:
    where = ("--data", recorded, "--phases", recorded / "phases.json", "--out", out)
    return flowgauge("demo", *where, "--size", SIDE, "--device", "cpu", "--json")


def without_seconds(out: Path) -> Story:
    """What a second run must repeat: all but how long the fit took."""
    story = Story.model_validate_json((out / "story.json").read_bytes())
    return story.model_copy(update={"gauge": story.gauge.model_copy(update={"fit_seconds": 0.0})})


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_a_line_that_drifts_is_adapted_to_and_every_image_is_tested(
    flowgauge: Shell, recorded: Path, tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    outcome = play(flowgauge, recorded, out)
    assert outcome.code == 0, outcome.err
    summary = outcome.json
    sent = TRAINING + TESTING
    assert summary["counts"] == {"sent": sent, "verdicts": sent, "missing": 0, "dead_letters": 0}
    assert [(each["good"], each["defect"]) for each in summary["phases"]] == [(4, 4)]
    (adaptation,) = summary["adaptations"]
    assert adaptation["after_image"] < TRAINING
    story = without_seconds(out)
    assert [point.index for point in story.points] == list(range(sent))
    assert {point.truth for point in story.points} == {Truth.GOOD, Truth.DEFECT}
    first = story.gauge.version
    assert all(point.frozen.version == first for point in story.points)
    assert all(point.frozen == point.adapted for point in story.points if point.adapted.version == first)
    active = adaptation["version"] if adaptation["accepted"] else first
    assert {point.adapted.version for point in story.points if not point.use_for_training} == {active}
    assert summary["headline"] in (out / "report.html").read_text()

    again = play(flowgauge, recorded, out)
    assert again.code == 0, again.err
    assert without_seconds(out) == story


def test_real_images_need_their_phases(flowgauge: Shell, tmp_path: Path) -> None:
    outcome = flowgauge("demo", "--data", tmp_path, "--out", tmp_path / "demo")
    assert outcome.code == 2
    assert "--phases" in outcome.err
    assert not (tmp_path / "demo").exists()


def test_a_foreign_folder_is_refused_before_anything_is_fitted(flowgauge: Shell, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    outcome = flowgauge("demo", "--out", tmp_path)
    assert outcome.code == 2
    assert "not empty" in outcome.err
