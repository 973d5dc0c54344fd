"""What every log keeps to."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest

from flowgauge.domain.messages import IMAGES, VERDICTS
from flowgauge.domain.ports import Clock, Log, Outgoing
from flowgauge.kafka.log import KafkaLog
from flowgauge.kafka.settings import KafkaSettings
from flowgauge.kafka.topics import Plan, Topics
from flowgauge.local import SystemClock
from flowgauge.local.log import LocalLog

Opener = Callable[[Path, Clock], Log]


def local(root: Path, clock: Clock) -> Log:
    return LocalLog(root / "log.db", clock, partitions=3)


def kafka(bootstrap: str) -> Opener:
    def open_log(root: Path, clock: Clock) -> Log:
        settings = KafkaSettings(bootstrap=bootstrap, prefix=f"{root.parent.name}.{root.name}.")
        with Topics(settings) as topics:
            topics.create(Plan(partitions=3))
        return KafkaLog(settings, clock)

    return open_log


@pytest.fixture(params=["local", "kafka"])
def opener(request: pytest.FixtureRequest) -> Opener:
    return local if request.param == "local" else kafka(request.getfixturevalue("kafka_bootstrap"))


@pytest.fixture
def log(opener: Opener, tmp_path: Path) -> Iterator[Log]:
    log = opener(tmp_path, SystemClock())
    yield log
    log.close()


def to(partition: int, value: bytes = b"x", topic: str = IMAGES) -> Outgoing:
    return Outgoing(topic, "a", value, {"ce_id": "1"}, partition)


def test_what_is_appended_is_read_in_order_with_all_that_it_carries(log: Log) -> None:
    began = datetime.now(UTC)
    log.append([to(1, b"first"), to(1, b"")])
    first, second = log.read(IMAGES, 1, 0, 10)
    assert began - timedelta(milliseconds=1) <= first.at <= second.at <= datetime.now(UTC)
    assert (first.topic, first.partition, first.offset, first.key) == (IMAGES, 1, 0, "a")
    assert (first.value, first.headers) == (b"first", {"ce_id": "1"})
    assert second.value == b""
    assert second.offset > first.offset


def test_the_bounds_of_a_topic_are_those_of_each_of_its_partitions(log: Log) -> None:
    log.append([to(1), to(1), to(1)])
    partitions = range(log.partitions(IMAGES))
    assert log.bounds(IMAGES) == [(log.begin(IMAGES, number), log.end(IMAGES, number)) for number in partitions]
    assert log.bounds(IMAGES)[1] == (0, 3)


def test_an_empty_partition_has_nothing_to_read_and_ends_at_0(log: Log) -> None:
    assert log.read(IMAGES, 0, 0, 10) == []
    assert log.end(IMAGES, 0) == 0


def test_a_partition_begins_with_the_first_record_that_is_left_and_a_topic_keeps_its_id(log: Log) -> None:
    assert log.begin(IMAGES, 1) == 0
    known = log.topic_id(IMAGES)
    log.append([to(1)] * 3)
    assert (log.begin(IMAGES, 1), log.topic_id(IMAGES), log.partitions(IMAGES)) == (0, known, 3)


def test_a_read_starts_at_its_offset_and_stops_at_its_limit(log: Log) -> None:
    log.append([to(0, bytes([number])) for number in range(5)])
    assert [record.value[0] for record in log.read(IMAGES, 0, 1, 3)] == [1, 2, 3]
    assert log.read(IMAGES, 0, 5, 3) == []
    assert log.read(IMAGES, 0, 0, 0) == []


def test_topics_and_partitions_are_apart(log: Log) -> None:
    log.append([to(0), to(1), to(0, topic=VERDICTS)])
    assert [log.end(topic, partition) for topic, partition in ((IMAGES, 0), (IMAGES, 1), (VERDICTS, 0))] == [1, 1, 1]


def test_a_key_always_falls_on_the_same_partition(log: Log) -> None:
    log.append([Outgoing(IMAGES, key, b"") for key in ("a", "b", "c", "a")])
    patches = [
        (record.key, partition)
        for partition in range(log.partitions(IMAGES))
        for record in log.read(IMAGES, partition, 0, 9)
    ]
    assert len(patches) == 4
    assert len(set(patches)) == 3


def test_a_group_goes_on_where_it_committed_and_others_do_not(log: Log) -> None:
    log.commit("archive", VERDICTS, 0, 7)
    assert log.position("archive", VERDICTS, 0) == 7
    assert log.position("alerting", VERDICTS, 0) == 0
    assert log.position("archive", VERDICTS, 1) == 0


def test_a_commit_may_go_back(log: Log) -> None:
    log.commit("archive", VERDICTS, 0, 7)
    log.commit("archive", VERDICTS, 0, 3)
    assert log.position("archive", VERDICTS, 0) == 3


def test_what_was_appended_and_committed_is_there_after_reopening(opener: Opener, tmp_path: Path) -> None:
    log = opener(tmp_path, SystemClock())
    log.append([to(2, b"kept")])
    log.commit("scoring", IMAGES, 2, 1)
    log.close()
    again = opener(tmp_path, SystemClock())
    assert again.read(IMAGES, 2, 0, 9)[0].value == b"kept"
    assert again.position("scoring", IMAGES, 2) == 1
    again.close()


def test_appends_of_several_threads_neither_mix_nor_get_lost(log: Log) -> None:
    def append(thread: int) -> None:
        for batch in range(10):
            log.append([to(0, bytes([thread, batch, part])) for part in range(3)])

    threads = [Thread(target=append, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    values = [record.value for record in log.read(IMAGES, 0, 0, 1_000)]
    assert len(values) == 120
    assert all(values[i : i + 3] == [bytes([*values[i][:2], part]) for part in range(3)] for i in range(0, 120, 3))
