"""Settings of glibc's memory allocator; nothing happens on other C libraries."""

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
# room at the heap's end that each growth asks for: less, and it grows more often; more, and idle memory is held
_KEPT_BYTES = 256 * 2**20


def share_one_heap() -> None:
    """Have all threads use the main thread's heap: to be called before there are others.

    A heap of another thread gives its pages back whenever the block at its end is freed, and faults them in again for
    the next batch: a model lost a quarter of its speed to that, and what each heap held at its worst added up.
    """
    _call("mallopt", _M_ARENA_MAX, 1)


@cache
def keep_freed_memory() -> None:
    """Keep what is freed: without it the page faults of every batch's activations cost a CPU more than the arithmetic
    does (36 against 91 images per second was measured).
    """
    for name, value in {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: _KEPT_BYTES}.items():
        _call("mallopt", name, value)


def give_back_freed_memory() -> None:
    """Return to the system what is free now: after a phase whose activations the next one has no use for."""
    _call("malloc_trim", 0)


def _call(function: str, *arguments: int) -> None:
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), function):
        getattr(libc, function)(*arguments)
