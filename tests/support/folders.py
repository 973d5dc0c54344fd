"""Small data sets on disk, in the layouts that people have."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

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
