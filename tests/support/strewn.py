"""Washers photographed as they fall: anywhere in the picture, on a ground that is another each time."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowgauge.synthetic.procedural import ProceduralLine
from flowgauge.vision.segmentation import segmented

CANVAS, PART = 192, 96
KINDS = ("scratch", "chip", "stain")

_line = ProceduralLine("turned-washer", seed=0, size=PART)


def scene(part: int, kind: str, data: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    """(CANVAS, CANVAS, 3) pixels, where the washer lies, and its defect. `data` seeds place and background."""
    sample = _line.good(part) if kind == "good" else _line.defect(part, kind)
    outline = segmented(sample.pixels)
    rng = np.random.default_rng(data)
    top, left = rng.integers(4, CANVAS - PART - 4, 2)
    pixels = _background(rng)
    lies, defective = np.zeros((2, CANVAS, CANVAS), bool)
    box = np.s_[top : top + PART, left : left + PART]
    lies[box] = outline
    defective[box] = outline & (np.zeros_like(outline) if sample.mask is None else sample.mask)
    pixels[lies] = sample.pixels[outline]
    return pixels, lies, defective


def write_strewn(root: Path, masks: Path, train: int, test_good: int, per_kind: int) -> Path:
    """A data set in the MVTec AD layout, and a mask of each image in `masks`."""
    kinds = ["good"] * test_good + [kind for kind in KINDS for _ in range(per_kind)]
    names = [f"train/good/{n:03}.png" for n in range(train)]
    names += [f"test/{kind}/{n:03}.png" for n, kind in enumerate(kinds)]
    for part, (name, kind) in enumerate(zip(names, ["good"] * train + kinds, strict=True)):
        pixels, lies, defective = scene(part, kind, data=part)
        _write(root / name, pixels)
        _write(masks / name, lies)
        if kind != "good":
            _write(root / "ground_truth" / kind / f"{Path(name).stem}_mask.png", defective)
    return root


def _background(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Plain, of any shade of dark, and lighter to one side."""
    slope = np.linspace(-4, 4, CANVAS) * rng.choice([-1, 1])
    gray = rng.uniform(5, 45) + slope + rng.normal(0, 1.5, (CANVAS, CANVAS))
    return np.repeat(gray.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def _write(path: Path, pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
