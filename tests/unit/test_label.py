"""What an inspector says of a verdict: found in topic or archive, kept as golden, for one half to train."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest

from flowgauge.domain.errors import Unavailable, UserError
from flowgauge.domain.golden import Label
from flowgauge.domain.messages import VERDICTS, Verdict
from flowgauge.domain.object_keys import image_object
from flowgauge.domain.ports import Record
from flowgauge.processors.archive import Archive
from flowgauge.registry.golden_sets import add_golden, golden_set, hold_out_pictures, training_defects
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.services.golden import find_verdict, golden_of, label_verdict, unlabel
from flowgauge.services.review import review_queue
from tests.support.failing import Failing
from tests.support.gauges import goods, line, png
from tests.support.shell import Shell
from tests.support.streaming import START, SetClock, append_verdicts, opened, verdict


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return opened(tmp_path / "plant", SetClock())


def judged(store: Store, offset: int, *, kept: bool = True) -> Verdict:
    """A verdict whose image is stored, if `kept`."""
    data, image_id = png(line().good(offset).pixels), f"part-{offset}"
    uri = store.objects.put(image_object("a", START, image_id), data) if kept else None
    found = verdict(
        offset, image_id, line="a", verdict_id=uuid4(), image_sha256=sha256(data).hexdigest(), image_uri=uri
    )
    append_verdicts(store.log, [found])
    return found


def quiet(what: str, done: int, total: int) -> None:
    """No progress to look at."""


def test_a_verdict_is_found_in_the_topic_and_in_the_archive_alone(store: Store, tmp_path: Path) -> None:
    wanted = [judged(store, offset) for offset in range(5)][2]
    assert find_verdict(store, wanted.verdict_id, quiet) == wanted
    worker = Worker(Archive(store, 8), store.log, store.clock, 5)
    while worker.step():
        pass
    worker.flush()
    with opened(tmp_path / "empty", SetClock()) as empty:
        for name in store.objects.names("verdicts/"):
            empty.objects.put(name, store.objects.get(name))
        assert empty.log.end(VERDICTS, 0) == 0
        assert find_verdict(empty, wanted.verdict_id, quiet) == wanted


def test_a_topic_that_has_let_go_of_its_beginning_is_searched_no_further(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka answers with the oldest record that is left, whatever older offset is asked for."""
    verdicts = [verdict(offset, f"part-{offset}", line="a", verdict_id=uuid4()) for offset in range(600)]
    append_verdicts(store.log, verdicts)
    kept, reads = verdicts[580:], list[int]()
    whole = store.log.read

    def read(topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        reads.append(offset)
        return whole(topic, partition, max(offset, 580), limit)

    monkeypatch.setattr(store.log, "read", read)
    assert find_verdict(store, kept[0].verdict_id, quiet) == kept[0]
    reads.clear()
    with pytest.raises(UserError, match="no verdict"):
        find_verdict(store, uuid4(), quiet)
    assert reads == [344, 88], "the last page, and one that shows that nothing is left"


def test_an_unknown_verdict_is_said(store: Store) -> None:
    judged(store, 0)
    with pytest.raises(UserError, match="no verdict"):
        find_verdict(store, uuid4(), quiet)


def test_labels_at_once_leave_an_image_under_one_of_them(store: Store) -> None:
    for offset in range(20):
        found = judged(store, offset)
        with ThreadPoolExecutor(2) as people:
            for label in Label:
                people.submit(label_verdict, store, found, label, "", "mara")
    assert len(list(golden_set(store.objects, "a"))) == 20


def test_a_label_that_was_changed_halfway_is_one_again_once_the_change_is_repeated_or_taken_back(store: Store) -> None:
    for again in (lambda found: label_verdict(store, found, Label.GOOD, "", "mara"), lambda found: None):
        found = judged(store, 0)
        label_verdict(store, found, Label.DEFECT, "dent", "mara")
        deleting = replace(store, objects=Failing(store.objects, ["delete"], 1))
        with pytest.raises(Unavailable):
            label_verdict(deleting, found, Label.GOOD, "", "mara")
        assert len(list(golden_set(store.objects, "a"))) == 2
        again(found)
        unlabel(store, found, "mara")
        assert not list(golden_set(store.objects, "a"))


def test_an_image_of_a_long_id_keeps_its_label_and_its_half(store: Store) -> None:
    for number in range(6):
        image_id = f"Линия 3/хорошие детали/смена ночная/{number:04d}.png"
        found = judged(store, number).model_copy(update={"image_id": image_id})
        labelled = label_verdict(store, found, Label.DEFECT, "", "mara").golden
        known = golden_of(store.objects, found)
        assert known is not None
        assert (known.name, known.is_hold_out) == (labelled.name, labelled.is_hold_out)
        assert review_queue(store.objects, "a", [found]).items[0].golden == known
        label_verdict(store, found, Label.GOOD, "", "mara")
        assert [each.label for each in golden_set(store.objects, "a")] == [Label.GOOD]
        unlabel(store, found, "mara")
        assert not list(golden_set(store.objects, "a"))


@pytest.mark.parametrize("kind", ["裂" * 21, "~" * 64])
def test_a_class_that_would_be_cut_off_is_refused(store: Store, kind: str) -> None:
    found = judged(store, 0)
    with pytest.raises(UserError, match="too long for the name of a class"):
        label_verdict(store, found, Label.DEFECT, kind, "mara")
    kept = label_verdict(store, found, Label.DEFECT, kind[:20], "mara").golden_set
    assert [each.kind for each in kept] == [kind[:20]]


def test_a_label_is_not_that_of_another_cameras_image_of_the_same_id(store: Store) -> None:
    left, right = judged(store, 0), judged(store, 1).model_copy(update={"image_id": "part-0"})
    label_verdict(store, left, Label.DEFECT, "dent", "mara")
    assert [each.golden is None for each in review_queue(store.objects, "a", [left, right]).items] == [False, True]
    unlabel(store, right, "mara")
    label_verdict(store, right, Label.GOOD, "", "mara")
    unlabel(store, right, "mara")
    kept = golden_of(store.objects, left)
    assert kept is not None
    assert (kept.label, kept.kind) == (Label.DEFECT, "dent")


def test_golden_images_that_get_another_label_while_they_are_read_are_passed_over(store: Store) -> None:
    for number in range(12):
        add_golden(store.objects, "a", Label.DEFECT, f"golden-{number}", png(line().good(number).pixels))
    held = [each for each in golden_set(store.objects, "a") if each.is_hold_out]
    pictures = hold_out_pictures(store.objects, "a", Label.DEFECT)
    next(pictures)
    last = held[-1]
    add_golden(store.objects, "a", Label.DEFECT, last.image_id, store.objects.get(last.name), "dent")
    assert len(list(pictures)) == len(held) - 2


def test_defects_of_one_half_train_with_their_classes(store: Store) -> None:
    names = [f"golden-{number}" for number in range(12)]
    for number, name in enumerate(names):
        add_golden(store.objects, "a", Label.DEFECT, name, png(line().good(number).pixels), f"kind {number % 2}")
    add_golden(store.objects, "a", Label.GOOD, "another", png(line().good(20).pixels))
    expected = {each.image_id: each.kind for each in golden_set(store.objects, "a") if not each.is_hold_out}
    expected.pop("another", None)
    found = list(training_defects(store.objects, "a"))
    assert 0 < len(found) < 12
    assert sorted(kind for _, kind in found) == sorted(expected.values())


@pytest.fixture
def plant(tmp_path: Path) -> tuple[Path, list[Verdict]]:
    with opened(tmp_path / "store", SetClock()) as store:
        return tmp_path / "store", [judged(store, 0), judged(store, 1, kept=False)]


def test_labelling_a_verdict_makes_its_image_golden_once(flowgauge: Shell, plant: tuple[Path, list[Verdict]]) -> None:
    root, (first, _) = plant
    for said in (("defect", "--class", "scratch"), ("defect", "--class", "scratch"), ("defect", "--class", "dent")):
        done = flowgauge("label", str(first.verdict_id), *said, "--store", root)
        assert done.code == 0, done.err
    assert "part-0 of line a is now golden, defect (dent)" in done.out
    listed = flowgauge("golden", "list", "a", "--store", root, "--json").json
    assert [(each["image_id"], each["label"], each["class"]) for each in listed] == [("part-0", "defect", "dent")]
    reported = flowgauge("label", str(first.verdict_id), "good", "--store", root, "--json").json
    assert (reported["label"], reported["class"], reported["golden"]) == ("good", "", 1)


def test_what_cannot_be_labelled_is_said(flowgauge: Shell, plant: tuple[Path, list[Verdict]]) -> None:
    root, (first, lost) = plant
    mistakes = {
        "was not kept": (str(lost.verdict_id), "defect"),
        "no verdict": (str(uuid4()), "good"),
        "no class of defect": (str(first.verdict_id), "good", "--class", "dent"),
    }
    for said, arguments in mistakes.items():
        done = flowgauge("label", *arguments, "--store", root)
        assert done.code == 2
        assert said in done.err
    with opened(root, SetClock()) as store:
        store.objects.put(image_object("a", START, "part-0"), png(goods(range(1))[0].pixels[::-1]))
    done = flowgauge("label", str(first.verdict_id), "good", "--store", root)
    assert done.code == 2
    assert "not the image that was scored" in done.err
