"""When to try again what failed because something is away."""

from datetime import datetime, timedelta

from flowgauge.domain.ports import Clock

FIRST_PAUSE = timedelta(seconds=0.1)
# longer, and work waits for a server that is back; shorter, and all workers of a plant together hold up its recovery
LONGEST_PAUSE = timedelta(seconds=10)


class Backoff:
    """The pause doubles from `FIRST_PAUSE` to `LONGEST_PAUSE` while attempts fail; one that succeeds resets it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._resume_at: datetime | None = None
        self._pause = FIRST_PAUSE

    @property
    def pausing(self) -> bool:
        # Read once, since another thread may reset it. A clock that was set back prolongs no pause, so one that
        # seems longer than the longest is over.
        resume_at = self._resume_at
        return resume_at is not None and timedelta() < resume_at - self._clock.now() <= LONGEST_PAUSE

    def failed(self) -> None:
        # of attempts made side by side the first failure counts, or four uploads would skip four pauses at once
        if not self.pausing:
            self._resume_at = self._clock.now() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def succeeded(self) -> None:
        self._resume_at, self._pause = None, FIRST_PAUSE
