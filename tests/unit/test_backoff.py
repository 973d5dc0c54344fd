"""Waits before further tries double up to a longest one, and end early with a success."""

from itertools import islice

import pytest

from flowgauge.domain.backoff import Backoff, waits
from tests.support.streaming import SetClock


def test_waits_double_up_to_the_longest() -> None:
    assert list(islice(waits(0.5), 5)) == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_who_failed_waits_longer_each_time_and_starts_over_after_a_success() -> None:
    clock = SetClock()
    backoff = Backoff(clock)
    assert not backoff.waiting()
    for seconds in (0.1, 0.2):
        backoff.failed()
        clock.advance(seconds - 0.01)
        assert backoff.waiting()
        clock.advance(0.02)
        assert not backoff.waiting()
    backoff.failed()
    backoff.succeeded()
    assert not backoff.waiting()
    backoff.failed()
    clock.advance(0.11)
    assert not backoff.waiting()


@pytest.mark.parametrize(("back", "waits_on"), [(5, True), (60, False)])
def test_a_clock_that_is_set_back_prolongs_no_wait_beyond_the_longest(back: float, waits_on: bool) -> None:
    clock = SetClock()
    backoff = Backoff(clock)
    backoff.failed()
    clock.advance(-back)
    assert backoff.waiting() is waits_on
