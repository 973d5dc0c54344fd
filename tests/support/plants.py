"""A small line on disk, and a store that holds its gauge: fitted once per test run, copied for each test."""

import atexit
import shutil
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from flowgauge.cli import main
from flowgauge.synthetic.procedural import ProceduralLine
from tests.support.folders import write_dataset

LINE = "press-3"
SIDE = 128


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
