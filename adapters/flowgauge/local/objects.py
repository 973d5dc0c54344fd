"""Objects as files below one directory, which may be moved: their addresses do not name it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from uuid import uuid4

from flowgauge.domain.errors import Unavailable
from flowgauge.local.faults import named_faults

_SCHEME = "store:///"
_UNFINISHED = ".unfinished"
_ABANDONED_SECONDS = 3_600


class LocalObjects:
    """`uri` of an object is `store:///` and its name. Names that would climb out of `root` raise `KeyError`.

    A put is durable once it has returned: file and folder are synced. Tags are not kept. What a killed writer left
    half-written lies in a folder of its own until `sweep`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        with _translated(root):
            (root / _UNFINISHED).mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        """Remove what killed writers left; what is younger than an hour may still be written."""
        for path in (self._root / _UNFINISHED).iterdir():
            with suppress(FileNotFoundError):  # finished meanwhile
                if time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def put(self, name: str, data: bytes, tags: Mapping[str, str] | None = None) -> str:
        path = self._path(name)
        unfinished = self._root / _UNFINISHED / uuid4().hex
        with _translated(path):
            try:
                _write(unfinished, data)
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished.replace(path)
                _sync_folder(path.parent)
            finally:
                unfinished.unlink(missing_ok=True)
        return self.uri(name)

    def get(self, name: str) -> bytes:
        path = self._path(name)
        with _translated(path):
            return path.read_bytes()

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def names(self, prefix: str) -> Iterator[str]:
        folder = self._root / prefix.rpartition("/")[0]
        found = (path.relative_to(self._root).as_posix() for path in folder.rglob("*") if path.is_file())
        return iter(sorted(name for name in found if name.startswith(prefix) and not name.startswith(_UNFINISHED)))

    def delete(self, name: str) -> None:
        path = self._path(name)
        with _translated(path):
            path.unlink(missing_ok=True)

    def uri(self, name: str) -> str:
        return _SCHEME + name

    def name(self, uri: str) -> str:
        name = uri.removeprefix(_SCHEME)
        if name == uri:
            raise KeyError(uri)
        self._path(name)
        return name

    def _path(self, name: str) -> Path:
        segments = name.split("/")
        if any(segment in ("", ".", "..", _UNFINISHED) or "\0" in segment for segment in segments):
            raise KeyError(name)
        return self._root.joinpath(*segments)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """A rename is durable only once the folder that holds the new name is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        with named_faults(path):
            yield
    except Unavailable as fault:
        if isinstance(fault.__cause__, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            raise KeyError(path.name) from fault
        raise
