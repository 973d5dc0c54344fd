"""Snapshots on the worker's own disk, under the SHA-256 of their manifest."""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

_KEPT = 256  # snapshots of a dozen megabytes each; more lines than that share their workers' disks seldom
_MANIFEST, _WEIGHTS = ".json", ".safetensors"


class SnapshotFolder:
    """Keeps the `kept` snapshots that were used last. What cannot be written or read here is as if it were not kept:
    the object store has it."""

    def __init__(self, root: Path, kept: int = _KEPT) -> None:
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
        """The manifest last: where it is, the snapshot is whole."""
        with suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            path = self._root / digest
            _write(path.with_suffix(_WEIGHTS), weights)
            _write(path.with_suffix(_MANIFEST), manifest)
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        manifests = sorted(self._root.glob(f"*{_MANIFEST}"), key=lambda path: path.stat().st_mtime)
        for manifest in manifests[: -self._kept]:
            manifest.unlink(missing_ok=True)
            manifest.with_suffix(_WEIGHTS).unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
