"""The folder that a demonstration writes into, and what of it is its own."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from flowgauge.domain.errors import UserError

_MARK = ".flowgauge-demo"
_MARK_TEXT = "This folder was written by `flowgauge demo`, which may replace the report, the story and the store.\n"


@dataclass(frozen=True)
class DemoFolder:
    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def story(self) -> Path:
        return self.root / "story.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def of(self, line: str) -> "DemoFolder":
        """The folder of one of several lines."""
        return DemoFolder(self.root / line)

    def clear(self) -> None:
        """Make the folder, or remove what an earlier demonstration left in it, and only that.

        Raises `UserError` for a folder that holds anything and was not made by a demonstration, which stays untouched.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root} is no folder.", "Choose another one with --out.")
        if self.root.is_dir() and any(self.root.iterdir()) and not (self.root / _MARK).is_file():
            raise UserError(
                f"{self.root} is not empty and holds no earlier demonstration.", "Choose another folder with --out."
            )
        self.mark()
        of_lines = [path.parent for path in self.root.glob(f"*/{_MARK}")]
        for folder in (self.store, self.logs, *of_lines):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.report, self.story):
            file.unlink(missing_ok=True)

    def mark(self) -> None:
        """Make it a folder of ours."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / _MARK).write_text(_MARK_TEXT)
