"""The in-process runner: sources, scoring, what is downstream of it, and adaptation, in one process."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from threading import Event, Thread, current_thread, get_native_id, main_thread
from typing import Protocol

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import IMAGES
from flowgauge.runtime.worker import OnUnavailable, Worker

_POLL_SECONDS = 0.02  # what an image waits at most for a runner that is idle
_NICE = 10  # adaptation gets the processor time that scoring leaves
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Source(Protocol):
    def publish(self, limit: int) -> int:
        """Append at most `limit` image events that are ready; how many there were."""

    def awaited(self) -> bool:
        """Whether what is there now may still become an event, or must still be tidied up after."""


class Housekeeping(Protocol):
    def tidy(self) -> None:
        """Called often, between two batches: delete what nobody needs any more, when it is time to."""


@dataclass(frozen=True)
class Plant:
    """What a runner runs. `alone` is held while it does, so that no second one works on the same store."""

    sources: Sequence[Source]
    scoring: Worker
    downstream: Sequence[Worker]
    adaptation: Worker
    housekeeping: Sequence[Housekeeping]
    alone: Callable[[], AbstractContextManager[None]]
    unavailable: OnUnavailable
    stopping: Event
    backlog: int

    @property
    def workers(self) -> tuple[Worker, ...]:
        return (self.scoring, *self.downstream, self.adaptation)


class Runner:
    """`run` streams until it is told to stop; `run_until_idle` works off what is there, in a fixed order.

    `run` uses three threads: scoring with its sources, what reads verdicts, and adaptation, which scoring never waits
    for. An exception in any of them stops the others and is raised by `run`, so that a process never goes on half.
    """

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._failures: list[BaseException] = []

    def stop(self) -> None:
        """Finish the batches in hand, flush and return from `run`. May be called from any thread or signal handler.

        An adaptation that is under way is given up, and begins anew at the next start.
        """
        self._plant.stopping.set()

    def run(self) -> None:
        """Stream until `stop`, SIGINT or SIGTERM; then what was scored is alerted and archived.

        Raises `UserError` when another runner works on the store.
        """
        with self._plant.alone(), _stopping_on_signals(self.stop):
            loops = (self._stream, self._derive, self._adapt)
            threads = [Thread(target=self._guarded, args=(loop,), name=loop.__name__) for loop in loops]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if self._failures:
                raise self._failures[0]
            self._drain()

    def run_until_idle(self) -> None:
        """Publish, score, derive and adapt in turn until nothing is left, in this thread alone. May be repeated.

        Raises the `Unavailable` that holds a worker up rather than waiting for its end.
        """
        with self._plant.alone():
            while self._turn() or self._awaited():
                pass
            self._drain()

    def _awaited(self) -> bool:
        """After a rest, since whatever is awaited takes its time."""
        awaited = any(source.awaited() for source in self._plant.sources) and not self._plant.stopping.is_set()
        if awaited:
            self._rest()
        return awaited

    def _turn(self) -> int:
        done = self._publish()
        for worker in self._plant.workers:
            done += _step(worker)
        self._tidy()
        return done

    def _drain(self) -> None:
        self._plant.scoring.flush()
        for worker in self._plant.downstream:
            while _step(worker):
                pass
            worker.flush()

    def _stream(self) -> None:
        while not self._plant.stopping.is_set():
            if not self._publish() + self._plant.scoring.step():
                self._rest()

    def _derive(self) -> None:
        while not self._plant.stopping.is_set():
            done = sum(worker.step() for worker in self._plant.downstream)
            self._tidy()
            if not done:
                self._rest()

    def _adapt(self) -> None:
        os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICE)
        while not self._plant.stopping.is_set():
            if not self._plant.adaptation.step():
                self._rest()

    def _rest(self) -> None:
        self._plant.stopping.wait(_POLL_SECONDS)

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            self._failures.append(error)
        finally:
            self.stop()

    def _publish(self) -> int:
        """Take images only while scoring keeps up, so that a full folder does not fill the log."""
        try:
            count = 0
            room = self._plant.backlog - self._plant.scoring.lag()
            for source in self._plant.sources:
                count += source.publish(room - count) if room > count else 0
            return count
        except Unavailable as error:
            self._plant.unavailable(IMAGES, error)
            return 0

    def _tidy(self) -> None:
        try:
            for housekeeper in self._plant.housekeeping:
                housekeeper.tidy()
        except Unavailable as error:
            self._plant.unavailable("housekeeping", error)


def _step(worker: Worker) -> int:
    """One step that does not hide why it did nothing."""
    done = worker.step()
    if worker.error is not None:
        raise worker.error
    return done


@contextmanager
def _stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Only the main thread can be told of signals; elsewhere whoever runs the runner stops it."""
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop()) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
