"""Many pictures of which memory holds few: training images at the camera's size are looked at one after the other."""

from collections.abc import Callable, Collection, Iterator

from flowgauge.vision.decoding import Picture

ROOM_BYTES = 512 * 2**20
"""Of decoded pictures that stay in memory: with less, sets of small images are decoded again and again; with more, a
fit needs that much more memory."""


class Pictures(Collection[Picture]):
    """In the order in which they were added; those beyond `room_bytes` are decoded anew each time somebody looks."""

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self._sources: list[Picture | Callable[[], Picture]] = []
        self._room = room_bytes

    def add(self, picture: Picture, again: Callable[[], Picture]) -> None:
        """`again` gives the same picture once more."""
        size = picture.pixels.nbytes + (0 if picture.deep is None else picture.deep.nbytes)
        keep = size <= self._room
        self._room -= size if keep else 0
        self._sources.append(picture if keep else again)

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[Picture]:
        return (source if isinstance(source, Picture) else source() for source in self._sources)

    def __contains__(self, picture: object) -> bool:
        return any(each is picture for each in self)
