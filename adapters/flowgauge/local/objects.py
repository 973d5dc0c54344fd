"""Objects as files below one directory, which may be moved; and a worker's own copies of snapshots."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from time import time
from uuid import uuid4

from flowgauge.domain.errors import ObjectTooLarge, Unavailable, UserError
from flowgauge.local.file_system import named_faults

_SCHEME = "store:///"
_UNFINISHED = ".unfinished"
# Shorter takes a file from a writer on a slow disk; longer leaves more behind for a while.
_ABANDONED_SECONDS = 3_600
# Of a dozen megabytes each: more fill a worker's disk, fewer are fetched again where more lines share it.
_KEPT_SNAPSHOTS = 256
_MANIFEST, _WEIGHTS = ".json", ".safetensors"


class LocalObjects:
    """`uri` of an object is `store:///` and its name. Names that would climb out of `root` raise `KeyError`.

    A put is durable once it has returned: file and folder are synced. Tags are not kept. What a killed writer left
    half-written lies in a folder of its own until `sweep`. Raises `UserError` for a `root` that can be no folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        with named_faults(root):
            try:
                (root / _UNFINISHED).mkdir(parents=True, exist_ok=True)
            except (FileNotFoundError, NotADirectoryError) as error:
                # Below a file or in /proc no folder can be made, however often it is tried.
                raise UserError(
                    f"{root} cannot be used: {error.strerror}.", "Name a directory as the store."
                ) from error

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
                with unfinished.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished.replace(path)
                # A rename is durable only once the folder that holds the new name is.
                descriptor = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            finally:
                unfinished.unlink(missing_ok=True)
        return self.uri(name)

    def get(self, name: str, at_most: int | None = None) -> bytes:
        path = self._path(name)
        with _translated(path), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if at_most is not None and size > at_most:
                raise ObjectTooLarge(f"{name} has {size} bytes.", f"At most {at_most} are read.")
            return file.read()

    def size(self, name: str) -> int:
        path = self._path(name)
        with _translated(path), path.open("rb") as file:  # unlike stat, refuses folders
            return os.fstat(file.fileno()).st_size

    def get_range(self, name: str, start: int, length: int) -> bytes:
        path = self._path(name)
        with _translated(path), path.open("rb") as file:
            return os.pread(file.fileno(), length, start)

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


class SnapshotFolder:
    """Snapshots on the worker's own disk, under the SHA-256 of their manifest: the `kept` that were used last. What
    cannot be written or read here is as if it were not kept: the object store has it.
    """

    def __init__(self, root: Path, kept: int = _KEPT_SNAPSHOTS) -> None:
        self._root = root
        self._kept = kept

    def get(self, digest: str) -> tuple[bytes, bytes] | None:
        """Manifest and weights; None where they are not here whole. The weights' own hash is in the manifest."""
        path = self._root / digest
        with suppress(OSError):
            manifest = path.with_suffix(_MANIFEST).read_bytes()
            weights = path.with_suffix(_WEIGHTS).read_bytes()
            os.utime(path.with_suffix(_MANIFEST))
            if sha256(manifest).hexdigest() == digest:
                return manifest, weights
        return None

    def put(self, digest: str, manifest: bytes, weights: bytes) -> None:
        with suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            # The manifest last: where it is, the snapshot is whole.
            for suffix, data in ((_WEIGHTS, weights), (_MANIFEST, manifest)):
                path = (self._root / digest).with_suffix(suffix)
                unfinished = path.with_name(f"{path.name}.{uuid4().hex}")
                try:
                    unfinished.write_bytes(data)
                    unfinished.replace(path)
                finally:
                    unfinished.unlink(missing_ok=True)
            manifests = sorted(self._root.glob(f"*{_MANIFEST}"), key=lambda path: path.stat().st_mtime)
            for path in manifests[: -self._kept]:
                path.unlink(missing_ok=True)
                path.with_suffix(_WEIGHTS).unlink(missing_ok=True)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        with named_faults(path):
            yield
    except Unavailable as fault:
        if isinstance(fault.__cause__, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            raise KeyError(path.name) from fault
        raise
