"""Cameras of all lines, which go on whatever fails, and remember what they have sent."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from threading import Event, RLock, Thread
from types import TracebackType
from typing import Self

from flowgauge.domain.ports import Objects
from flowgauge.kafka.publisher import ImagePublisher
from flowgauge.settings.environment import kafka_settings
from tests.support.clusters import LINES
from tests.support.streaming import START, event, png

GOOD, BAD = 100, 170
_PER_SECOND = 5.0  # on each line


class Fate(Enum):
    PASS, REJECT, LETTER = range(3)


class Cameras:
    """A context manager: from its start on numbered images flow on every line, each line on the partition of its own,
    every tenth a reject, or as `reject_every` says; `brighter` is by how much the light of a line has changed. What was
    sent: `images`, ids in the order of each line; `rejects`, how many of them the first gauge rejects in the first
    light; `dead_letters`, ids of what must become a dead letter.
    """

    def __init__(self, objects: Objects) -> None:
        self.images: dict[str, list[str]] = {line: [] for line in LINES}
        self.rejects: Counter[str] = Counter()
        self.dead_letters: list[str] = []
        self.reject_every = 10
        self.brighter = dict.fromkeys(LINES, 0)
        self._objects = objects
        self._lock = RLock()
        self._stopping = Event()
        self._failure: BaseException | None = None
        self._publisher = ImagePublisher(kafka_settings(os.environ), objects)
        self._thread = Thread(target=self._run, name="cameras")

    def __enter__(self) -> Self:
        self._publisher.__enter__()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        self._publisher.__exit__(kind, error, at)

    @property
    def sent(self) -> int:
        """How many must have a verdict."""
        return sum(map(len, self.images.values()))

    def stop(self) -> None:
        """No image comes any more, and all are durable. Raises what kept one from being sent."""
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self._publisher.flush()

    def send(
        self,
        line: str,
        image_id: str,
        data: bytes,
        fate: Fate = Fate.PASS,
        publisher: ImagePublisher | None = None,
    ) -> None:
        """`fate` is what must become of it; `publisher`, one from `held`."""
        with self._lock:
            (publisher or self._publisher).publish(event(image_id, line, at=START), data, LINES.index(line))
            (self.dead_letters if fate is Fate.LETTER else self.images[line]).append(image_id)
            self.rejects[line] += fate is Fate.REJECT

    @contextmanager
    def held(self, inline_limit: int) -> Iterator[ImagePublisher]:
        """All others wait while a publisher with a limit of its own sends, so that there is one order."""
        with self._lock:
            self._publisher.flush()
            with ImagePublisher(kafka_settings(os.environ), self._objects, inline_limit=inline_limit) as publisher:
                yield publisher

    def _run(self) -> None:
        try:
            number = 0
            while not self._stopping.wait(1 / _PER_SECOND):
                self._round(number)
                number += 1
        except BaseException as error:
            self._failure = error

    def _round(self, number: int) -> None:
        reject = number % self.reject_every == 0
        for line in LINES:
            data = png((BAD if reject else GOOD) + self.brighter[line], seed=number, side=64)
            self.send(line, f"{number:05d}", data, Fate.REJECT if reject else Fate.PASS)
