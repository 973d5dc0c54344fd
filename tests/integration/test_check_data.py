"""What is planted in a procedural set is found, what is not is not, and people are told of it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from flowgauge.datachecks import orientation
from flowgauge.datachecks.background import background_check
from flowgauge.datachecks.camera import exposure_check, sizes_check
from flowgauge.datachecks.examine import Examination
from flowgauge.datachecks.issue import Check, Finding, Level, Named
from flowgauge.datachecks.training_images import Repeats, duplicates_check, enough_check, repeats
from flowgauge.domain.errors import DatasetError
from flowgauge.reports.diagnosis import render
from tests.support import planting
from tests.support.examination import examined, issue_checks, line, looked_at, named, silent, write_small
from tests.support.folders import write_mvtec
from tests.support.shell import Shell
from tests.unit.test_report import outline


@pytest.fixture(scope="module", autouse=True)
def _few_turned() -> Iterator[None]:
    """Turning takes most of the time, and few images show what many do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orientation, "MOST", 20)
        yield


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write there."""
    return write_small(tmp_path_factory.mktemp("clean") / "set")


@pytest.fixture
def small(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "set"))


@pytest.fixture(scope="module")
def healthy(clean: Path) -> Examination:
    return examined(clean)


@pytest.fixture(scope="module")
def ill(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Examination, dict[str, set[str]]]:
    """Copies, mislabelled images and blurred ones in one set; what was planted, by the check that should tell."""
    root = Path(shutil.copytree(clean, tmp_path_factory.mktemp("ill") / "set"))
    planted = {"suspects": planting.mislabelled(root, line())}
    planted["duplicates"] = planting.duplicated(root)
    planted["focus"] = planting.blurred(root)
    (root / "test/good/torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return examined(root), planted


def test_a_set_without_faults_is_reported_to_have_none(healthy: Examination) -> None:
    assert issue_checks(healthy) == set()
    assert {check.name for check in healthy.checks if check.skipped} == {"silhouette"}


def test_copies_across_the_split_are_found_whatever_their_format_and_light(
    ill: tuple[Examination, dict[str, set[str]]],
) -> None:
    found, planted = ill
    assert named(found, "duplicates") == planted["duplicates"]
    duplicates = next(check for check in found.checks if check.name == "duplicates")
    assert duplicates.figures["exact_pairs"] == 3
    assert all(image.beside and image.beside.startswith("train/") for image in duplicates.findings[0].images)


def test_images_out_of_focus_are_found(ill: tuple[Examination, dict[str, set[str]]]) -> None:
    found, planted = ill
    assert named(found, "focus") == planted["focus"]


def test_most_mislabelled_images_are_named_and_hardly_any_other(ill: tuple[Examination, dict[str, set[str]]]) -> None:
    found, planted = ill
    suspects = named(found, "suspects")
    right = len(suspects & planted["suspects"])
    assert right >= len(planted["suspects"]) / 2
    assert right >= 0.8 * len(suspects)


def test_an_unreadable_image_is_reported_and_left_out(ill: tuple[Examination, dict[str, set[str]]]) -> None:
    found, _ = ill
    assert named(found, "readable") == {"test/good/torn.png"}
    assert "test/good/torn.png" not in found.seen.names


def test_orientations_that_training_lacks_are_found(small: Path) -> None:
    lying = planting.turned(small)
    found = examined(small)
    assert issue_checks(found) == {"orientation"}
    assert len(named(found, "orientation") & lying) >= 0.8 * len(lying)


def test_a_background_that_gives_the_class_away_is_found(small: Path) -> None:
    assert background_check(looked_at(small), None).findings == ()
    planting.given_away(small)
    (finding,) = background_check(looked_at(small), None).findings
    assert finding.title == "The background gives the class away"


def test_another_size_and_another_light_are_found_and_few_images_promise_little(small: Path) -> None:
    train = sorted((small / "train/good").iterdir())
    changed(train[0], lambda image: image.resize((160, 128)))
    changed(train[1], lambda image: image.point(lambda value: value * 1.6))
    for path in train[40:]:
        path.unlink()
    seen = looked_at(small)
    (size,), (light,) = sizes_check(seen).findings, exposure_check(seen).findings
    assert [image.name for image in size.images] == [train[0].relative_to(small).as_posix()]
    assert [image.name for image in light.images] == [train[1].relative_to(small).as_posix()]
    (few,) = enough_check(seen, Repeats((), ())).findings
    assert few.figures["parts"] == 40


def changed(path: Path, change: Callable[[Image.Image], Image.Image]) -> None:
    with Image.open(path) as image:
        image.load()
    change(image).save(path)


def test_one_part_with_two_labels_is_a_contradiction(small: Path) -> None:
    shutil.copyfile(next((small / "test/scratch").iterdir()), small / "test/good/same.png")
    seen = looked_at(small)
    (finding,) = duplicates_check(seen, repeats(seen, silent), None).findings
    assert finding.title == "The same part is called good and defective"


def test_groups_test_the_near_duplicates_and_do_not_find_them(small: Path) -> None:
    copies = planting.duplicated(small)
    seen = looked_at(small)
    pairs = {"copy-0.png": 3, "copy-1.png": 17, "copy-2.bmp": 29, "copy-3.jpg": 31}
    truth = {name: name for name in seen.names}
    truth |= {f"test/good/{copy}": f"train/good/{number:06}.png" for copy, number in pairs.items()}
    truth |= {"test/good/copy-4.jpg": "another"}
    check = duplicates_check(seen, repeats(seen, silent), truth)
    assert {image.name for image in check.findings[0].images} == copies
    assert (check.figures["pairs_across_precision"], check.figures["pairs_across_recall"]) == (0.8, 1.0)


def test_a_set_whose_training_images_cannot_be_read_is_refused(small: Path) -> None:
    for path in (small / "train/good").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match="None of the training images"):
        examined(small)


def test_a_folder_of_few_images_can_be_examined(tmp_path: Path) -> None:
    """Nothing can be compared, and what can be said is said."""
    found = examined(write_mvtec(tmp_path / "data", train=3, test_good=0, defects={}))
    assert "enough" in issue_checks(found)
    assert {"suspects", "orientation", "background"} <= {check.name for check in found.checks if check.skipped}


def test_the_page_shows_every_finding_with_its_pictures(ill: tuple[Examination, dict[str, set[str]]]) -> None:
    found, _ = ill
    page = render("set", found)
    assert all(address.startswith("data:image/") for address in outline(page).addresses)
    assert all(finding.title in page for finding in found.findings)
    shown = [image for finding in found.findings for image in finding.images[:12]]
    portraits, unreadable = 3, 1
    assert page.count("<img") == len(shown) + sum(image.beside is not None for image in shown) + portraits - unreadable
    assert render("set", found) == page


def test_names_cannot_become_markup(healthy: Examination) -> None:
    evil = "<script>alert(1)</script>"
    finding = Finding(title=evil, seen=evil, why=evil, remedy=evil, images=(Named(name=evil, words=evil, beside=evil),))
    page = render(evil, Examination(healthy.seen, (Check(name=evil, question=evil, findings=(finding,)),)))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8


def test_notes_are_no_problems(healthy: Examination) -> None:
    note = Finding(title="x", seen="x", why="x", remedy="x", level=Level.NOTE)
    found = Examination(healthy.seen, (Check(name="x", question="x", findings=(note,)),))
    assert found.findings == (note,)
    assert found.problems == ()


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--strict",), 1)])
def test_the_command_tells_and_fails_only_where_it_is_asked_to(
    flowgauge: Shell, tmp_path: Path, options: tuple[str, ...], code: int
) -> None:
    root = write_mvtec(tmp_path / "data", train=10, test_good=2, defects={"crack": 2})
    outcome = flowgauge(
        "check-data", root, "--json", tmp_path / "out.json", "--report", tmp_path / "out.html", *options
    )
    assert outcome.code == code
    assert "Too few training images" in outcome.out
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["images"] == {"train": 10, "test_good": 2, "test_defect": 2, "unreadable": 0}
    enough = next(check for check in document["checks"] if check["name"] == "enough")
    (finding,) = enough["findings"]
    assert set(finding) == {"title", "seen", "why", "remedy", "level", "figures", "images"}
    assert finding["figures"]["parts"] == 10
    assert "Too few training images" in (tmp_path / "out.html").read_text()


def test_a_patch_that_takes_no_report_is_reported_before_the_work(flowgauge: Shell, tmp_path: Path) -> None:
    outcome = flowgauge("check-data", tmp_path, "--report", tmp_path / "none/out.html")
    assert outcome.code == 2
    assert "none" in outcome.err


def test_a_folder_without_a_snapshot_is_a_mistake(flowgauge: Shell, tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "data", train=8, test_good=0, defects={})
    outcome = flowgauge("check-data", root, "--gauge", tmp_path)
    assert outcome.code == 2
    assert "holds no snapshot" in outcome.err
