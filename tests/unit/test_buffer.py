import json
from dataclasses import replace
from datetime import timedelta

import numpy as np

from flowgauge.domain.buffer import to_evict, uris_by_name
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.ports import Buffered
from tests.support.streaming import START, hash_bits

NOW = START + timedelta(seconds=500)


def buffered(number: int, fingerprint: str | None = None, seconds: float | None = None) -> Buffered:
    at = START + timedelta(seconds=number if seconds is None else seconds)
    bits = f"{hash_bits(number):016x}" if fingerprint is None else fingerprint
    return Buffered("shared", str(number), "ab", at, 1.0, "pass", bits)


def settings(**changes: object) -> LineSettings:
    return LineSettings().changed(buffer_minimum=1, **changes)


def test_an_entry_of_a_version_that_knows_more_is_read() -> None:
    newer = json.loads(buffered(1).encode()) | {"colour": "grey"}
    assert Buffered.decode(json.dumps(newer)) == buffered(1)


def test_an_empty_buffer_loses_nothing() -> None:
    assert to_evict([], settings(), NOW) == []


def test_the_oldest_leave_a_buffer_that_is_too_large() -> None:
    assert to_evict([buffered(number) for number in range(5)], settings(buffer_size=3), NOW) == ["0", "1"]


def test_what_is_older_than_the_maximum_age_before_the_newest_leaves() -> None:
    entries = [buffered(0, seconds=0), buffered(1, seconds=10), buffered(2, seconds=11)]
    assert to_evict(entries, settings(buffer_max_age_seconds=5), NOW) == ["0"]


def test_of_views_that_look_alike_the_newest_stay() -> None:
    entries = [buffered(number, "00000000000000ff") for number in range(5)]
    assert to_evict(entries, settings(near_duplicates=2), NOW) == ["0", "1", "2"]


def test_views_look_alike_up_to_the_distance_that_was_set() -> None:
    entries = [buffered(0, "0000000000000000"), buffered(1, "0000000000000007")]
    assert to_evict(entries, settings(near_duplicates=1, duplicate_distance=3), NOW) == ["0"]
    assert to_evict(entries, settings(near_duplicates=1, duplicate_distance=2), NOW) == []


def test_a_motionless_belt_does_not_push_out_what_passed_before() -> None:
    passed = [buffered(number) for number in range(10)]
    ranking = [buffered(number, "00000000000000ff") for number in range(10, 500)]
    gone = to_evict([*passed, *ranking], settings(buffer_size=100, near_duplicates=5), NOW)
    assert {str(number) for number in range(10)}.isdisjoint(gone)
    assert len(gone) == 490 - 5


def test_images_without_a_fingerprint_look_like_nothing_else() -> None:
    assert to_evict([buffered(number, "") for number in range(5)], settings(near_duplicates=1), NOW) == []


def test_images_are_named_by_their_ids_and_by_where_they_lie_if_they_share_one() -> None:
    alone, first, second = buffered(1), buffered(2), buffered(3)
    assert uris_by_name([replace(alone, image_id="alone"), first, second]) == {"alone": "1", "2": "2", "3": "3"}


def test_an_image_stays_unless_as_many_newer_ones_that_stay_look_like_it() -> None:
    # 600 images of a few products whose views differ by some bits: more than are compared at once
    rng = np.random.default_rng(0)
    products = rng.integers(2**63, size=12, dtype=np.uint64)
    noise = np.bitwise_or.reduce(np.uint64(1) << rng.integers(64, size=(600, 3), dtype=np.uint64), axis=1)
    bits = products[rng.integers(12, size=600)] ^ noise
    gone = {
        int(name)
        for name in to_evict(
            [buffered(number, f"{value:016x}", seconds=number / 2) for number, value in enumerate(bits)],
            settings(buffer_size=600, near_duplicates=20, duplicate_distance=4, buffer_max_age_seconds=10_000),
            NOW,
        )
    }
    assert 0 < len(gone) < 600
    for number in range(600):
        newer = [other for other in range(number + 1, 600) if other not in gone]
        alike = sum(int(bits[number] ^ bits[other]).bit_count() <= 4 for other in newer)
        assert (number in gone) == (alike >= 20)
