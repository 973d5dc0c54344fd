"""`flowgauge estimate`, as a person runs it, on a small data set."""

import json
import shutil
from pathlib import Path

import pytest

from flowgauge.cli.model import Model
from tests.support.folders import write_mvtec, write_plain
from tests.support.gauges import settings
from tests.support.plants import tiny_dataset
from tests.support.shell import Shell


@pytest.fixture(autouse=True)
def _light_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit of seconds: how good the detector is matters to nobody here."""
    monkeypatch.setattr(Model, "settings", lambda self: settings())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def test_an_estimate_goes_on_where_it_stopped_and_tells_what_to_expect(
    flowgauge: Shell, cache: Path, tmp_path: Path
) -> None:
    out, html = tmp_path / "estimate.json", tmp_path / "estimate.html"
    command = ("estimate", tiny_dataset(), "--cache", cache, "--json", out)
    grouped = (*command, "--group", r"^(.*)\.png$")

    done = flowgauge(*grouped, "--repeats", "2", "--html", html)
    assert done.code == 0
    assert "Of 1,000 good parts expect" in done.out
    first = json.loads(out.read_text())
    assert [repeat["seed"] for repeat in first["repeats"]] == [0, 1]
    assert all(len(repeat["good"]) == len(repeat["defect"]) == 3 for repeat in first["repeats"])
    assert all(repeat["train_images"] == 24 for repeat in first["repeats"])
    assert first["origin"] == "names"
    assert "Of 1,000 good parts expect" in html.read_text()
    assert len(list(cache.iterdir())) == 1

    done = flowgauge(*grouped, "--repeats", "3")
    assert done.code == 0
    second = json.loads(out.read_text())
    assert second["repeats"][:2] == first["repeats"], "what was done is not repeated"
    assert second["estimate"]["repeats"] == 3

    other = flowgauge(*grouped, "--repeats", "3", "--choose", "budget")
    assert other.code == 2
    assert "other images or settings" in other.err
    assert json.loads(out.read_text()) == second


def test_planted_near_duplicates_are_found_kept_together_and_reported(flowgauge: Shell, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset(), root)
    first = sorted((root / "train" / "good").iterdir())[0]
    shutil.copy(first, root / "test" / "good" / "twin.png")
    command = ("estimate", root, "--cache", tmp_path / "c", "--repeats", "2")
    done = flowgauge(*command)
    assert done.code == 0
    assert "Near duplicates were taken for images of one part" in done.err
    found = done.json
    assert [near_duplicates["names"] for near_duplicates in found["near_duplicates"]] == [
        ["test/good/twin.png", f"train/good/{first.name}"]
    ]
    assert found["near_duplicates"][0]["across"] is True
    assert len(found["repeats"]) == len(found["repeats_apart"]) == 2
    assert found["duplicates_apart"] is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--group", "("), "no regular expression"),
        (("--group", "nowhere"), "finds nothing"),
        (("--group", r"test/(\w+)|train"), "too few to choose a threshold"),
        (("--groups", "groups.json", "--group", "x"), "Give one of them"),
        (("--groups", "groups.json"), "cannot be read"),
        (("--choose", "magic"), "youden"),
        (("--json", "nowhere/out.json"), "no place"),
        (("--repeats", "1"), "repeats"),
        (("--prevalence", "2"), "prevalence"),
    ],
)
def test_what_cannot_be_estimated_is_said_before_the_work(
    flowgauge: Shell, cache: Path, options: tuple[str, str], said: str
) -> None:
    done = flowgauge("estimate", tiny_dataset(), "--cache", cache, *options)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_data_set_without_defects_or_with_few_is_refused(flowgauge: Shell, tmp_path: Path) -> None:
    none = flowgauge("estimate", write_plain(tmp_path / "plain", 30))
    few = flowgauge("estimate", write_mvtec(tmp_path / "few", train=30, test_good=4, defects={"crack": 3}))
    for done, said in ((none, "0 defective images"), (few, "3 defective images")):
        assert done.code == 2
        assert said in done.err


def test_a_file_of_something_else_stays_as_it_is(flowgauge: Shell, cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    done = flowgauge("estimate", tiny_dataset(), "--cache", cache, "--json", other)
    assert done.code == 2
    assert "no result of an estimate" in done.err
    assert other.read_text() == "{}"
