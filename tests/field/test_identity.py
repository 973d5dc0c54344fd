"""What makes two images the same one."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from faust.types.tuples import Message
from hypothesis import assume, given
from hypothesis import strategies as st

from flowgauge.app.bootstrap import open_store
from flowgauge.cli.features import BenchmarkData
from flowgauge.cli.model import Model
from flowgauge.cli.options import Device
from flowgauge.cli.output import as_json
from flowgauge.cli.publish import events_of
from flowgauge.domain.golden import Label
from flowgauge.domain.messages import IMAGES, header_text
from flowgauge.domain.object_keys import encoded, path_text, spelled, verdict_id
from flowgauge.domain.ports import Objects, Outgoing, Record
from flowgauge.domain.progress import silent
from flowgauge.local.objects import LocalObjects
from flowgauge.processors.scoring import Scoring
from flowgauge.registry.gauges import Gauges
from flowgauge.registry.golden_sets import add_golden, golden_set
from flowgauge.runtime.events import Image, opened
from flowgauge.runtime.faust_app import record_of
from flowgauge.runtime.worker import Worker
from tests.support.folders import write_mvtec, write_plain
from tests.support.shell import Shell
from tests.support.streaming import LINE, START, SetClock, fitted, load, png, verdicts
from tests.support.streaming import opened as opened_store

LATIN_1 = "prüfling-00.png".encode("latin-1")

IMAGE = png(100)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return LocalObjects(tmp_path_factory.mktemp("objects"))


@given(st.binary(min_size=1, max_size=300), st.binary(min_size=1, max_size=300))
def test_ids_of_any_bytes_stay_different_and_can_be_stored(one: bytes, other: bytes) -> None:
    assume(one != other)
    assume(b"\\" not in one + other)  # a backslash may spell what another id holds as a byte
    ids = [header_text(one), header_text(other)]
    assert ids[0] != ids[1]
    assert encoded(ids[0]) != encoded(ids[1])
    assert verdict_id(f"/lines/{LINE}", ids[0]) != verdict_id(f"/lines/{LINE}", ids[1])
    for text in ids:
        assert text.encode().decode() == text


@given(st.tuples(st.text(), st.text(min_size=1)), st.tuples(st.text(), st.text(min_size=1)))
def test_events_of_different_source_or_id_have_different_verdicts(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (verdict_id(*one) == verdict_id(*other)) == (one == other)


def test_a_source_with_a_fragment_does_not_run_into_the_id() -> None:
    assert verdict_id("camera#1", "7") != verdict_id("camera", "1#7")


@given(
    st.dictionaries(st.sampled_from(["ce_id", "ce_source", "ce_time", "ce_subject", "ce_usefortraining"]), st.binary())
)
def test_any_header_bytes_are_an_event_or_a_refusal_that_names_a_header(
    empty: Objects, headers: dict[str, bytes]
) -> None:
    texts = {name: header_text(value) for name, value in headers.items()}
    found = opened(Record(IMAGES, 0, 0, LINE, IMAGE, texts, START), empty)
    assert isinstance(found, Image) or "image: ce_" in found.reason


@given(st.binary())
def test_any_key_is_a_line_or_a_refusal_that_names_it(empty: Objects, key: bytes) -> None:
    found = opened(Record(IMAGES, 0, 0, header_text(key), IMAGE, {"ce_id": "x"}, START), empty)
    assert isinstance(found, Image) or "image: key" in found.reason


def test_a_worker_keeps_ids_in_latin_1_apart_and_takes_any_time_of_a_record() -> None:
    sent = ((b"pr\xfcfling", 1.8e9), (b"pr\xe4fling", -1e15), ("prüfling".encode(), 1e300))
    found = [record_of(Message("p.images", 0, 0, at, 0, [("ce_id", name)], b"a", b"", None), "p.") for name, at in sent]
    assert [record.headers["ce_id"] for record in found] == ["pr\\xfcfling", "pr\\xe4fling", "prüfling"]
    assert [record.at.year for record in found] == [2027, 1, 9999]


def test_two_ids_in_latin_1_are_two_images(tmp_path: Path) -> None:
    store = opened_store(tmp_path, SetClock())
    for seed, name in enumerate(("prüfling", "präfling")):
        headers = {"ce_id": header_text(name.encode("latin-1"))}
        store.log.append([Outgoing(IMAGES, LINE, png(100, seed), headers)])
    worker = Worker(Scoring(store, Gauges(store.log, store.objects, load)), store.log, store.clock, 4)
    while worker.step():
        pass
    assert [each.image_id for each in verdicts(store.log)] == ["pr\\xfcfling", "pr\\xe4fling"]


def test_two_cameras_of_one_line_that_count_alike_keep_their_images(tmp_path: Path) -> None:
    store = fitted(opened_store(tmp_path, SetClock()))
    for seed, source in enumerate((f"/lines/{LINE}", "/cameras/left", "/cameras/right")):
        store.log.append([Outgoing(IMAGES, LINE, png(200, seed), {"ce_id": "1", "ce_source": source})])
    worker = Worker(Scoring(store, Gauges(store.log, store.objects, load)), store.log, store.clock, 4)
    while worker.step():
        pass
    kept = [store.objects.get(store.objects.name(str(each.image_uri))) for each in verdicts(store.log)]
    assert kept == [png(200, seed) for seed in range(3)]
    assert len({each.heatmap_uri for each in verdicts(store.log)}) == 3


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return opened_store(tmp_path, SetClock()).objects


def held(objects: Objects) -> dict[str, tuple[str, str]]:
    return {each.image_id: (each.label.value, each.kind) for each in golden_set(objects, LINE)}


def test_golden_images_of_one_name_and_different_folders_are_kept_apart(flowgauge: Shell, tmp_path: Path) -> None:
    seed = 0
    for kind in ("scratch", "dent", "good"):
        for number in range(3):
            path = tmp_path / kind / f"{number:03}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(100, seed := seed + 1))
    for _ in range(2):  # adding all of it again adds nothing
        for kind in ("scratch", "dent", "good"):
            said = ["--label", "good"] if kind == "good" else ["--label", "defect", "--class", kind]
            assert flowgauge("golden", "add", LINE, tmp_path / kind, *said, "--store", tmp_path / "plant").code == 0
        listed = flowgauge("golden", "list", LINE, "--store", tmp_path / "plant", "--json").json
        assert sorted((each["label"], each["class"]) for each in listed) == sorted(
            [("defect", "scratch"), ("defect", "dent"), ("good", "")] * 3
        )
    with open_store(str(tmp_path / "plant")) as plant:
        stored = sorted(plant.objects.get(each.name) for each in golden_set(plant.objects, LINE))
    assert stored == sorted(png(100, number) for number in range(1, 10))


def test_the_same_image_moves_to_another_label_whatever_else_has_its_name(objects: Objects) -> None:
    add_golden(objects, LINE, Label.GOOD, "a", png(1))
    second = add_golden(objects, LINE, Label.GOOD, "a", png(2)).image_id
    assert set(held(objects)) == {"a", second}
    add_golden(objects, LINE, Label.DEFECT, "a", png(2), "dent")
    assert held(objects) == {"a": ("good", ""), second: ("defect", "dent")}
    add_golden(objects, LINE, Label.DEFECT, "a", png(1), "scratch")
    assert held(objects) == {"a": ("defect", "scratch"), second: ("defect", "dent")}


def undecodable(folder: Path) -> Path:
    """`folder` with the images in it renamed to names in Latin-1."""
    for path in sorted(folder.rglob("*.png")):
        path.rename(os.fsdecode(os.fsencode(path.parent) + b"/pr\xfcfling-" + path.name.encode()))
    return folder


def test_golden_add_leaves_a_pipe_out_and_says_so(flowgauge: Shell, tmp_path: Path) -> None:
    folder = write_plain(tmp_path / "more", 1)
    os.mkfifo(folder / "pipe.png")
    done = flowgauge("golden", "add", LINE, folder, "--label", "good", "--store", tmp_path / "plant")
    assert done.code == 2
    assert "pipe.png is left out." in done.err
    assert done.out == "1 images were added to the golden set of line press-3 as good.\n"


def test_golden_add_counts_new_images_and_those_that_were_there(flowgauge: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    said = ("golden", "add", LINE, folder, "--store", tmp_path / "plant", "--label")
    for count, expected in (
        (2, ["2 images were added to the golden set of line press-3 as good."]),
        (3, ["1 images were added to the golden set of line press-3 as good.", "2 were there already."]),
    ):
        for index in range(count):
            (folder / f"{index}.png").write_bytes(png(index))
        assert flowgauge(*said, "good").out.splitlines() == expected
    assert flowgauge(*said, "defect", "--class", "dent").out.splitlines() == [
        "0 images were added to the golden set of line press-3 as defect.",
        "3 were there under another label or class, and have this one now.",
    ]


def test_golden_add_and_publish_spell_names_that_are_no_utf_8(flowgauge: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + LATIN_1))
    path.write_bytes(png(100))
    broken = Path(os.fsdecode(os.fsencode(folder) + b"/\xe9.png"))
    broken.write_bytes(b"")
    done = flowgauge("golden", "add", LINE, folder, "--label", "good", "--store", tmp_path / "plant")
    assert done.code == 2
    assert r"\xe9.png is left out. The image is empty" in done.err
    for json_too in ((), ("--json",)):
        assert r"\xfcfling-00.png" in flowgauge("golden", "list", LINE, "--store", tmp_path / "plant", *json_too).out
    [event] = events_of([path], folder, LINE)
    assert event.image_id == r"pr\xfcfling-00.png"


def test_publish_takes_a_file_of_any_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(100))
    for seconds in (-(2**31), 2**33):
        os.utime(path, (seconds, seconds))
        assert events_of([path], tmp_path, LINE)[0].captured_at.timestamp() == path.stat().st_mtime


@pytest.mark.parametrize("command", ["evaluate", "check-data"])
def test_commands_over_a_data_set_write_names_that_are_no_utf_8(flowgauge: Shell, tmp_path: Path, command: str) -> None:
    data = undecodable(write_mvtec(tmp_path / "data", train=9, test_good=2, defects={}))
    out = tmp_path / "out.json"
    done = flowgauge(command, data, "--json", out, *{"evaluate": ["--size", 64]}.get(command, []))
    assert "Traceback" not in done.err
    assert done.code == 0, done.err
    assert r"pr\xfcfling-000.png" in json.dumps(json.loads(out.read_text()), ensure_ascii=False).replace("\\\\", "\\")


def test_features_are_kept_under_names_that_are_no_utf_8(tmp_path: Path) -> None:
    root = undecodable(write_mvtec(tmp_path, train=3, test_good=1, defects={}))
    data = BenchmarkData(root, None, None, None, Model(), Device.CPU, tmp_path, silent)
    before, first = data.images_sha256, data.entries[0].path
    first.rename(first.with_name(f"other-{first.name}"))
    assert replace(data).images_sha256 != before


def test_a_mistake_about_a_folder_whose_name_is_no_utf_8_is_reported(flowgauge: Shell, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gut\xe9"))
    folder.mkdir()
    done = flowgauge("golden", "add", LINE, folder, "--label", "good", "--store", tmp_path / "plant")
    assert done.code == 2
    assert r"gut\xe9" in done.err


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name and b"/" not in name and name not in (b".", b"..")))
def test_any_file_name_is_text_for_ids_terminals_and_json(name: bytes) -> None:
    path = Path(os.fsdecode(name))
    text = path_text(path)
    assert text.encode().decode() == text == spelled(str(path))
    assert json.loads(as_json({str(path): [str(path)]})) == {text: [text]}
