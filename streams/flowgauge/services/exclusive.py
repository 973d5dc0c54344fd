"""One person at a time, whatever process serves each."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.ports import State

# of a holder that ends in between: less, and it runs out under one whose store is slow; more only keeps others waiting
_LEASE_SECONDS = 20.0
# for whoever comes second: less, and two quick labels of one image get in each other's way
_WAIT_SECONDS = 10.0
_PAUSE_SECONDS = 0.02  # between two tries: less asks the state all the time, more is felt at each label


@contextmanager
def exclusive(state: State, key: str) -> Iterator[None]:
    """Nobody else holds `key` meanwhile. Raises `Unavailable` where somebody does for ten seconds."""
    owner, deadline = uuid4().hex, time.monotonic() + _WAIT_SECONDS
    while not state.lease(key, owner, _LEASE_SECONDS):
        if time.monotonic() >= deadline:
            raise Unavailable("Somebody else is changing this.", "Try again in a moment.")
        time.sleep(_PAUSE_SECONDS)
    try:
        yield
    finally:
        state.release(key, owner)
