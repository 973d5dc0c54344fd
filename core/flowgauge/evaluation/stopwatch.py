"""Times of works that are compared: they take turns, so that what else the machine does falls on all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch

# Rounds before the first that counts: kernels are chosen, memory is allocated. Fewer, and that is counted.
WARM_UPS = 3

Item = TypeVar("Item")
Clock = Callable[[], float]
Work = Callable[[], object]


@dataclass(frozen=True)
class Stopwatch:
    """`clock` gives seconds. Work on a GPU has ended when its time is taken."""

    clock: Clock
    device: str

    def in_turns(self, works: Mapping[Item, Work], repeats: int) -> dict[Item, list[float]]:
        """Milliseconds of each work in each of so many rounds, in which each has its turn."""
        for _ in range(WARM_UPS):
            for work in works.values():
                work()
        found: dict[Item, list[float]] = {name: [] for name in works}
        for _ in range(repeats):
            for name, work in works.items():
                self._synchronise()
                start = self.clock()
                work()
                self._synchronise()
                found[name].append(1000 * (self.clock() - start))
        return found

    def _synchronise(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()  # a kernel runs on after its call has returned


def rate(items: int, milliseconds: Sequence[float]) -> float:
    """Items a second, by the median time of all of them."""
    return 1000 * items / median(milliseconds)
