"""The in-process runner: sources, scoring, what is downstream of it, and adaptation, in one process."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event, Thread, current_thread, main_thread
from typing import Protocol

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import ALERTS, DEAD_LETTERS, IMAGES, PART_VERDICTS, SHADOW_VERDICTS, VERDICTS
from flowgauge.domain.ports import Clock, Log
from flowgauge.runtime.roles import ADAPTATION_NICE, lower_priority
from flowgauge.runtime.worker import OnUnavailable, Worker

# what an image waits at most for a runner that is idle; shorter, and an idle runner keeps a core busy
_POLL_SECONDS = 0.02
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# longer, and consumed images fill the disk meanwhile; shorter, and SQLite is busy with deletions
_TRIM_INTERVAL = timedelta(seconds=10)
# Records that stay after all have read them. Fewer verdicts than scoring's window of duplicates (10,000), and a restart
# scores what was sent twice; fewer part verdicts than are remembered (10,000), and late views make second parts; fewer
# dead letters, which hold whole images, and there is no time to repair them.
_KEPT = {VERDICTS: 100_000, PART_VERDICTS: 100_000, SHADOW_VERDICTS: 100_000, ALERTS: 100_000, DEAD_LETTERS: 1_000}


class Source(Protocol):
    def publish(self, limit: int) -> int:
        """Append at most `limit` image events that are ready; how many there were."""

    def awaited(self) -> bool:
        """Whether what is there now may still become an event, or must still be tidied up after."""


class LogTrimming:
    """Keeps an embedded log from growing for ever: trims each partition below what all the `groups` (name -> topics)
    that read it have committed. Images go at once: their objects remain."""

    def __init__(
        self, log: Log, clock: Clock, groups: Mapping[str, Sequence[str]], trim: Callable[[str, int, int], None]
    ) -> None:
        self._log = log
        self._clock = clock
        self._groups = groups
        self._trim = trim
        self._last: datetime | None = None

    def tidy(self) -> None:
        now = self._clock.now()
        if self._last is not None and abs(now - self._last) < _TRIM_INTERVAL:
            return
        self._last = now
        for topic in (IMAGES, *_KEPT):
            readers = [name for name, inputs in self._groups.items() if topic in inputs]
            for partition in range(self._log.partitions(topic)):
                kept_from = self._log.end(topic, partition) - _KEPT.get(topic, 0)
                before = min([kept_from, *(self._log.position(name, topic, partition) for name in readers)])
                if before > 0:
                    self._trim(topic, partition, before)


@dataclass(frozen=True)
class RunnerConfig:
    """What a runner runs. Each of `housekeeping` is called often, between two batches: it deletes what nobody needs any
    more, when it is time to. `alone` is held while a runner runs, so that no second one works on the same store;
    `backlog` is how many images may wait in the log before sources are asked for more."""

    sources: Sequence[Source]
    scoring: Worker
    downstream: Sequence[Worker]
    adaptation: Worker
    housekeeping: Sequence[Callable[[], None]]
    alone: Callable[[], AbstractContextManager[None]]
    unavailable: OnUnavailable
    stopping: Event
    backlog: int


class Runner:
    """`run` streams until it is told to stop; `run_until_idle` works off what is there, in a fixed order.

    `run` uses three threads: scoring with its sources, what reads verdicts, and adaptation, which scoring never waits
    for. An exception in any of them stops the others and is raised by `run`, so that a process never goes on half.
    """

    def __init__(self, config: RunnerConfig) -> None:
        self._config = config
        self._failures: list[BaseException] = []

    def stop(self) -> None:
        """Finish the batches in hand, flush and return from `run`. May be called from any thread or signal handler.

        An adaptation that is under way is given up, and begins anew at the next start.
        """
        self._config.stopping.set()

    def run(self) -> None:
        """Stream until `stop`, SIGINT or SIGTERM; then what was scored is alerted and archived.

        Raises `UserError` when another runner works on the store.
        """
        config = self._config
        with config.alone(), _stopping_on_signals(self.stop):
            threads = [
                Thread(target=self._loop, args=(lambda: self._publish() + config.scoring.step(),), name="scoring"),
                Thread(target=self._loop, args=(self._downstream,), name="downstream"),
                Thread(target=self._loop, args=(config.adaptation.step, ADAPTATION_NICE), name="adaptation"),
            ]
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
        config = self._config
        with config.alone():
            while True:
                done = self._publish()
                for worker in (config.scoring, *config.downstream, config.adaptation):
                    done += _step(worker)
                self._tidy()
                if done:
                    continue
                if config.stopping.is_set() or not any(source.awaited() for source in config.sources):
                    break
                config.stopping.wait(_POLL_SECONDS)
            self._drain()

    def _loop(self, step: Callable[[], int], nice: int = 0) -> None:
        """Repeat `step` until the runner stops, with a rest whenever there was nothing to do."""
        try:
            lower_priority(nice)()
            while not self._config.stopping.is_set():
                if not step():
                    self._config.stopping.wait(_POLL_SECONDS)
        except BaseException as error:
            self._failures.append(error)
        finally:
            self.stop()

    def _downstream(self) -> int:
        done = sum(worker.step() for worker in self._config.downstream)
        self._tidy()
        return done

    def _drain(self) -> None:
        # scoring first: what it flushes is what alerts and archive are made of
        self._config.scoring.flush()
        for worker in self._config.downstream:
            while _step(worker):
                pass
            worker.flush()

    def _publish(self) -> int:
        """Take images only while scoring keeps up, so that a full folder does not fill the log."""
        try:
            count = 0
            room = self._config.backlog - self._config.scoring.lag()
            for source in self._config.sources:
                count += source.publish(room - count) if room > count else 0
            return count
        except Unavailable as error:
            self._config.unavailable(IMAGES, error)
            return 0

    def _tidy(self) -> None:
        try:
            for tidy in self._config.housekeeping:
                tidy()
        except Unavailable as error:
            self._config.unavailable("housekeeping", error)


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
