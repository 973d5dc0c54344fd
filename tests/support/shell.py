"""The command line, called as a shell calls it but in this process."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from flowgauge.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Of a stream of JSON, one document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Shell:
    """Calls `flowgauge` and takes what it prints."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: object) -> Outcome:
        self._capture.readouterr()
        with pytest.raises(SystemExit) as exited:
            main([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        code = exited.value.code
        return Outcome(code if isinstance(code, int) else int(code is not None), out, err)
