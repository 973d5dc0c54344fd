"""What becomes of a file once its image has a durable verdict: it is deleted, or moved out of the folder."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import IMAGES, VERDICTS, Verdict
from flowgauge.local.log import LocalLog
from flowgauge.local.tree import Notices, Signature

# Verdicts read at once: more would hold the next image up, fewer takes more queries.
_PAGE = 1_000
# Verdicts, as many as an embedded log keeps: more take memory, and with fewer a restart leaves files where they are.
_KNOWN = 100_000
# Behind the position of this group, verdicts and their images are stored.
_SCORING = "scoring"


@dataclass
class Disposal:
    """Deletes files below `folder` whose images have verdicts, or moves them below `target`, subfolders kept.

    What became a dead letter stays. So does a file that was written anew since it was read: it is another image. What
    cannot be moved or deleted is reported once, and stays until the next start.
    """

    folder: Path
    log: LocalLog
    target: Path | None = None
    pending: dict[str, list[tuple[Path, Signature]]] = field(default_factory=dict)
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

    def await_verdict(self, image_id: str, path: str, signature: Signature) -> None:
        self.pending.setdefault(image_id, []).append((Path(path), signature))

    def dispose(self, notices: Notices) -> None:
        if not self.pending:
            return
        partitions = range(self.log.partitions(IMAGES))
        positions = [self.log.position(_SCORING, IMAGES, number) for number in partitions]
        # Not by the end: a dead letter behind the last verdict may have left the log, and is read for ever.
        all_scored = not any(self.log.read(IMAGES, number, positions[number], 1) for number in partitions)
        self._read_verdicts()
        for image_id in list(self.pending):
            partition, offset = self._scored.get(image_id, (0, -1))
            if 0 <= offset < positions[partition]:
                for path, signature in self.pending.pop(image_id):
                    self._remove(path, signature, notices)
            elif all_scored:
                # It is a dead letter, or its verdict is no longer kept.
                del self.pending[image_id]

    def _read_verdicts(self) -> None:
        for partition in range(self.log.partitions(VERDICTS)):
            while records := self.log.read(VERDICTS, partition, self._read.get(partition, 0), _PAGE):
                for verdict in (Verdict.decode(record.value) for record in records):
                    self._scored[verdict.image_id] = (verdict.source.partition, verdict.source.offset)
                self._read[partition] = records[-1].offset + 1
        while len(self._scored) > _KNOWN:
            del self._scored[next(iter(self._scored))]

    def _remove(self, path: Path, signature: Signature, notices: Notices) -> None:
        try:
            if Signature.of(path.stat()) != signature:
                return
            if self.target is None:
                path.unlink()
                return
            wanted = destination = self.target / path.relative_to(self.folder)
            destination.parent.mkdir(parents=True, exist_ok=True)
            number = 0
            while destination.exists():
                number += 1
                destination = wanted.with_stem(f"{wanted.stem}~{number}")
            # By way of a hidden file, so that nobody sees half of one in the target. What a link leads to is copied.
            half = destination.with_name(f".{destination.name}.part")
            if path.is_symlink():
                shutil.copy2(path, half)
                path.unlink()
            else:
                shutil.move(path, half)
            half.rename(destination)
        except FileNotFoundError:
            # Somebody else took it away, which is what was wanted.
            return
        except OSError as error:
            verb = "deleted" if self.target is None else f"moved to {self.target}"
            notices.about(f"{path} kept", f"{path} cannot be {verb}: {error.strerror}. It stays.")
