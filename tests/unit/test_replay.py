from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from flowgauge.domain.dead_letters import OFFSET, PARTITION, REPLAYED_FROM, TOPIC, dead_letter, dead_lettered, origin_of
from flowgauge.domain.messages import DEAD_LETTERS, IMAGES, VERDICTS
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.processors.scoring import Scoring
from flowgauge.registry.gauges import Gauges
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import image_record
from flowgauge.runtime.worker import Worker
from flowgauge.services.replay import Counts, DeadLetters, dead_letters, latest_dead_letters, replay, replayed_at
from tests.support.streaming import LINE, SetClock, event, fitted, load, opened, png, records, send, verdicts

ALL = DeadLetters()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return fitted(opened(tmp_path / "plant", SetClock(), partitions=2))


def score(store: Store) -> None:
    worker = Worker(Scoring(store, Gauges(store.log, store.objects, load)), store.log, store.clock, 16)
    while worker.step():
        pass
    assert worker.error is None


def kept(store: Store) -> list[Record]:
    return list(dead_letters(store.log, ALL))


def images(store: Store) -> list[Record]:
    return [record for number in range(2) for record in records(store.log, IMAGES, number)]


def claim(store: Store, data: bytes) -> Outgoing:
    """An event whose image is yet to be stored."""
    uri = store.objects.uri(f"images/{LINE}/2026-03-01/large")
    headers = {"ce_dataref": uri, "ce_datasha256": sha256(data).hexdigest(), "ce_datasize": str(len(data))}
    return Outgoing(IMAGES, LINE, b"", event("large").headers() | headers, partition=1)


def test_an_image_is_replayed_as_it_was_where_it_was_and_says_where_from(store: Store) -> None:
    store.log.append([claim(store, png(100))])
    score(store)
    assert replay(store, dead_letters(store.log, ALL), "mara") == Counts(sent=1)
    first, second = images(store)
    assert (second.partition, second.key, second.value) == (1, LINE, b"")
    assert second.headers == {**first.headers, REPLAYED_FROM: "1/0"}


def test_what_was_mended_gets_its_verdict(store: Store) -> None:
    after = replace(image_record(event("after"), png(100)), partition=1)
    store.log.append([claim(store, png(100)), after])
    score(store)
    store.objects.put(f"images/{LINE}/2026-03-01/large", png(100))
    replay(store, dead_letters(store.log, ALL), "mara")
    score(store)
    assert [(each.image_id, each.source.offset) for each in verdicts(store.log, 1)] == [("after", 1), ("large", 2)]
    assert len(kept(store)) == 1


def test_what_fails_again_becomes_a_new_dead_letter(store: Store) -> None:
    send(store, [("bad", b"no image")])
    score(store)
    replay(store, dead_letters(store.log, ALL), "mara")
    score(store)
    first, second = kept(store)
    assert first.value == second.value == b"no image"
    assert int(second.headers[OFFSET]) > int(first.headers[OFFSET])
    assert second.headers[REPLAYED_FROM] == f"{first.partition}/{first.offset}"


def test_a_letter_that_was_replayed_is_left_out_the_next_time_unless_it_is_wanted_again(store: Store) -> None:
    send(store, [("bad", b"no image")])
    score(store)
    [letter] = kept(store)
    assert replayed_at(store.state, letter) is None
    assert replay(store, dead_letters(store.log, ALL), "mara") == Counts(sent=1)
    assert replayed_at(store.state, letter) == store.clock.now()
    assert replay(store, dead_letters(store.log, ALL), "mara") == Counts(replayed=1)
    assert replay(store, dead_letters(store.log, ALL), "mara", again=True) == Counts(sent=1)


def test_replaying_twice_scores_nothing_twice(store: Store) -> None:
    store.log.append([claim(store, png(100))])
    score(store)
    store.objects.put(f"images/{LINE}/2026-03-01/large", png(100))
    for _ in range(2):
        replay(store, dead_letters(store.log, ALL), "mara", again=True)
    score(store)
    assert len(verdicts(store.log, 1)) == 1
    assert len(kept(store)) == 1


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (ALL, {"a", "b", "c"}),
        (DeadLetters(line=LINE), {"a", "b"}),
        (DeadLetters(image_id="b"), {"b"}),
        (DeadLetters(line="other", image_id="b"), set()),
    ],
)
def test_letter_are_chosen_by_line_and_image(store: Store, wanted: DeadLetters, ids: set[str]) -> None:
    send(store, [("a", b""), ("b", b"")])
    send(store, [("c", b"")], line="other")
    score(store)
    assert replay(store, dead_letters(store.log, wanted), "mara").sent == len(ids)
    assert {each.headers["ce_id"] for each in images(store) if REPLAYED_FROM in each.headers} == ids


def test_what_never_was_an_image_or_was_not_kept_is_not_sent(store: Store) -> None:
    [at] = [Record(VERDICTS, 0, 7, LINE, b"no verdict", {}, store.clock.now())]
    too_large = dead_letter(LINE, b"", event("huge").headers(), "The file has 300,000,000 bytes.")
    foreign = Outgoing(DEAD_LETTERS, LINE, b"of nobody", {TOPIC: IMAGES})
    store.log.append([dead_lettered(at, "This is no verdict."), too_large, foreign])
    assert replay(store, dead_letters(store.log, ALL), "mara") == Counts(lost=3)
    assert images(store) == []
    assert sorted(str(origin_of(letter)) for letter in kept(store)) == [
        "None",
        "None",
        "Origin(topic='verdicts', partition=0, offset=7)",
    ]


def test_a_letter_of_a_partition_that_is_gone_is_sent_to_its_lines(store: Store) -> None:
    send(store, [("late", png(100))])
    [image] = images(store)
    store.log.append(
        [replace(dead_lettered(image, "It was late."), headers={TOPIC: IMAGES, PARTITION: "7", OFFSET: "1"})]
    )
    assert replay(store, dead_letters(store.log, ALL), "mara").sent == 1
    assert len(images(store)) == 2


def test_what_comes_while_letter_are_read_waits_for_the_next_time(store: Store) -> None:
    send(store, [(str(number), b"") for number in range(20)])
    score(store)
    for letter in dead_letters(store.log, ALL):
        store.log.append([Outgoing(DEAD_LETTERS, LINE, letter.value, letter.headers, letter.partition)])
    assert len(kept(store)) == 40


def test_the_latest_are_the_newest_of_all_partitions_and_no_more(tmp_path: Path) -> None:
    clock = SetClock()
    store = opened(tmp_path / "three", clock, partitions=3)
    for number in range(40):
        store.log.append([Outgoing(DEAD_LETTERS, "even" if number % 2 else "odd", b"", partition=number % 3)])
        clock.advance(1)
    found = latest_dead_letters(store.log, 25)
    assert [letter.at for letter in found] == sorted((letter.at for letter in found), reverse=True)
    assert {(letter.partition, letter.offset) for letter in found} == {(n % 3, n // 3) for n in range(15, 40)}
    assert {letter.key for letter in latest_dead_letters(store.log, 5, "even")} == {"even"}
