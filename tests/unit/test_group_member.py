"""A member of a group: where partitions begin, what of a fetch is carried, and what may be committed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, cast

import pytest

from flowgauge.domain.errors import AuthenticationFailed, Unavailable
from flowgauge.domain.messages import ADAPTATIONS, IMAGES
from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.runtime.backend import Store
from flowgauge.runtime.group_member import Member, by_partition
from flowgauge.runtime.processor import Processor
from tests.support.failing import Failing
from tests.support.streaming import SetClock, opened, png, records, send

PARTITION = (IMAGES, 0)


class Echo(Processor):
    """Answers each image with a record that carries its offset; starts after its last answer."""

    name = "echo"
    inputs = (IMAGES,)

    def __init__(self, store: Store) -> None:
        self._store = store

    def start_offset(self, topic: str, partition: int, committed: int) -> int:
        return self._store.log.end(ADAPTATIONS, 0)

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        return [Outgoing(ADAPTATIONS, record.key, str(record.offset).encode()) for record in records]

    def committable_offset(self, topic: str, partition: int, read: int) -> int:
        return read - read % 2


class Mixing(Processor):
    """Answers each image in its own partition; takes those of all together."""

    name = "mixing"
    inputs = (IMAGES,)
    mixes_partitions = True

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        return [Outgoing(ADAPTATIONS, each.key, b"answer", partition=each.partition) for each in records]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = opened(tmp_path / "plant", SetClock())
    send(store, [(str(number), png(100)) for number in range(6)])
    return store


@pytest.fixture
def member(store: Store) -> Member:
    return Member(lambda: Echo(store), store.log, store.clock)


def fetched(store: Store, first: int, count: int) -> list[Record]:
    return store.log.read(IMAGES, 0, first, count)


def echoed(store: Store) -> list[int]:
    return [int(record.value) for record in records(store.log, ADAPTATIONS)]


def test_an_assignment_starts_where_the_processor_says_and_not_where_was_committed(
    store: Store, member: Member
) -> None:
    assert member.assigned({PARTITION: 4}) == {PARTITION: 0}
    member.take(fetched(store, 0, 3))
    assert member.assigned({PARTITION: 0}) == {PARTITION: 3}


def test_what_was_carried_before_is_not_carried_again(store: Store, member: Member) -> None:
    member.assigned({PARTITION: 0})
    assert member.take(fetched(store, 0, 3)) == 3
    assert member.take(fetched(store, 1, 4)) == 2
    assert member.take(fetched(store, 0, 2)) == 0
    assert echoed(store) == [0, 1, 2, 3, 4]


def test_a_fetch_that_is_ahead_of_its_turn_is_passed_over_and_what_is_missing_is_reported(
    store: Store, member: Member
) -> None:
    member.assigned({PARTITION: 0})
    member.take(fetched(store, 0, 2))
    assert member.take(fetched(store, 4, 2)) == 0
    assert member.rewinds() == {PARTITION: 2}
    assert member.take(fetched(store, 2, 4)) == 4
    assert not member.rewinds()
    assert echoed(store) == [0, 1, 2, 3, 4, 5]


def test_a_gap_that_the_log_has_too_holds_nothing_up(store: Store) -> None:
    member = Member(lambda: Echo(store), Compacted(store, first=3), store.clock)
    member.assigned({PARTITION: 0})
    assert member.take(fetched(store, 3, 3)) == 3
    assert echoed(store) == [3, 4, 5]


class Compacted:
    """The store's log as if compaction had taken the images before offset `first`."""

    def __init__(self, store: Store, first: int) -> None:
        self._log = store.log
        self._first = first

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        return self._log.read(topic, partition, max(offset, self._first), limit)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


def test_records_of_a_partition_that_is_not_assigned_are_passed_over(store: Store, member: Member) -> None:
    member.assigned({})
    assert member.take(fetched(store, 0, 3)) == 0
    assert echoed(store) == []
    assert member.committable_offset(PARTITION) is None


def test_only_what_loses_nothing_may_be_committed(store: Store, member: Member) -> None:
    member.assigned({PARTITION: 0})
    assert member.committable_offset(PARTITION) == 0
    member.take(fetched(store, 0, 5))
    assert member.committable_offset(PARTITION) == 4


@pytest.mark.parametrize("method", ["append", "read"])
def test_it_insists_while_something_is_away_and_repeats_nothing(store: Store, method: str) -> None:
    troubles: list[str] = []
    log = Failing(store.log, [method], times=0)
    member = Member(
        lambda: Echo(store), log, store.clock, unavailable=lambda name, error: troubles.append(f"{name}: {error}")
    )
    member.assigned({PARTITION: 0})
    log.left = 2
    member.take(fetched(store, 0, 3) if method == "append" else fetched(store, 1, 2))
    assert troubles == ["echo: It is away."] * 2
    assert echoed(store) == ([0, 1, 2] if method == "append" else [])


