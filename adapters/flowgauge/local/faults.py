"""What a failing disk is called."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowgauge.domain.errors import StoreFull, Unavailable

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def named_faults(path: Path) -> Iterator[None]:
    """Turns every `OSError` of the block into `StoreFull` or `Unavailable`, naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StoreFull(f"No space is left for {path}.", "Free some, and the work goes on by itself.") from error
        raise Unavailable(f"{path} cannot be used: {error.strerror}.", "Check the disk and its rights.") from error
