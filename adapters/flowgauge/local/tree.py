"""The image files below a folder, whatever moves, vanishes or cannot be read, and the kernel's reports of changes."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Documented; its iterator would need a thread and waits for bursts to end.
from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from flowgauge.domain.image_files import named_as_image, unread_format
from flowgauge.local.file_system import file_system, is_network

_LATER = "The others go on; it is tried again."
# Longer holds scoring up; 0 would wait without end.
_AT_ONCE_MS = 1

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Signature:
    """What tells a file from a later state of it. Times in nanoseconds; `changed_ns` moves with rights too, and nobody
    can set it. The inode is left out: some shares invent another one at every `stat`.
    """

    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> "Signature":
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


class Notices:
    """Says of each path once what is wrong with it, and again only after it was well in between."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._said: dict[str, str] = {}

    def about(self, path: str, message: str) -> None:
        if self._said.get(path) != message:
            self._said[path] = message
            self._tell(message)

    def over(self, path: str) -> bool:
        """Forget what was wrong with `path`; whether something was."""
        return self._said.pop(path, None) is not None


@dataclass
class _Walk:
    """What a walk has come by: folders and files as (device, inode), and links, which it follows last. One that is not
    `whole` leaves out files and folders that are `known` and does not follow links: it does not know what else leads
    there.
    """

    whole: bool
    known: Callable[[str], bool] = lambda path: False
    visited: set[tuple[int, int]] = field(default_factory=set)
    file_numbers: set[tuple[int, int]] = field(default_factory=set)
    folder_links: list[str] = field(default_factory=list)
    file_links: list[str] = field(default_factory=list)


