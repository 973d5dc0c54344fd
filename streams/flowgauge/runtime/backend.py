"""One place where a plant's lines live: their log, their objects and their state, behind ports."""

from dataclasses import dataclass
from typing import Self

from flowgauge.domain.ports import Clock, Log, Objects, State


@dataclass(frozen=True)
class Store:
    """A context manager: what it holds is closed at the end. `uri` is what a person typed to open it."""

    uri: str
    log: Log
    objects: Objects
    state: State
    clock: Clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for part in (self.log, self.state):
            part.close()
