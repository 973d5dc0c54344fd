"""Masks as label tools leave them: which file belongs to which image, and which of its pixels mean the defect."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Self

import numpy as np

from flowgauge.evaluation.folder_names import is_test
from flowgauge.evaluation.metrics import Mask
from flowgauge.vision.decoding import Picture

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})

_CLASS_NUMBERS = 15
"""Of a mask whose largest value is at most this: it holds numbers of classes, and not shades. With more, a dark
resampled mask would lose its threshold; with fewer, classes from that number on would be missed."""

_MARK = re.compile(
    r"^(?:mask|gt|label|seg)[-_. ]+|[-_. ]*(?:mask|gt|ground[-_. ]?truth|labels?|seg|segmentation|annotation)$"
)
"""What is put before or behind an image's name to call its mask: `000_mask`, `000-GT`, `mask_000`."""


@dataclass(frozen=True)
class Masks:
    """Files of masks by the folder that they lie in and by their image's name, both in lower case."""

    named: dict[tuple[tuple[str, ...], str], Path]

    @classmethod
    def below(cls, folder: Path, files: Iterable[Path]) -> Self:
        """Of two masks that one image may have, the one that is called a mask: the other may be a copy of the image."""
        found = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
        named = {_key(path.relative_to(folder), path.stem.casefold()): path for path in found}
        marked = {}
        for path in reversed(found):
            if (stem := _MARK.sub("", path.stem.casefold())) != path.stem.casefold():
                marked[_key(path.relative_to(folder), stem)] = path
        return cls(named | marked)

    def of(self, image: PurePath, *, alone_of_its_name: bool) -> Path | None:
        """The mask of the image of that path below the test folder; None where there is none. One outside of the
        class's folder counts where no other image could mean it."""
        parents, stem = _key(image, image.stem.casefold())
        folders = [parents, parents[:1], ()] if alone_of_its_name else [parents]
        return next((found for parent in folders if (found := self.named.get((parent, stem)))), None)


def _key(path: PurePath, stem: str) -> tuple[tuple[str, ...], str]:
    parents = tuple(part.casefold() for part in path.parent.parts)
    return parents[1:] if parents and is_test(parents[0]) else parents, stem


def mask_beside(parent: Path) -> Path | None:
    """The mask in the folder of `parent` that belongs to an image of its name; None where there is none."""
    usual = parent.with_suffix(".png")
    if usual.is_file() or not parent.parent.is_dir():
        return usual if usual.is_file() else None
    masks = Masks.below(parent.parent, (path for path in parent.parent.iterdir() if path.is_file()))
    return masks.of(PurePath(parent.name), alone_of_its_name=False)


def defective_pixels(mask: Picture) -> Mask:
    """(H, W), True above half of the brightest value, or on every class where the values are numbers of classes."""
    values = mask.pixels.max(axis=2) if mask.deep is None else mask.deep.reshape(*mask.pixels.shape[:2], -1).max(axis=2)
    ceiling = int(values.max())
    return np.asarray(values > (0 if ceiling <= _CLASS_NUMBERS else ceiling / 2))
