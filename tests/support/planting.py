"""Faults planted in a procedural data set, each as it comes about in a plant."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from flowgauge.synthetic.procedural import DEFECTS, ProceduralLine


def duplicated(root: Path) -> set[str]:
    """Five training images come back among the good test images: as files, converted, and compressed in another
    light. The names of the copies."""
    train, test = sorted((root / "train/good").iterdir()), root / "test/good"
    shutil.copyfile(train[3], test / "copy-0.png")
    shutil.copyfile(train[17], test / "copy-1.png")
    _opened(train[29]).save(test / "copy-2.bmp")
    _opened(train[31]).save(test / "copy-3.jpg", quality=85)
    _opened(train[40]).point(lambda value: int(min(255, 1.15 * value))).save(test / "copy-4.jpg", quality=90)
    return {f"test/good/copy-{n}.{end}" for n, end in enumerate(("png", "png", "bmp", "jpg", "jpg"))}


def mislabelled(root: Path, line: ProceduralLine, share: float = 0.1) -> set[str]:
    """Defects of all kinds in the place of that share of the training images. Their names."""
    train = sorted((root / "train/good").iterdir())
    chosen = [train[round(rank)] for rank in np.linspace(0, len(train) - 1, round(share * len(train)))]
    for number, path in enumerate(chosen):
        Image.fromarray(line.defect(5000 + number, DEFECTS[number % len(DEFECTS)]).pixels).save(path)
    return {path.relative_to(root).as_posix() for path in chosen}


def turned(root: Path) -> set[str]:
    """Test images, and masks with them, as parts lie that nobody aligned. The names of the good ones turned."""
    for path in (*sorted(root.glob("test/*/*")), *sorted(root.glob("ground_truth/*/*"))):
        number = int(path.stem.removesuffix("_mask"))
        Image.fromarray(np.rot90(np.asarray(_opened(path)), number % 4)).save(path)
    return {f"test/good/{path.name}" for path in (root / "test/good").iterdir() if int(path.stem) % 4}


def given_away(root: Path) -> set[str]:
    """Defects photographed on another table: the rim of their images is a little lighter. Their names."""
    defects = [path for path in root.glob("test/*/*") if path.parent.name != "good"]
    for path in defects:
        pixels = np.array(_opened(path), np.int16)
        rim = max(2, len(pixels) // 16)
        inner = pixels[rim:-rim, rim:-rim].copy()
        pixels += 10
        pixels[rim:-rim, rim:-rim] = inner
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return {path.relative_to(root).as_posix() for path in defects}


def blurred(root: Path) -> set[str]:
    """Two training images and a test image out of focus. Their names."""
    train, test = sorted((root / "train/good").iterdir()), sorted((root / "test/good").iterdir())
    for path in (train[5], train[50], test[7]):
        softened = _opened(path).filter(ImageFilter.GaussianBlur(2 * _opened(path).width / 256))
        grain = np.random.default_rng(0).normal(0, 1.5, np.asarray(softened).shape)
        Image.fromarray((np.asarray(softened) + grain).clip(0, 255).astype(np.uint8)).save(path)
    return {path.relative_to(root).as_posix() for path in (train[5], train[50], test[7])}


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image
