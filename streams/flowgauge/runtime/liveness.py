"""Whether a worker gets on: a supervisor can start one anew that has ended, and none that only looks alive."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

# shorter, and a large batch or an adaptation step is taken for a stall; longer, and images wait for a worker that hangs
STALL_SECONDS = 300.0


class Pulse:
    """Signs of life of one processor, from any thread."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._last = now()

    def beat(self) -> None:
        self._last = self._now()

    @property
    def silent_seconds(self) -> float:
        return self._now() - self._last


class Progress(Pulse):
    """Whether the offset of a partition in which records wait still rises."""

    def __init__(self, limit_seconds: float, now: Callable[[], float] = monotonic) -> None:
        super().__init__(now)
        self._limit = limit_seconds
        self._position = -1

    def at(self, position: int, waiting: int) -> bool:
        """To be told now and then; False when `waiting` records have waited at `position` for the limit."""
        if position != self._position or not waiting:
            self._position = position
            self.beat()
        return self.silent_seconds < self._limit


@contextmanager
def watchdog(
    pulses: Mapping[str, Pulse], limit_seconds: float, on_stall: Callable[[str, float], None]
) -> Iterator[None]:
    """While it lasts, a thread of its own calls `on_stall(name, seconds)` once a pulse has been silent for the limit.
    The processors' threads and the event loop may hang; this one does not."""
    ended = Event()

    def watch() -> None:
        # four looks within the limit, so that it is missed by a quarter at most; more often gains nothing
        while not ended.wait(min(1.0, limit_seconds / 4)):
            for name, pulse in pulses.items():
                if pulse.silent_seconds > limit_seconds:
                    on_stall(name, pulse.silent_seconds)
                    return

    thread = Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
