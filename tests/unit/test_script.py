import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest

from flowgauge.cli.demo.driver import INTERVAL, DemoFolder, LineClock
from flowgauge.cli.demo.scenario import (
    DRIFT,
    TESTING,
    TRAINING,
    Frame,
    Script,
    procedural_script,
    recorded_script,
)
from flowgauge.domain.errors import DatasetError, UserError
from flowgauge.reports.story import Truth
from flowgauge.synthetic.procedural.line import MATERIALS
from flowgauge.vision.decoding import decode
from tests.support.stories import tiny_picture

SMALL = 64


@pytest.fixture(scope="module")
def script() -> Script:
    return procedural_script("brushed-metal", seed=0, size=SMALL)


def test_same_seed_same_images_and_another_seed_others(script: Script) -> None:
    again, other = (procedural_script("brushed-metal", seed, SMALL) for seed in (0, 1))
    for one, same, another in zip(script.shots[::97], again.shots[::97], other.shots[::97], strict=True):
        assert one.read() == same.read() != another.read()
    assert [frame.truth for frame in script.shots] == [frame.truth for frame in again.shots]
    assert [frame.truth for frame in script.shots] != [frame.truth for frame in other.shots]


def test_no_image_comes_twice_and_none_was_fitted(script: Script) -> None:
    names = [frame.image_id for frame in (*script.fit, *script.shots)]
    assert len(set(names)) == len(names)
    pictures = [frame.read() for frame in (*script.fit[:8], *script.acts[0].training[:8])]
    assert len(set(pictures)) == len(pictures)


def test_each_phase_trains_with_defects_among_the_good_and_tests_with_both(script: Script) -> None:
    for act in script.acts:
        spoilt = sum(frame.truth is Truth.DEFECT for frame in act.training)
        assert 0.1 * TRAINING <= spoilt <= 0.2 * TRAINING
        assert all(frame.use_for_training for frame in act.training)
        assert sum(frame.truth is Truth.DEFECT for frame in act.testing) == TESTING / 2
        assert not any(frame.use_for_training for frame in act.testing)


def test_the_gauge_is_fitted_to_good_images_alone(script: Script) -> None:
    assert {frame.truth for frame in script.fit} == {Truth.GOOD}


def test_the_drift_goes_on_where_the_phase_before_left_it() -> None:
    assert DRIFT[0][1:] == (0.0, 0.0)
    assert all(before[2] == after[1] for before, after in pairwise(DRIFT))


def brightness(shots: Sequence[Frame]) -> float:
    return fmean(decode(frame.read()).statistics.brightness for frame in shots if frame.truth is Truth.GOOD)


def test_the_light_grows_from_the_first_phase_to_the_last(script: Script) -> None:
    fit, first, last = script.fit[:16], script.acts[0].testing, script.acts[-1].testing
    assert brightness(first) == pytest.approx(brightness(fit), abs=0.01)
    assert brightness(last) > brightness(fit) + 0.015


@pytest.mark.parametrize("material", MATERIALS)
def test_every_material_has_a_story(material: str) -> None:
    script = procedural_script(material, 0, SMALL)
    assert decode(script.acts[-1].testing[1].read()).size == (SMALL, SMALL)


def test_a_material_that_there_is_not_is_the_users_mistake() -> None:
    with pytest.raises(DatasetError, match=r"no material 'glass'.*brushed-metal"):
        procedural_script("glass", 0)


def phases_of(folder: Path, seed: int = 3) -> Path:
    """A run of 4 fitted images and one phase: 6 that train, of which one is defective, and 2 + 2 that judge."""
    names = [f"{index:02d}.png" for index in range(14)]
    for index, name in enumerate(names):
        (folder / name).write_bytes(tiny_picture(index))
    phase = {
        "condition": "dusk",
        "buffer": names[4:10],
        "mislabelled": names[9:10],
        "test_good": names[10:12],
        "test_defect": names[12:],
    }
    path = folder / "phases.json"
    path.write_text(json.dumps({"protocol": "test", "runs": [{"seed": seed, "fit": names[:4], "phases": [phase]}]}))
    return path


