"""Data sets as they lie in folders: the MVTec AD layout, or a plain folder of good images.

MVTec AD: `train/good/*`, `test/good/*`, `test/<class>/*` and `ground_truth/<class>/<stem>_mask.png`, white on defects.
Without a `ground_truth` folder only images can be judged, not places in them. Hidden files are no part of a data set.
A second folder may cut out the objects: to each image a PNG of the same path in it, white on the object.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from flowgauge.domain.errors import DatasetError, UnreadableImage
from flowgauge.evaluation.metrics import Mask
from flowgauge.training.fit import MINIMUM_IMAGES
from flowgauge.vision.decoding import Picture, decode

GOOD = "good"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})

_LAYOUT = "Put good images into the folder itself, or follow the MVTec AD layout: train/good, test/<class>."


@dataclass(frozen=True)
class Entry:
    """One image. `name` is its path relative to the data set; `kind` is `GOOD` or a class of defects; `mask` shows the
    defect and `outline` the object, where somebody said.
    """

    name: str
    path: Path
    kind: str
    mask: Path | None = None
    outline: Path | None = None

    @property
    def defective(self) -> bool:
        return self.kind != GOOD


@dataclass(frozen=True)
class Dataset:
    root: Path
    train: tuple[Entry, ...]
    test: tuple[Entry, ...]

    @classmethod
    def open(cls, root: Path, outlines: Path | None = None) -> Self:
        """The data set in `root`, its objects cut out by the masks in `outlines`; lists files and reads none.

        Raises `DatasetError` where there is no folder, no good image, or a mask is missing.
        """
        if not root.is_dir():
            raise DatasetError(f"There is no folder {root}.", "Give the folder that holds the data set.")
        train, test = _mvtec(root) if (root / "train").is_dir() else (_images(root, root, GOOD), ())
        if not train:
            raise DatasetError(f"{root} holds no good images to learn from.", _LAYOUT)
        if outlines is None:
            return cls(root, train, test)
        return cls(root, *(tuple(_outlined(entry, outlines) for entry in entries) for entries in (train, test)))

    @cached_property
    def _by_name(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in (*self.train, *self.test)}

    def entry(self, name: str) -> Entry:
        """The image of that relative path. Raises `DatasetError` if it is not part of this data set."""
        try:
            return self._by_name[name]
        except KeyError as error:
            raise DatasetError(
                f"{self.root} has no image {name!r}.", "Check that the splits were made for this data set."
            ) from error


def require_enough(good_images: int, where: object) -> None:
    """Raises `DatasetError` unless a gauge can be fitted to that many images."""
    if good_images < MINIMUM_IMAGES:
        found = "only one image" if good_images == 1 else f"{good_images} images"
        raise DatasetError(
            f"{where} offers {found} to learn from; a gauge needs at least {MINIMUM_IMAGES}.",
            "Capture more good parts: a few dozen give a threshold that can be relied on.",
        )


def _mvtec(root: Path) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    train = _images(root, root / "train" / GOOD, GOOD)
    test = (entry for folder in _folders(root / "test") for entry in _images(root, folder, folder.name))
    return train, tuple(_with_mask(root, entry) for entry in test)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir() and not path.name.startswith("."))


def _images(root: Path, folder: Path, kind: str) -> tuple[Entry, ...]:
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    visible = (path for path in files if not path.name.startswith("."))
    return tuple(Entry(path.relative_to(root).as_posix(), path, kind) for path in visible)


def _outlined(entry: Entry, outlines: Path) -> Entry:
    return replace(entry, outline=outline_of(entry.name, outlines))


def outline_of(name: str, outlines: Path) -> Path:
    """The mask that cuts out the object of that image. Raises `DatasetError` where it is missing."""
    outline = (outlines / name).with_suffix(".png")
    if not outline.is_file():
        raise DatasetError(f"The image {name} has no mask {outline}.", "Add one to each image, white on the object.")
    return outline


def _with_mask(root: Path, entry: Entry) -> Entry:
    truth = root / "ground_truth"
    if not (entry.defective and truth.is_dir()):
        return entry
    mask = truth / entry.kind / f"{entry.path.stem}_mask.png"
    if not mask.is_file():
        raise DatasetError(
            f"The defect {entry.name} has no mask {mask.relative_to(root)}.",
            "Add it, or remove the folder ground_truth to judge whole images only.",
        )
    return replace(entry, mask=mask)


@dataclass(frozen=True, eq=False)
class Sample:
    """`mask`: (H, W), True on the defect; all False on a good image; None where nobody said where the defect is."""

    entry: Entry
    picture: Picture
    mask: Mask | None


def read(entry: Entry) -> Sample:
    """The image and its masks. Raises `UnreadableImage`, or `DatasetError` for a mask of another size."""
    picture = decode(_bytes(entry.path))
    if entry.outline is not None:
        picture = cut_out(picture, entry.outline, entry.name)
    return Sample(entry, picture, _mask(entry, picture))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {error.strerror}.", "Check the file's rights.") from error


def _mask(entry: Entry, picture: Picture) -> Mask | None:
    width, height = picture.size
    if not entry.defective:
        return np.zeros((height, width), dtype=bool)
    return None if entry.mask is None else read_mask(entry.mask, picture, entry.name)


def cut_out(picture: Picture, path: Path, name: str) -> Picture:
    """The object of `picture` alone. Raises `DatasetError` unless the mask at `path` fits it and shows something."""
    mask = read_mask(path, picture, name)
    if not mask.any():
        raise DatasetError(f"The mask {path} is all black.", "Export it again with 8 bits, white on the object.")
    return picture.cut_out(mask)


def read_mask(path: Path, picture: Picture, name: str) -> Mask:
    """(H, W), True where it is not black. Raises `DatasetError` unless it is an image of the size of `picture`."""
    mask = _readable_mask(path)
    if mask.size != picture.size:
        (width, height), (wanted_width, wanted_height) = mask.size, picture.size
        raise DatasetError(
            f"The mask {path} has {width} x {height} pixels, but its image {name} has "
            f"{wanted_width} x {wanted_height}.",
            "Export the mask again at the size of the image.",
        )
    return np.asarray(mask.pixels.any(axis=2))


def _readable_mask(path: Path) -> Picture:
    try:
        return decode(_bytes(path))
    except UnreadableImage as error:
        raise DatasetError(f"The mask {path} cannot be read: {error.cause}", error.remedy) from error


@dataclass(frozen=True)
class Unreadable:
    """An image that had to be left out, and why."""

    name: str
    cause: str


def sift(entries: Iterable[Entry]) -> Iterator[Sample | Unreadable]:
    """Each entry in order: its sample, or why it has none."""
    for entry in entries:
        try:
            yield read(entry)
        except UnreadableImage as error:
            yield Unreadable(entry.name, str(error))


def evenly(entries: Sequence[Entry], limit: int | None) -> tuple[Entry, ...]:
    """At most `limit` entries, spread evenly over all of them: the first frames of a day are not the day."""
    if limit is None or limit >= len(entries):
        return tuple(entries)
    return tuple(entries[index * len(entries) // limit] for index in range(limit))
