"""Whether a worker gets on: a supervisor can start one anew that has ended, and none that only looks alive."""

from collections.abc import Callable, Mapping
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


class Progress:
    """Whether the offset of a partition in which records wait still rises."""

    def __init__(self, limit_seconds: float, now: Callable[[], float] = monotonic) -> None:
        self._limit = limit_seconds
        self._now = now
        self._position = -1
        self._since = now()

    def at(self, position: int, waiting: int) -> bool:
        """To be told now and then; False when `waiting` records have waited at `position` for the limit."""
        if position != self._position or not waiting:
            self._position, self._since = position, self._now()
        return self._now() - self._since < self._limit


class Watchdog:
    """A context manager: while it lasts, a thread of its own calls `on_stall(name, seconds)` once a pulse has been
    silent for `limit_seconds`. The processors' threads and the event loop may hang; this one does not."""

    def __init__(self, pulses: Mapping[str, Pulse], limit_seconds: float, on_stall: Callable[[str, float], None]):
        self._pulses = pulses
        self._limit = limit_seconds
        self._on_stall = on_stall
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._limit / 4)):
            for name, pulse in self._pulses.items():
                if pulse.silent_seconds > self._limit:
                    self._on_stall(name, pulse.silent_seconds)
                    return
