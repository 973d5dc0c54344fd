"""Many pictures of which memory holds few: training images at the camera's size are looked at one after the other."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

from flowgauge.domain.messages import Statistics
from flowgauge.vision.decoding import Picture

ROOM_BYTES = 64 * 2**20
"""Of decoded pictures that stay in memory: with less, small sets of small images are decoded again and again; with
more, what looks at them needs that much more memory."""

LARGE_BYTES = 8 * 2**20
"""Of one picture, some three megapixels: from there on none stays. With more, the few of a large camera that have room
take memory for as long as the fit runs and spare little; with less, images of a megapixel are decoded twice."""

BATCH_BYTES = 256 * 2**20
"""Of pictures that are looked at together: with less, small batches of cameras of a few megapixels keep a GPU waiting;
with more, sixteen pictures of 24 megapixels take more than all else."""

Item = TypeVar("Item")


def in_batches(items: Iterable[Item], most: int, picture: Callable[[Item], Picture | None]) -> Iterator[list[Item]]:
    """`most` at a time, or fewer, as soon as their pictures take `BATCH_BYTES`; they are decoded as they come."""
    batch: list[Item] = []
    left = BATCH_BYTES
    for item in items:
        batch.append(item)
        left -= 0 if (seen := picture(item)) is None else seen.nbytes
        if len(batch) == most or left <= 0:
            yield batch
            batch, left = [], BATCH_BYTES
    if batch:
        yield batch


class Pictures(Collection[Picture]):
    """In the order in which they were added; large ones, and those beyond `room_bytes`, are decoded anew each time
    somebody looks.

    `seen` are the statistics of each, and the highest value of a 16-bit file: who asks for no more need not decode
    them again.
    """

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self._sources: list[Callable[[], Picture]] = []
        self._kept: dict[int, Picture] = {}
        self._room = room_bytes
        self.seen: list[tuple[Statistics, int | None]] = []

    def add(self, picture: Picture, again: Callable[[], Picture]) -> None:
        """`again` gives the same picture once more."""
        size = picture.nbytes
        self.seen.append((picture.statistics, None if picture.deep is None else int(picture.deep.max())))
        if size <= min(self._room, LARGE_BYTES):
            self._room -= size
            self._kept[len(self._sources)] = picture
        self._sources.append(again)

    def let_go(self) -> None:
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[Picture]:
        return (self._kept.get(number) or source() for number, source in enumerate(self._sources))

    def __contains__(self, picture: object) -> bool:
        return any(each is picture for each in self)
