"""Workers in processes of their own, for as long as a demonstration lasts."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from flowgauge.domain.errors import Unavailable
from flowgauge.runtime.roles import Role

_END_SECONDS = 60.0


class Workers:
    """A context manager: `flowgauge worker` for each of `roles`, on the store and the servers that the environment
    names. What each says goes to a file of its own in `logs`. At the end all are asked to end, and then made to."""

    def __init__(self, store: str, roles: Sequence[Role], logs: Path, *options: str) -> None:
        self._store = store
        self._roles = roles
        self._logs = logs
        self._options = options
        self._stack = ExitStack()
        self._workers: dict[Path, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        for number, role in enumerate(self._roles, start=1):
            path = self._logs / f"{number}-{role.value}.log"
            log = self._stack.enter_context(path.open("wb"))
            command = [sys.executable, "-m", "flowgauge.cli", "worker", role.value, "--store", self._store]
            self._workers[path] = subprocess.Popen(
                [*command, *self._options],
                stdout=log,
                stderr=subprocess.STDOUT,
                # two models that spin for the same cores cost each other several times what they gain
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.terminate()
        for worker in self._workers.values():
            try:
                worker.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self._stack.close()

    def check(self) -> None:
        """Raises `Unavailable` if one has ended."""
        for log, worker in self._workers.items():
            if (code := worker.poll()) is not None:
                raise Unavailable(f"A worker has ended with exit code {code}.", f"Its last words are in {log}.")