def test_a_recorded_run_is_played_with_its_truth(tmp_path: Path) -> None:
    script = recorded_script(tmp_path, phases_of(tmp_path), 3, groups={"04.png": "part-2"})
    (act,) = script.acts
    assert act.phase.name == "dusk"
    assert {frame.image_id: frame.truth for frame in act.training if frame.truth is Truth.DEFECT} == {
        "09.png": Truth.DEFECT
    }
    assert sorted(frame.image_id for frame in act.testing if frame.truth is Truth.DEFECT) == ["12.png", "13.png"]
    assert {frame.image_id: frame.part for frame in act.training if frame.part} == {"04.png": "part-2"}
    assert [frame.read() for frame in script.fit] == [tiny_picture(index) for index in range(4)]


def test_a_file_of_phases_that_windows_wrote_is_read(tmp_path: Path) -> None:
    """With a byte order mark and backslashes, as files of groups and splits may be."""
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "0.png").write_bytes(tiny_picture(0))
    (tmp_path / "phases.json").write_text(
        json.dumps({"runs": [{"seed": 0, "fit": ["fit\\0.png"], "phases": [{"buffer": [".\\fit\\0.png"]}]}]}),
        encoding="utf-8-sig",
    )
    script = recorded_script(tmp_path, tmp_path / "phases.json", 0, groups={"fit/0.png": "part-1"})
    (act,) = script.acts
    assert [(frame.image_id, frame.part) for frame in (*script.fit, *act.training)] == [("fit/0.png", "part-1")] * 2


def test_a_recorded_run_is_shuffled_by_its_seed_within_buffer_and_test_images(tmp_path: Path) -> None:
    path = phases_of(tmp_path)
    once, again = (recorded_script(tmp_path, path, 3).acts[0] for _ in range(2))
    assert [frame.image_id for frame in once.shots] == [frame.image_id for frame in again.shots]
    assert [frame.image_id for frame in once.training] != sorted(frame.image_id for frame in once.training)
    assert {frame.image_id for frame in once.training} == {f"{index:02d}.png" for index in range(4, 10)}


def test_a_run_in_order_is_played_as_it_is_listed(tmp_path: Path) -> None:
    path = phases_of(tmp_path)
    recorded = json.loads(path.read_text())
    recorded["runs"][0]["in_order"] = True
    path.write_text(json.dumps(recorded))
    (act,) = recorded_script(tmp_path, path, 3).acts
    assert [frame.image_id for frame in act.shots] == [f"{index:02d}.png" for index in range(4, 14)]


def test_a_seed_that_was_not_recorded_is_named_with_those_that_were(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no run with seed 1.*one of: 3"):
        recorded_script(tmp_path, phases_of(tmp_path), 1)


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = phases_of(tmp_path)
    (tmp_path / "05.png").unlink()
    with pytest.raises(DatasetError, match=r"no image .*05\.png"):
        recorded_script(tmp_path, path, 3)


@pytest.mark.parametrize("text", ["", "[]", '{"runs": []}', '{"runs": [{"seed": 0, "fit": ["a"], "phases": [{}]}]}'])
def test_what_is_no_file_of_phases_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "phases.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match="no file of phases"):
        recorded_script(tmp_path, path, 0)


def test_a_file_of_phases_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        recorded_script(tmp_path, tmp_path / "phases.json", 0)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        DemoFolder(tmp_path).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_later_demonstration_replaces_only_what_an_earlier_one_wrote(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path / "new" / "demo")
    folder.clear()
    folder.store.mkdir()
    (folder.store / "log.db").write_text("old")
    folder.report.write_text("old")
    (folder.root / "notes.txt").write_text("mine")
    folder.clear()
    assert not folder.store.exists()
    assert not folder.report.exists()
    assert (folder.root / "notes.txt").read_text() == "mine"


def test_a_file_is_no_folder_for_a_demonstration(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    with pytest.raises(UserError, match="no folder"):
        DemoFolder(tmp_path / "demo").clear()


def test_the_lines_time_moves_with_its_parts_alone() -> None:
    clock = LineClock()
    start = clock.now()
    assert clock.now() == start
    assert clock.advance() == clock.now() == start + INTERVAL
