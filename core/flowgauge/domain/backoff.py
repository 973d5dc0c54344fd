"""How long to wait before what failed is tried again: one rule for workers, uploads and the clients of servers."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from flowgauge.domain.ports import Clock

# Shorter, and those who wait keep a server busy that has just come back; longer, and one lost packet costs that long.
FIRST_SECONDS = 0.1
# Longer, and a server that is back stands idle for us; shorter, and a server that is away is asked for nothing.
LONGEST_SECONDS = 10.0


def waits(longest: float = LONGEST_SECONDS) -> Iterator[float]:
    """Seconds before each further try: 0.1, then twice as many each time, `longest` at most; without end."""
    seconds = FIRST_SECONDS
    while True:
        yield seconds
        seconds = min(2 * seconds, longest)


class Backoff:
    """The same waits, by `clock`, for one who does other work meanwhile and asks whether it may try again yet."""

    def __init__(self, clock: Clock, longest: float = LONGEST_SECONDS) -> None:
        self._clock = clock
        self._longest = longest
        self.succeeded()

    def succeeded(self) -> None:
        self._waits = waits(self._longest)
        self._resume_at: datetime | None = None

    def failed(self) -> None:
        # of attempts made side by side the first failure counts, or four uploads would skip four waits at once
        if not self.waiting():
            self._resume_at = self._clock.now() + timedelta(seconds=next(self._waits))

    def waiting(self) -> bool:
        # read once, since another thread may reset it
        resume_at = self._resume_at
        # a clock that is set back prolongs no wait beyond the longest
        longest = timedelta(seconds=self._longest)
        return resume_at is not None and timedelta() < resume_at - self._clock.now() <= longest