def test_a_stop_ends_the_insisting(store: Store) -> None:
    stopping = Event()
    log = Failing(store.log, ["append"], times=1_000)
    member = Member(lambda: Echo(store), log, store.clock, stopping=stopping)
    member.assigned({PARTITION: 0})
    member.stop()
    with pytest.raises(Unavailable):
        member.take(fetched(store, 0, 3))
    assert echoed(store) == []


def test_a_fetch_is_split_by_partition_in_order(store: Store) -> None:
    first, second, third = fetched(store, 0, 3)
    other = replace(second, partition=1)
    assert by_partition([first, other, third]) == {PARTITION: [first, third], (IMAGES, 1): [other]}


def test_a_log_that_no_longer_admits_us_is_seen_while_nothing_comes(store: Store) -> None:
    class Refusing:
        def end(self, topic: str, partition: int) -> int:
            raise AuthenticationFailed("The password no longer fits.")

    member = Member(lambda: Echo(store), cast(Log, Refusing()), store.clock)
    with pytest.raises(AuthenticationFailed, match="no longer fits"):
        member.probe()


def test_a_log_that_is_away_is_reported_and_not_waited_for(store: Store) -> None:
    reported: list[str] = []
    log = Failing(store.log, ["end"], times=2)
    member = Member(lambda: Echo(store), log, store.clock, unavailable=lambda name, error: reported.append(name))
    for _ in range(3):
        member.probe()
    assert reported == ["echo", "echo"]


def test_a_batch_asks_for_the_offset_of_its_own_partition_and_the_next_second_for_all(tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting(Echo):
        def committable_offset(self, topic: str, partition: int, read: int) -> int:
            asked.append(partition)
            return read

    store = opened(tmp_path / "two", SetClock(), partitions=2)
    store.log.append([Outgoing(IMAGES, "a", b"", partition=number) for number in (0, 0, 1)])
    member = Member(lambda: Counting(store), store.log, store.clock)
    member.assigned({(IMAGES, 0): 0, (IMAGES, 1): 0})
    member.take(fetched(store, 0, 2))
    assert asked == [0]
    assert member.committable_offset((IMAGES, 0)) == 2
    assert member.committable_offset((IMAGES, 1)) == 0
    member.punctuate()
    assert sorted(asked) == [0, 0, 1]


def test_partitions_that_are_taken_together_are_each_held_to_their_own_order(tmp_path: Path) -> None:
    store = opened(tmp_path / "two", SetClock(), partitions=2)
    store.log.append([Outgoing(IMAGES, "a", b"", partition=number % 2) for number in range(6)])
    first, second = (store.log.read(IMAGES, number, 0, 3) for number in (0, 1))
    member = Member(Mixing, store.log, store.clock)
    member.assigned({(IMAGES, 0): 0, (IMAGES, 1): 0})
    fetch = [first[0], second[1], first[1], second[2]]
    assert member.batches(fetch) == [fetch]
    assert member.take(fetch) == 2, "offset 0 of the second partition is missing"
    assert member.rewinds() == {(IMAGES, 1): 0}
    assert [member.committable_offset((IMAGES, number)) for number in (0, 1)] == [2, 0]
    assert member.take([*second, *first]) == 4
    assert not member.rewinds()
    assert [member.committable_offset((IMAGES, number)) for number in (0, 1)] == [3, 3]


def test_a_partition_without_a_leader_does_not_have_what_others_got_written_again_and_again(tmp_path: Path) -> None:
    two = opened(tmp_path / "two", SetClock(), partitions=2)

    class Leaderless:
        """Appends to partition 0, and to partition 1 from the fifth time on."""

        times = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(two.log, name)

        def append(self, records: Sequence[Outgoing]) -> None:
            there = [each for each in records if each.partition == 0]
            if len(there) < len(records):
                self.times += 1
            two.log.append(records if self.times > 4 else there)
            if len(there) < len(records) and self.times <= 4:
                raise Unavailable("Partition 1 has no leader.", "Wait.")

    two.log.append([Outgoing(IMAGES, "a", b"", partition=number) for number in (0, 1)])
    stopping = Hurrying()
    member = Member(Mixing, cast(Log, Leaderless()), two.clock, stopping=stopping)
    member.assigned({(IMAGES, 0): 0, (IMAGES, 1): 0})
    assert member.take([*two.log.read(IMAGES, 0, 0, 1), *two.log.read(IMAGES, 1, 0, 1)]) == 2
    assert [two.log.end(ADAPTATIONS, number) for number in (0, 1)] == [2, 1]


class Hurrying(Event):
    """Is waited for by nobody."""

    def wait(self, timeout: float | None = None) -> bool:
        return False
