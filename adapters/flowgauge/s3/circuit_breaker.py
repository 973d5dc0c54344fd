"""Giving a store that is away a rest: after one call has waited for it in vain, the next ones do not wait as well."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from flowgauge.domain.errors import Unavailable

_REST_SECONDS = 5.0  # shorter than any caller's pause between tries that fail


class Breaker:
    """Open for 5 seconds after a call has given up. The first call after that is a trial, and while it lasts the
    others still find it open. `now` gives seconds that never fall. Safe to use from several threads.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = Lock()
        self._reason: Unavailable | None = None
        self._closes_at = 0.0
        self._on_trial = False

    @contextmanager
    def call(self, gave_up: Callable[[Unavailable], bool]) -> Iterator[bool]:
        """Around one call; yields whether it is a trial, which is to try only once.

        Raises what the last call gave up with while open. An `Unavailable` that comes out of the call opens it where
        `gave_up` says so; anything else shows a store that answers, and closes it.
        """
        trial = self._enter()
        reason: Unavailable | None = None
        answered = False
        try:
            yield trial
            answered = True
        except Unavailable as error:
            reason = error if gave_up(error) else None
            answered = reason is None
            raise
        except Exception:
            answered = True
            raise
        finally:
            self._leave(trial, reason, answered)

    def _enter(self) -> bool:
        with self._lock:
            if self._reason is None:
                return False
            if self._on_trial or self._now() < self._closes_at:
                raise type(self._reason)(self._reason.cause, self._reason.remedy)
            self._on_trial = True
            return True

    def _leave(self, trial: bool, reason: Unavailable | None, answered: bool) -> None:
        with self._lock:
            if trial:
                self._on_trial = False
            if reason is not None:
                self._reason, self._closes_at = reason, self._now() + _REST_SECONDS
            elif answered:
                self._reason = None
