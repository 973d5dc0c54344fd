"""Word from the kernel of what changes below a folder, where the file system gives it."""

from pathlib import Path

from watchfiles._rust_notify import (
    RustNotify,  # documented; its iterator would need a thread and waits for bursts to end
)

from flowgauge.local.file_system import file_system, is_network

_FSTAB = Path("/etc/fstab")
_AT_ONCE_MS = 1  # longer holds scoring up; 0 would wait without end


class FolderWatch:
    """Collects the paths that change below `folder`. One that cannot watch says why in `reason`, and finds nothing."""

    def __init__(self, folder: Path) -> None:
        self._notify: RustNotify | None = None
        self.reason = ""
        kind = file_system(folder)
        if is_network(kind) or kind.startswith("fuse"):  # others may write there, of whom this kernel does not know
            self.reason = f"{folder} lies on a share ({kind}), whose changes no kernel reports"
            return
        try:
            self._notify = RustNotify([str(folder)], False, False, 0, True, True)
        except OSError as error:  # too many watches, or a file system without them
            self.reason = f"the system does not watch {folder} ({error})"

    @property
    def works(self) -> bool:
        return self._notify is not None

    def changed(self) -> set[str]:
        """Paths, also of what has gone, since the last call."""
        if self._notify is None:
            return set()
        found = self._notify.watch(_AT_ONCE_MS, _AT_ONCE_MS, _AT_ONCE_MS, None)
        return {path for _, path in found} if isinstance(found, set) else set()

    def close(self) -> None:
        if self._notify is not None:
            self._notify.close()
            self._notify = None


def missing_mount(folder: Path) -> Path | None:
    """The place at or above `folder` where /etc/fstab wants something mounted and nothing is."""
    wanted = {Path(point) for point, _ in _rows(_FSTAB)}
    return next((above for above in _at_and_above(folder) if above in wanted and not above.is_mount()), None)


def _at_and_above(folder: Path) -> list[Path]:
    above = folder.resolve()
    return [above, *above.parents]


def _rows(table: Path) -> list[tuple[str, str]]:
    """Mount point and type, the last one of a place last. A table that is not there (another system) is empty."""
    if not table.exists():
        return []
    fields = (line.split() for line in table.read_text(errors="surrogateescape").splitlines())
    rows = (each for each in fields if len(each) >= 3 and not each[0].startswith("#"))
    return [(each[1].replace("\\040", " "), each[2]) for each in rows]
