"""Trying again: at growing, random distances, so that many who wait do not come back as one wave."""

from collections.abc import Callable
from random import uniform
from time import monotonic, sleep
from typing import TypeVar

from flowgauge.s3.faults import FAULTS, transient

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0  # longer, and a store that is back stands idle for it

T = TypeVar("T")


def with_retries(attempt: Callable[[], T], seconds: float) -> T:
    """What `attempt` returns; a transient fault of it is tried again unless the next try would begin after `seconds`.

    `attempt` must be repeatable. The last fault is raised as it is.
    """
    deadline = monotonic() + seconds
    longest = _FIRST_PAUSE_SECONDS
    while True:
        pause = uniform(longest / 2, longest)
        try:
            return attempt()
        except FAULTS as fault:
            if not transient(fault) or monotonic() + pause > deadline:
                raise
        sleep(pause)
        longest = min(2 * longest, _LONGEST_PAUSE_SECONDS)
