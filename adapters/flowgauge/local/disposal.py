"""What becomes of a file once its image has a durable verdict: it is deleted, or moved out of the folder."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import IMAGES, VERDICTS, Verdict
from flowgauge.local.log import LocalLog
from flowgauge.local.tree import Notices, Sight

_PAGE = 1_000  # verdicts read at once: more would hold the next image up, fewer takes more queries
_KNOWN = 100_000  # verdicts, as many as an embedded log keeps: fewer, and a restart leaves files where they are
_SCORING = "scoring"  # behind the position of this group, verdicts and their images are stored


@dataclass(frozen=True)
class _Pending:
    path: Path
    sight: Sight


@dataclass
class Disposal:
    """Deletes files below `folder` whose images have verdicts, or moves them below `target`, subfolders kept.

    What became a dead letter stays. So does a file that was written anew since it was read: it is another image. What
    cannot be moved or deleted is told once, and stays until the next start.
    """

    folder: Path
    log: LocalLog
    target: Path | None = None
    _pending: dict[str, list[_Pending]] = field(default_factory=dict)
    _scored: dict[str, tuple[int, int]] = field(default_factory=dict)
    _read: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `UserError` for a target that cannot be one."""
        if self.target is None:
            return
        if self.target.resolve().is_relative_to(self.folder.resolve()):
            raise UserError(f"{self.target} lies in the watched folder.", "Name a folder outside of it.")
        try:
            self.target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.target} cannot be made: {error.strerror}.", "Name another folder.") from error

    def await_verdict(self, image_id: str, path: str, sight: Sight) -> None:
        self._pending.setdefault(image_id, []).append(_Pending(Path(path), sight))

    def has_pending(self) -> bool:
        return bool(self._pending)

    def dispose(self, notices: Notices) -> None:
        if not self._pending:
            return
        partitions = range(self.log.partitions(IMAGES))
        positions = [self.log.position(_SCORING, IMAGES, number) for number in partitions]
        # not by the end: a dead letter behind the last verdict may have left the log, and is read for ever
        all_scored = not any(self.log.read(IMAGES, number, positions[number], 1) for number in partitions)
        self._read_verdicts()
        for image_id in list(self._pending):
            partition, offset = self._scored.get(image_id, (0, -1))
            if 0 <= offset < positions[partition]:
                for pending in self._pending.pop(image_id):
                    self._remove(pending, notices)
            elif all_scored:  # it is a dead letter, or its verdict is no longer kept
                del self._pending[image_id]

    def _read_verdicts(self) -> None:
        for partition in range(self.log.partitions(VERDICTS)):
            while records := self.log.read(VERDICTS, partition, self._read.get(partition, 0), _PAGE):
                for verdict in (Verdict.decode(record.value) for record in records):
                    self._scored[verdict.image_id] = (verdict.source.partition, verdict.source.offset)
                self._read[partition] = records[-1].offset + 1
        while len(self._scored) > _KNOWN:
            del self._scored[next(iter(self._scored))]

    def _remove(self, pending: _Pending, notices: Notices) -> None:
        try:
            if Sight.of(pending.path.stat()) != pending.sight:
                return
            if self.target is not None:
                self._move(pending.path, self.target)
            else:
                pending.path.unlink()
        except FileNotFoundError:
            return  # somebody else took it away, which is what was wanted
        except OSError as error:
            verb = "deleted" if self.target is None else f"moved to {self.target}"
            notices.about(f"{pending.path} kept", f"{pending.path} cannot be {verb}: {error.strerror}. It stays.")

    def _move(self, path: Path, target: Path) -> None:
        """By way of a hidden file, so that nobody sees half of one in the target; what a link leads to is copied."""
        relative = path.relative_to(self.folder)
        wanted = destination = target / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        number = 0
        while destination.exists():
            number += 1
            destination = wanted.with_stem(f"{wanted.stem}~{number}")
        half = destination.with_name(f".{destination.name}.part")
        if path.is_symlink():
            shutil.copy2(path, half)
            path.unlink()
        else:
            shutil.move(path, half)
        half.rename(destination)
