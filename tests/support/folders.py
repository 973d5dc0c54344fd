"""Small data sets on disk, in the layouts that people have."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flowgauge.synthetic.procedural import DEFECTS, NOMINAL, Condition, ProceduralLine, Sample

SIDE = 32


def write_image(path: Path, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    """Gray noise of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(60, 190, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(path: Path, size: tuple[int, int] = (SIDE, SIDE), *, white: bool = True) -> None:
    """A white square in the middle of black, or black alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    if white:
        pixels[size[1] // 4 : size[1] // 2, size[0] // 4 : size[0] // 2] = 255
    Image.fromarray(pixels).save(path)


def write_plain(root: Path, images: int) -> Path:
    """A folder of good images."""
    root.mkdir(parents=True, exist_ok=True)
    for index in range(images):
        write_image(root / f"{index:03}.png", index)
    return root


def write_mvtec(root: Path, train: int, test_good: int, defects: Mapping[str, int]) -> Path:
    """The MVTec AD layout, every defect with its mask."""
    write_plain(root / "train" / "good", train)
    write_plain(root / "test" / "good", test_good)
    for kind, count in defects.items():
        for index in range(count):
            write_image(root / "test" / kind / f"{index:03}.png", 1000 + index)
            write_mask(root / "ground_truth" / kind / f"{index:03}_mask.png")
    return root


def write_dataset(
    line: ProceduralLine,
    folder: Path,
    train: int,
    test_good: int,
    per_kind: int,
    condition: Condition = NOMINAL,
    kinds: Sequence[str] = DEFECTS,
) -> None:
    """A procedural line in the MVTec AD layout, as PNGs: `train/good` (`train` of them), `test/good`, `test/<kind>`
    (`per_kind` each) and, for every defect, its mask in `ground_truth/<kind>/<name>_mask.png`. No part appears twice,
    good or not.
    """
    for index in range(train):
        _write(line.good(index, condition), folder / "train")
    for index in range(train, train + test_good):
        _write(line.good(index, condition), folder / "test")
    index = train + test_good
    for kind in kinds:
        for part in range(index, index + per_kind):
            sample = line.defect(part, kind, condition)
            _write(sample, folder / "test")
            path = folder / "ground_truth" / kind / f"{part:06d}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(sample.mask, np.uint8) * 255).save(path)
        index += per_kind


def _write(sample: Sample, folder: Path) -> None:
    path = folder / sample.kind / f"{sample.index:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.pixels).save(path)
