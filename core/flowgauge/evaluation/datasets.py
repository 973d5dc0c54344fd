"""Data sets as they lie in folders: the MVTec AD layout, or a plain folder of good images.

MVTec AD: `train/good/*`, `test/good/*`, `test/<class>/*` and `ground_truth/<class>/<stem>_mask.png`, white on defects.
`flowgauge.evaluation.folder_names` knows what else plants call these folders; images may lie in folders below them.
Without a folder of masks there are no pixel metrics. Hidden files are no part of a data set.
A second folder may cut out the objects: to each image a mask of the same path in it, white on the object.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath, PureWindowsPath
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flowgauge.domain.errors import DatasetError, UnreadableImage
from flowgauge.domain.image_files import image_bytes, named_as_image
from flowgauge.evaluation.folder_names import holds_masks, is_defective, is_good, is_test, is_train
from flowgauge.training.fit import MINIMUM_IMAGES
from flowgauge.vision.decoding import Picture, Reduction, decode, whole

GOOD = "good"

_LAYOUT = "Put good images into the folder itself, or follow the MVTec AD layout: train/good, test/<class>."
# Suffixes of what nobody takes for an image, so that nobody misses it.
_BESIDES = frozenset({"", ".txt", ".json", ".csv", ".md", ".xml", ".yaml", ".yml", ".toml", ".ini", ".db", ".log"})

# Of a mask whose largest value is at most this: it holds numbers of classes, and not shades. With more, a dark
# resampled mask would lose its threshold; with fewer, classes from that number on would be missed.
_CLASS_NUMBERS = 15

# What is put before or behind an image's name to call its mask: `000_mask`, `000-GT`, `mask_000`.
_MARK = re.compile(
    r"^(?:mask|gt|label|seg)[-_. ]+|[-_. ]*(?:mask|gt|ground[-_. ]?truth|labels?|seg|segmentation|annotation)$"
)


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
    """`notes` are sentences for people: how names were understood, and what was passed over."""

    root: Path
    train: tuple[Entry, ...]
    test: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, root: Path, outlines: Path | None = None) -> Self:
        """The data set in `root`, its objects cut out by the masks in `outlines`; lists files and reads none.

        Raises `DatasetError` where there is no folder, no good image, or a mask is missing.
        """
        if not root.is_dir():
            raise DatasetError(f"There is no folder {root}.", "Give the folder that holds the data set.")
        listing = _Listing(root)
        training = _child(root, is_train)
        train, test = (listing.plain(), ()) if training is None else listing.mvtec(training, _child(root, is_test))
        if not train:
            raise DatasetError(f"{root} holds no good images to learn from.", _LAYOUT)
        if outlines is not None:
            train, test = (
                tuple(replace(entry, outline=outline_of(entry.name, outlines)) for entry in entries)
                for entries in (train, test)
            )
        return cls(root, train, test, tuple(listing.notes))

    @cached_property
    def _by_name(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in (*self.train, *self.test)}

    def entry(self, name: str) -> Entry:
        """The image of that relative path, which Windows may have written. Raises `DatasetError` if it is not part of
        this data set."""
        found = self._by_name.get(name) or self._by_name.get(posix(name))
        if found is None:
            raise DatasetError(
                f"{self.root} has no image {name!r}.", "Check that the splits were made for this data set."
            )
        return found


def posix(name: str) -> str:
    """A relative path with slashes, whatever system wrote it: `.\\test\\good\\0.png` is `test/good/0.png`."""
    return PureWindowsPath(name).as_posix()


def require_enough(good_images: int, where: object) -> None:
    """Raises `DatasetError` unless a gauge can be fitted to that many images."""
    if good_images < MINIMUM_IMAGES:
        found = "only one image" if good_images == 1 else f"{good_images} images"
        raise DatasetError(
            f"{where} offers {found} to learn from; a gauge needs at least {MINIMUM_IMAGES}.",
            "Capture more good parts: a few dozen give a threshold that can be relied on.",
        )


class _Listing:
    """Finds the images below `root`, and keeps what people should know of it in `notes`."""

    def __init__(self, root: Path) -> None:
        self.notes: list[str] = []
        self._root = root

    def plain(self) -> tuple[Entry, ...]:
        """All are good, but for those in folders whose name says otherwise."""

        def beside(folder: str) -> bool:
            return is_defective(folder) or is_test(folder) or holds_masks(folder)

        return self._entries(self._root, self._images(self._root, beside), lambda parts: GOOD)

    def mvtec(self, training: Path, testing: Path | None) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        folders = _folders(training)
        train = tuple(
            entry
            for folder in folders
            if is_good(folder.name)
            for entry in self._entries(folder, self._images(folder, is_defective), lambda parts: GOOD)
        )
        self._tell_good_folders(training)
        if left_out := [self._name(folder) for folder in folders if not is_good(folder.name)]:
            self.notes.append(
                f"{', '.join(left_out)}: not called good, and passed over; good images train, those in {GOOD} or OK."
            )
        if testing is None:
            return train, ()
        self._tell_good_folders(testing)

        def kind(parts: tuple[str, ...]) -> str:
            """Good by any of the folders' names, or of the class of the first; "" for what lies in none."""
            good = any(is_good(part) for part in parts) and not any(is_defective(part) for part in parts)
            return GOOD if good else "".join(parts[:1])

        test = self._entries(testing, self._images(testing, lambda folder: False), kind)
        if loose := sum(not entry.kind for entry in test):
            self.notes.append(
                f"{self._name(testing)}: {loose} images lie in no folder of a class, and are passed over."
            )
        return train, self._with_masks(testing, tuple(entry for entry in test if entry.kind))

    def _entries(
        self, folder: Path, paths: Sequence[Path], kind: Callable[[tuple[str, ...]], str]
    ) -> tuple[Entry, ...]:
        return tuple(
            Entry(self._name(path), path, kind(path.parent.relative_to(folder).parts)) for path in sorted(paths)
        )

    def _images(self, folder: Path, beside: Callable[[str], bool]) -> list[Path]:
        """Below `folder`, in linked folders too, but not in folders of which `beside` is true; says what it leaves."""
        found: list[Path] = []
        other: Counter[str] = Counter()
        for path in files_below(folder):
            inner = path.parent.relative_to(folder).parts
            if any(beside(part) for part in inner):
                other[f"in {'/'.join(inner)}"] += named_as_image(path.name)
            elif named_as_image(path.name) and path.is_file():
                found.append(path)
            elif named_as_image(path.name):
                other["pipes, devices or broken links"] += 1
            elif path.suffix.lower() not in _BESIDES:
                other[f"{path.suffix.lower()}"] += 1
        left = ", ".join(f"{count} {what}" for what, count in sorted(other.items()) if count)
        if left:
            self.notes.append(f"{self._name(folder)}: {left} passed over.")
        return found

    def _tell_good_folders(self, parent: Path) -> None:
        names = [folder.name for folder in _folders(parent) if is_good(folder.name) and folder.name != GOOD]
        if names:
            self.notes.append(f"{self._name(parent)}: {', '.join(names)} is taken for good images.")

    def _with_masks(self, testing: Path, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Each defect with its mask, where there is a folder of masks. Raises `DatasetError` for one without."""
        truth = _child(self._root, holds_masks)
        if truth is None:
            return entries
        if truth.name != "ground_truth":
            self.notes.append(f"{self._name(truth)} is taken for the masks of defects.")
        masks = _Masks.below(truth, files_below(truth))
        names = Counter(entry.path.stem.casefold() for entry in entries if entry.defective)
        found = []
        for entry in entries:
            inner = entry.path.relative_to(testing)
            mask = None
            if entry.defective:
                mask = masks.of(inner, alone_of_its_name=names[entry.path.stem.casefold()] == 1)
            if entry.defective and mask is None:
                wanted = self._name(truth / inner.parent / entry.path.stem)
                raise DatasetError(
                    f"The defect {entry.name} has no mask {wanted}_mask.png.",
                    f"Add it, under this name or as {entry.path.name}, or remove the folder {truth.name} to test "
                    "whole images only.",
                )
            found.append(replace(entry, mask=mask))
        return tuple(found)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _child(root: Path, named: Callable[[str], bool]) -> Path | None:
    return next((folder for folder in _folders(root) if named(folder.name)), None)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir() and not path.name.startswith("."))


def files_below(folder: Path) -> Iterator[Path]:
    """All but folders that is not hidden, in folders below and in linked ones; each folder once, however links run.

    Raises `DatasetError` for a folder that cannot be listed."""

    def unlisted(error: OSError) -> None:
        raise DatasetError(f"{error.filename} cannot be listed: {error.strerror}.", "Check the folder's rights.")

    seen: set[tuple[int, int]] = set()
    for where, folders, names in os.walk(folder, onerror=unlisted, followlinks=True):
        status = Path(where).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where, name) for name in sorted(names) if not name.startswith("."))


@dataclass(frozen=True)
class _Masks:
    """Files of masks by the folder that they lie in and by their image's name, both in lower case."""

    named: dict[tuple[tuple[str, ...], str], Path]

    @classmethod
    def below(cls, folder: Path, files: Iterable[Path]) -> Self:
        """Of two masks that one image may have, the one that is called a mask: the other may be a copy of the image."""
        found = sorted(path for path in files if named_as_image(path.name) and path.is_file())
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


def outline_of(name: str, outlines: Path) -> Path:
    """The mask that cuts out the object of that image. Raises `DatasetError` where it is missing."""
    usual = (outlines / name).with_suffix(".png")
    if usual.is_file():
        return usual
    folder = usual.parent
    files = folder.iterdir() if folder.is_dir() else ()
    outline = _Masks.below(folder, files).of(PurePath((outlines / name).name), alone_of_its_name=False)
    if outline is None:
        raise DatasetError(f"The image {name} has no mask {usual}.", "Add one to each image, white on the object.")
    return outline


@dataclass(frozen=True, eq=False)
class Sample:
    """`mask`: (H, W), True on the defect; all False on a good image; None where nobody said where the defect is."""

    entry: Entry
    picture: Picture
    mask: NDArray[np.bool_] | None


def read(entry: Entry, reduction: Reduction = whole) -> Sample:
    """The image and its masks; an image whose object is cut out is never reduced. Raises `UnreadableImage`, or
    `DatasetError` for a mask of another size."""
    picture = decode(_bytes(entry.path), whole if entry.outline is not None else reduction)
    if entry.outline is not None:
        picture = cut_out(picture, entry.outline, entry.name)
    mask = None
    if not entry.defective:
        mask = np.zeros(picture.size[::-1], dtype=bool)
    elif entry.mask is not None:
        mask = read_mask(entry.mask, picture, entry.name)
    return Sample(entry, picture, mask)


def picture_of(entry: Entry, reduction: Reduction = whole) -> Picture:
    return read(entry, reduction).picture


def _bytes(path: Path) -> bytes:
    try:
        return image_bytes(path)
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {error.strerror}.", "Check the file's rights.") from error


def cut_out(picture: Picture, path: Path, name: str) -> Picture:
    """The object of `picture` alone. Raises `DatasetError` unless the mask at `path` fits it and shows something."""
    mask = read_mask(path, picture, name)
    if not mask.any():
        raise DatasetError(f"The mask {path} is all black.", "Export it again with 8 bits, white on the object.")
    return picture.cut_out(mask)


def read_mask(path: Path, picture: Picture, name: str) -> NDArray[np.bool_]:
    """(H, W), True on the defect: above half of the brightest value, for resampled edges are gray; or not 0 in a mask
    of class numbers. Raises `DatasetError` unless it is an image of the size of `picture`."""
    try:
        mask = decode(_bytes(path))
    except UnreadableImage as error:
        raise DatasetError(f"The mask {path} cannot be read: {error.cause}", error.remedy) from error
    if mask.size != picture.size:
        (width, height), (wanted_width, wanted_height) = mask.size, picture.size
        raise DatasetError(
            f"The mask {path} has {width} x {height} pixels, but its image {name} has "
            f"{wanted_width} x {wanted_height}.",
            "Export the mask again at the size of the image.",
        )
    values = mask.pixels.max(axis=2) if mask.deep is None else mask.deep.reshape(*mask.pixels.shape[:2], -1).max(axis=2)
    ceiling = int(values.max())
    return np.asarray(values > (0 if ceiling <= _CLASS_NUMBERS else ceiling / 2))


@dataclass(frozen=True)
class Unreadable:
    """An image that had to be left out, and why."""

    name: str
    cause: str


def sift(entries: Iterable[Entry], reduction: Reduction = whole) -> Iterator[Sample | Unreadable]:
    """Each entry in order: its sample, or why it has none."""
    for entry in entries:
        try:
            yield read(entry, reduction)
        except UnreadableImage as error:
            yield Unreadable(entry.name, str(error))


def evenly(entries: Sequence[Entry], limit: int | None) -> tuple[Entry, ...]:
    """At most `limit` entries, spread evenly over all of them: the first frames of a day are not the day."""
    if limit is None or limit >= len(entries):
        return tuple(entries)
    return tuple(entries[index * len(entries) // limit] for index in range(limit))
