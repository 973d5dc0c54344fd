"""A store that is away is waited for once, and then left alone for a while."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event

import pytest

from flowgauge.domain.errors import StoreFull, Unavailable
from flowgauge.s3.bucket import Breaker

AWAY = Unavailable("It is away.", "Start it.")


class SetSeconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> SetSeconds:
    return SetSeconds()


@pytest.fixture
def breaker(seconds: SetSeconds) -> Breaker:
    return Breaker(seconds)


def attempt(breaker: Breaker, trials: list[bool], error: Exception | None = None) -> None:
    """One call, which notes whether it is a trial, and raises `error` if there is one."""
    with breaker.call(lambda error: not isinstance(error, StoreFull)) as trial:
        trials.append(trial)
        if error is not None:
            raise error


def fails(breaker: Breaker, error: Exception = AWAY) -> bool:
    """Whether the call was a trial; one that finds the breaker open is not made at all."""
    trials: list[bool] = []
    with pytest.raises(type(error)):
        attempt(breaker, trials, error)
    assert trials, "it was open"
    return trials[0]


def succeeds(breaker: Breaker) -> bool:
    """Whether the call was a trial."""
    trials: list[bool] = []
    attempt(breaker, trials)
    return trials[0]


def is_open(breaker: Breaker) -> bool:
    trials: list[bool] = []
    with suppress(Unavailable):
        attempt(breaker, trials)
    return not trials


def test_a_call_that_gave_up_spares_those_of_the_next_five_seconds(breaker: Breaker, seconds: SetSeconds) -> None:
    assert fails(breaker) is False
    assert is_open(breaker)
    seconds.now = 4.9
    assert is_open(breaker)
    seconds.now = 5.0
    assert succeeds(breaker) is True
    assert succeeds(breaker) is False


def test_what_finds_it_open_is_reported_what_the_last_call_gave_up_with(breaker: Breaker) -> None:
    fails(breaker)
    with pytest.raises(Unavailable, match=r"It is away\. Start it\."):
        attempt(breaker, [])


def test_a_trial_that_fails_begins_another_rest(breaker: Breaker, seconds: SetSeconds) -> None:
    fails(breaker)
    seconds.now = 6
    assert fails(breaker) is True
    seconds.now = 10.9
    assert is_open(breaker)
    seconds.now = 11
    assert not is_open(breaker)


def test_what_does_not_pass_by_itself_does_not_open_it(breaker: Breaker) -> None:
    fails(breaker, StoreFull("No space is left."))
    assert succeeds(breaker) is False


def test_an_answer_of_any_kind_closes_it(breaker: Breaker, seconds: SetSeconds) -> None:
    fails(breaker)
    seconds.now = 5
    assert fails(breaker, KeyError("a")) is True
    assert succeeds(breaker) is False


def test_a_trial_that_is_interrupted_leaves_the_next_one_to_try(breaker: Breaker, seconds: SetSeconds) -> None:
    fails(breaker)
    seconds.now = 5
    with pytest.raises(KeyboardInterrupt), breaker.call(lambda error: True):
        raise KeyboardInterrupt
    assert succeeds(breaker) is True


def test_while_one_thread_tries_the_others_do_not_wait(breaker: Breaker, seconds: SetSeconds) -> None:
    fails(breaker)
    seconds.now = 5
    tries, done = Event(), Event()

    def trial() -> bool:
        with breaker.call(lambda error: True) as is_trial:
            tries.set()
            assert done.wait(10)
        return is_trial

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(trial)
        assert tries.wait(10)
        try:
            assert all(is_open(breaker) for _ in range(3))
        finally:
            done.set()
        assert first.result() is True
    assert not is_open(breaker)