class Tree:
    """Lists image files below `root`, by names relative to it. Hidden files and folders are left out.

    Linked folders and files are followed, each target once, and under its own name where it lies below `root` too; a
    link to a folder that holds `root` is passed over, and reported; so are images in other formats. What cannot be read
    is reported too, and tried again at the next listing.
    """

    def __init__(self, root: Path, notices: Notices) -> None:
        self._root = str(root)
        self._notices = notices
        self._folders: dict[str, int] = {}
        self._links: set[str] = set()
        self.stale = False
        """Whether something was found that only the next listing can follow."""

    def name(self, path: str) -> str:
        """`path` below the root with slashes; bytes that are no UTF-8 are spelled out, since an id is text."""
        relative = os.path.relpath(path, self._root).replace(os.sep, "/")
        return os.fsencode(relative).decode(errors="backslashreplace")

    def files(self) -> Iterator[tuple[str, Signature]]:
        """Every image file below the root: path and signature."""
        self._folders, self._links, self.stale = {}, set(), False
        yield from self._all([self._root], _Walk(whole=True))

    def fresh_files(self, known: Callable[[str], bool]) -> Iterator[tuple[str, Signature]]:
        """Files that are not `known` (by path) in folders whose list of names has changed since they were listed."""
        changed = []
        for folder, listed_ns in self._folders.items():
            try:
                is_as_listed = Path(folder).stat().st_mtime_ns == listed_ns
            except OSError:
                # The listing that follows says what is wrong.
                is_as_listed = False
            if not is_as_listed:
                changed.append(folder)
        if changed:
            yield from self._all(changed, _Walk(whole=False, known=known))

    def files_at(self, start: str) -> Iterator[tuple[str, Signature]]:
        """The file at `start`, or the files below that folder; nothing for what is none, or hidden. What lies behind a
        link that no listing has followed yet is left to the next one.
        """
        relative = Path(os.path.relpath(start, self._root))
        path = str(Path(self._root) / relative)
        if any(part.startswith(".") for part in relative.parts):
            return
        if Path(path).is_symlink():
            self.stale |= path not in self._links
        elif str(Path(path).parent) in self._folders or Path(path).resolve() == Path(self._root).resolve() / relative:
            facts = self._stat(path)
            if facts is not None and stat.S_ISDIR(facts.st_mode):
                yield from self._all([path], _Walk(whole=False))
            elif facts is not None and self._is_image(path, facts):
                yield path, Signature.of(facts)

    def signature(self, path: str) -> Signature | None:
        """The file's present one; None where there is no image file, or it cannot be read."""
        facts = self._stat(path)
        return Signature.of(facts) if facts is not None and self._is_image(path, facts) else None

    def _all(self, folders: list[str], walk: _Walk) -> Iterator[tuple[str, Signature]]:
        """Links last, so that what can be reached in two ways has the name that does not depend on a link."""
        for folder in folders:
            yield from self._below(folder, walk)
        while walk.folder_links:
            links, walk.folder_links = sorted(walk.folder_links), []
            for link in links:
                root, target = os.path.realpath(self._root), os.path.realpath(link)
                if os.path.commonpath([root, target]) == target:
                    self._notices.about(
                        f"{link} around", f"The link {link} leads to a folder that holds {self._root}: passed over."
                    )
                else:
                    yield from self._below(link, walk)
        for link in sorted(walk.file_links):
            facts = self._stat(link)
            if facts is None or not self._is_image(link, facts):
                continue
            number = (facts.st_dev, facts.st_ino)
            if number not in walk.file_numbers:
                walk.file_numbers.add(number)
                yield link, Signature.of(facts)

    def _below(self, top: str, walk: _Walk) -> Iterator[tuple[str, Signature]]:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            was_known = folder in self._folders
            for entry in self._entered(folder, walk):
                if _is_folder(entry):
                    if walk.whole or not was_known or entry.path not in self._folders:
                        waiting.append(entry.path)
                elif entry.is_symlink():
                    self._link(entry.path, walk)
                elif named_as_image(entry.name) and not walk.known(entry.path):
                    facts = self._stat(entry.path)
                    if facts is not None and self._is_image(entry.path, facts):
                        walk.file_numbers.add((facts.st_dev, facts.st_ino))
                        yield entry.path, Signature.of(facts)
                else:
                    self._report_other_format(entry.path)

    def _entered(self, folder: str, walk: _Walk) -> list[os.DirEntry[str]]:
        """What lies in `folder` and is not hidden, the first time that a walk comes there."""
        facts = self._stat(folder)
        if facts is None or (facts.st_dev, facts.st_ino) in walk.visited:
            return []
        walk.visited.add((facts.st_dev, facts.st_ino))
        self._folders[folder] = facts.st_mtime_ns
        # Not the notice of `_stat`, which may well be able to look at the folder itself.
        notice = f"{folder}/"
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".")]
        except FileNotFoundError:
            # It went while its parent was listed: nothing to tell.
            return []
        except OSError as error:
            self._folders.pop(folder, None)
            self._notices.about(notice, f"{folder} cannot be listed: {error.strerror}. {_LATER}")
            return []
        self._notices.over(notice)
        return found

    def _report_other_format(self, path: str) -> None:
        if suffix := unread_format(path):
            self._notices.about(
                f"*{suffix}",
                f"Files that end in {suffix} are passed over. Save images as PNG, JPEG, BMP or TIFF.",
            )

    def _link(self, path: str, walk: _Walk) -> None:
        if not walk.whole:
            self.stale |= path not in self._links
            return
        self._links.add(path)
        facts = self._stat(path)
        if facts is not None and stat.S_ISDIR(facts.st_mode):
            walk.folder_links.append(path)
        elif facts is not None and named_as_image(path):
            walk.file_links.append(path)

    def _is_image(self, path: str, facts: os.stat_result) -> bool:
        """A pipe or a device by that name, which is said, would hold its reader up for ever."""
        if named_as_image(path) and not stat.S_ISREG(facts.st_mode):
            self._notices.about(f"{path} kind", f"{path} is no regular file, and is passed over.")
            return False
        return named_as_image(path)

    def _stat(self, path: str) -> os.stat_result | None:
        try:
            facts = Path(path).stat()
        except FileNotFoundError:
            if Path(path).is_symlink():
                self._notices.about(path, f"The link {path} leads nowhere. It is tried again.")
            return None
        except OSError as error:
            self._notices.about(path, f"{path} cannot be looked at: {error.strerror}. {_LATER}")
            return None
        self._notices.over(path)
        return facts


class FolderWatch:
    """Collects the paths that change below `folder`. One that cannot watch, or can no longer, says why in `reason`, and
    finds nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notify: RustNotify | None = None
        self.reason = ""
        kind = file_system(folder)
        # Others may write there, of whom this kernel does not know.
        if is_network(kind) or kind.startswith("fuse"):
            self.reason = f"{folder} lies on a share ({kind}), whose changes no kernel reports"
            return
        try:
            self._notify = RustNotify([str(folder)], False, False, 0, True, True)
        except (OSError, WatchfilesRustInternalError) as error:
            # Too many watches or watchers, or a file system without them.
            self.reason = f"the system does not watch {folder} ({error})"

    def changed(self) -> set[str]:
        """Paths, also of what has gone, since the last call."""
        if self._notify is None:
            return set()
        try:
            found = self._notify.watch(_AT_ONCE_MS, _AT_ONCE_MS, _AT_ONCE_MS, None)
        except WatchfilesRustInternalError as error:
            # A name that is no UTF-8, or a new folder beyond the number of watches: it reports nothing from then on.
            self.reason = f"the system no longer reports what changes in {self._folder} ({error})"
            self.close()
            return set()
        return {path for _, path in found} if isinstance(found, set) else set()

    def close(self) -> None:
        if self._notify is not None:
            self._notify.close()
            self._notify = None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A folder itself, no link to one."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        # Its share went between the listing and now: the next listing says so.
        return False
