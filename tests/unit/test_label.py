"""What an inspector says of a verdict: found in topic or archive, kept as golden, for one half to train."""

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest

from flowgauge.domain.errors import UserError
from flowgauge.domain.golden import Label
from flowgauge.domain.messages import VERDICTS, Verdict
from flowgauge.domain.object_keys import image_object
from flowgauge.domain.ports import Record
from flowgauge.processors.archive import Archive
from flowgauge.registry.golden_sets import add_golden, golden_set, training_defects
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.services.golden import find_verdict, label_verdict
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
