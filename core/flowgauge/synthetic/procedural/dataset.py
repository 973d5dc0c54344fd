"""A procedural line as a folder of images in the MVTec AD layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flowgauge.synthetic.procedural.defects import DEFECTS
from flowgauge.synthetic.procedural.light import NOMINAL, Condition
from flowgauge.synthetic.procedural.line import ProceduralLine, Sample


def write_dataset(
    line: ProceduralLine,
    folder: Path,
    train: int,
    test_good: int,
    per_kind: int,
    condition: Condition = NOMINAL,
    kinds: Sequence[str] = DEFECTS,
) -> None:
    """PNGs: `train/good` (`train` of them), `test/good`, `test/<kind>` (`per_kind` each) and, for every defect, its
    mask in `ground_truth/<kind>/<name>_mask.png`. No part appears twice, good or not."""
    for index in range(train):
        _write(line.good(index, condition), folder / "train")
    for index in range(train, train + test_good):
        _write(line.good(index, condition), folder / "test")
    index = train + test_good
    for kind in kinds:
        for part in range(index, index + per_kind):
            sample = line.defect(part, kind, condition)
            _write(sample, folder / "test")
            _write_mask(sample, folder / "ground_truth")
        index += per_kind


def _write(sample: Sample, folder: Path) -> None:
    path = folder / sample.kind / f"{sample.index:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.pixels).save(path)


def _write_mask(sample: Sample, folder: Path) -> None:
    path = folder / sample.kind / f"{sample.index:06d}_mask.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(sample.mask, np.uint8) * 255).save(path)
