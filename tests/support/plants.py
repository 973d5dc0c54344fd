"""A small line on disk, and a store that holds its gauge: fitted once per test run, copied for each test.

A fit with the default's steps takes half a minute of a processor. Most tests are about what is done with a gauge, so
theirs are fitted with `QUICK`, which still tells the line's good images from its plain defects.
"""

import atexit
import json
import shutil
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from flowgauge.cli import main
from flowgauge.cli.model import Model
from flowgauge.models.registry import DEFAULT
from flowgauge.synthetic.procedural import ProceduralLine
from tests.support import gauges
from tests.support.folders import write_dataset

LINE = "press-3"
SIDE = 128
QUICK: dict[str, Any] = {
    "members": 2,
    "dimensions": 48,
    "blocks": 3,
    "hidden": 64,
    "training": {"steps": 100, "batch": 256, "learning_rate": 1e-2, "noise": 0.05, "check_every": 50},
}
"""Of the default detector."""
QUICK_FIT = tuple(f"--set={name}={json.dumps(value)}" for name, value in QUICK.items())
"""The same for commands that take --set."""


def fit_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all commands fit so, whether they take --set or not, and the processes that they start; other detectors as
    small."""
    made = Model.__init__
    quick = gauges.QUICK | {DEFAULT: QUICK}

    def make(model: Model, *given: Any, **named: Any) -> None:
        made(model, *given, **named)
        changes = [f"{name}={json.dumps(value)}" for name, value in quick[model.detector].items()]
        object.__setattr__(model, "changes", changes + list(model.changes or ()))

    monkeypatch.setattr(Model, "__init__", make)


@lru_cache(maxsize=1)
def tiny_dataset() -> Path:
    """24 good images to learn from; to judge, 6 good ones and 3 of each of two kinds of defects. Do not write there."""
    root = _temporary("dataset")
    line = ProceduralLine("cast-iron", seed=0, size=SIDE)
    write_dataset(line, root, train=24, test_good=6, per_kind=3, kinds=("scratch", "stain"))
    return root


@lru_cache(maxsize=1)
def _fitted_store() -> Path:
    root = _temporary("store")
    arguments = [
        "fit",
        str(tiny_dataset()),
        "--line",
        LINE,
        "--store",
        str(root),
        "--size",
        str(SIDE),
        "--device",
        "cpu",
        *QUICK_FIT,
    ]
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 0
    return root


def fitted_store(destination: Path) -> Path:
    """A store of its own at `destination`, where `LINE` has a gauge."""
    shutil.copytree(_fitted_store(), destination)
    return destination


def _temporary(name: str) -> Path:
    """A folder that lasts as long as this process."""
    folder = Path(mkdtemp(prefix=f"flowgauge-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
