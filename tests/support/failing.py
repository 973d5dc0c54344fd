"""Infrastructure that is away when a test says so: real adapters, behind a switch."""

from collections.abc import Sequence
from typing import Any

from flowgauge.domain.errors import StoreFull, Unavailable


class Failing:
    """`target`, whose `methods` raise `Unavailable` for the next `times` calls of any of them."""

    def __init__(self, target: Any, methods: Sequence[str], times: int = 1, full: bool = False) -> None:
        self._target = target
        self._methods = methods
        self.left = times
        self._full = full

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name not in self._methods:
            return attribute

        def call(*arguments: Any, **named: Any) -> Any:
            if self.left > 0:
                self.left -= 1
                raise StoreFull("No space is left.", "Free some.") if self._full else Unavailable("It is away.")
            return attribute(*arguments, **named)

        return call
