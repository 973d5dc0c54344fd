"""What a failing disk is called."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowgauge.domain.errors import StoreFull, Unavailable

READ_ONLY_REMEDY = "Mount it for writing (one with errors becomes read-only by itself), and the work goes on by itself."
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def read_only(path: Path) -> bool:
    """Whether the file system of `path`, in a folder that exists, is mounted so: SQLite does not say it."""
    try:
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:  # a folder that is away is another fault, which the caller names
        return False


@contextmanager
def named_faults(path: Path) -> Iterator[None]:
    """Turns every `OSError` of the block into `StoreFull` or `Unavailable`, naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StoreFull(f"No space is left for {path}.", "Free some, and the work goes on by itself.") from error
        if error.errno == errno.EROFS:
            raise Unavailable(f"{path} lies on a read-only file system.", READ_ONLY_REMEDY) from error
        raise Unavailable(f"{path} cannot be used: {error.strerror}.", "Check the disk and its rights.") from error
