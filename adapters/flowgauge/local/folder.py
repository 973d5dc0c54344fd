"""A folder in which images appear, as a source of image events."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flowgauge.domain.dead_letters import dead_letter
from flowgauge.domain.errors import Unavailable, UserError
from flowgauge.domain.messages import IMAGES, Event
from flowgauge.domain.ports import Clock, Outgoing
from flowgauge.local.log import LocalLog

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_LARGEST_BYTES = 256 * 2**20  # a record of the log holds the whole file, and so does memory


@dataclass(frozen=True)
class _Sight:
    """What a file looked like, and since when it has looked so."""

    size: int
    modified_ns: int
    since: float

    def same_file(self, other: "_Sight") -> bool:
        return (self.size, self.modified_ns) == (other.size, other.modified_ns)


class FolderSource:
    """Publishes each image below `folder` once, however often the process is killed; in the order of their names.

    An image's id is its path relative to `folder`, its time of capture the file's time of change. Hidden files and
    folders, and files without the suffix of an image, are none; whatever else is unreadable is left to scoring.
    A file is taken once it has not changed for `quiet_seconds`. A file that is written anew is published anew: with
    other bytes under the same id it will be a dead letter.
    """

    def __init__(
        self,
        folder: Path,
        line: str,
        log: LocalLog,
        clock: Clock,
        quiet_seconds: float = 1.0,
        use_for_training: bool = True,
    ) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder.", "Create it, or name the folder in which the images appear.")
        self._folder = folder
        self._line = line
        self._log = log
        self._clock = clock
        self._quiet_seconds = quiet_seconds
        self._use_for_training = use_for_training
        self._seen: dict[str, _Sight] = {}
        self._prefix = f"{line}|"
        self._published = log.published(self._prefix)

    def publish(self, limit: int) -> int:
        """Append at most `limit` images that are ready; how many there were."""
        count = 0
        for path, name, sight in self._ready():
            if count == limit:
                break
            count += self._publish(path, name, sight)
        return count

    def _publish(self, path: Path, name: str, sight: _Sight) -> bool:
        token = self._token(name, sight)
        record = self._record(path, name, sight)
        if record is None:
            return False
        fresh = self._log.append_once(token, [record])
        self._published.add(token)
        self._seen.pop(name, None)
        return fresh

    def _ready(self) -> Iterator[tuple[Path, str, _Sight]]:
        now = self._clock.now().timestamp()
        for path in images_below(self._folder):
            name = _text(path.relative_to(self._folder))
            sight = self._sight(path, name, now)
            if sight is not None and self._token(name, sight) not in self._published and self._settled(sight, now):
                yield path, name, sight

    def _sight(self, path: Path, name: str, now: float) -> _Sight | None:
        """None for a file that has gone since it was listed."""
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        sight = _Sight(stat.st_size, stat.st_mtime_ns, now)
        before = self._seen.get(name)
        if before is None or not before.same_file(sight):
            self._seen[name] = sight
        return self._seen[name]

    def _settled(self, sight: _Sight, now: float) -> bool:
        """By the file's own time, or, where the clocks of folder and machine differ, by ours."""
        return min(sight.modified_ns / 1e9, sight.since) <= now - self._quiet_seconds

    def _record(self, path: Path, name: str, sight: _Sight) -> Outgoing | None:
        """None for a file that has gone. Headers are not validated here: scoring does that for every source."""
        event = Event.model_construct(
            image_id=name,
            source=f"/lines/{self._line}",
            line=self._line,
            captured_at=datetime.fromtimestamp(sight.modified_ns / 1e9, UTC),
            use_for_training=self._use_for_training,
        )
        if sight.size > _LARGEST_BYTES:
            return dead_letter(self._line, b"", event.headers(), f"The file has {sight.size:,} bytes.")
        try:
            return Outgoing(IMAGES, self._line, path.read_bytes(), event.headers())
        except FileNotFoundError:
            return None
        except PermissionError:
            return dead_letter(self._line, b"", event.headers(), "The file may not be read; check its rights.")
        except OSError as error:
            raise Unavailable(f"{path} cannot be read: {error.strerror}.", "Check the disk or the share.") from error

    def _token(self, name: str, sight: _Sight) -> str:
        return f"{self._prefix}{name}|{sight.size}|{sight.modified_ns}"


def images_below(folder: Path) -> list[Path]:
    """Files with the suffix of an image, in the order of their names; nothing that is hidden."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not _hidden(path.relative_to(folder)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _text(path: Path) -> str:
    """`path` with slashes; bytes that are no UTF-8 are spelled out, since an id is text."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")
