"""At most one runner works on a local store at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowgauge.domain.errors import StoreBusy
from flowgauge.local.faults import named_faults


@contextmanager
def only_runner(path: Path) -> Iterator[None]:
    """Hold `path` as long as the block runs; the kernel lets go of it however the process ends.

    Raises `StoreBusy` that names the process which holds it, and `StoreFull` where there is no room for its name.
    """
    with named_faults(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _held(path) from error
    with named_faults(path):
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())


def _held(path: Path) -> StoreBusy:
    holder = path.read_text() or "unknown"
    return StoreBusy(
        f"Another runner (process {holder}) works on {path.parent}.", "Stop it first, or use another --store."
    )
