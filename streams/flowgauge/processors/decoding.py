"""Images out of records, on threads and ahead of their turn where there are any; as many at once as memory allows."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from threading import Lock

from flowgauge.domain.ports import Objects, Record
from flowgauge.runtime.events import Image, Refused, opened
from flowgauge.vision.decoding import Picture

_MOST_AHEAD = 64  # images, decoded, that are kept for a turn which may never come
_ROOM_BYTES = (
    2**30
)  # for images from decoding to scoring: more, and large cameras exhaust a worker; less, and threads idle
_AT_FIRST = 4  # images of a line that has not told its size: more could be too many of a large camera's
_WHILE_DECODED = 4  # times an image's pixels are in memory, at the worst moment of decoding and measuring it


class Prefetch:
    """`portions` is called from one thread; `prefetch` from any."""

    def __init__(self, objects: Objects, threads: Executor | None = None) -> None:
        self._objects = objects
        self._threads = threads
        self._lock = Lock()
        self._ahead: OrderedDict[tuple[int, int], tuple[Record, Future[Image | Refused]]] = OrderedDict()
        self._largest_bytes: dict[str, int] = {}

    def __len__(self) -> int:
        """How many wait for their turn."""
        return len(self._ahead)

    def prefetch(self, records: Sequence[Record]) -> None:
        """Begin with records that will come soon. Without threads nothing is done ahead."""
        if self._threads is None:
            return
        with self._lock:
            for record in records[: self._fitting(records)]:
                if (source := _source(record)) not in self._ahead:
                    self._ahead[source] = record, self._threads.submit(opened, record, self._objects)
            newest = [record for record, _ in reversed(self._ahead.values())]
            while len(self._ahead) > self._fitting(newest):
                self._ahead.popitem(last=False)[1][1].cancel()

    def portions(self, records: Sequence[Record]) -> Iterator[list[Image | Refused]]:
        """One item for each record, in order, in portions that memory has room for; while the caller works on one, the
        next is decoded. Raises `Unavailable` where a claim check cannot be fetched.
        """
        while records:
            size = self._fitting(records)
            portion = self._opened(records[:size])
            for item in portion:
                if isinstance(item, Image):
                    largest = max(self._largest_bytes.get(item.record.key, 0), _most_bytes(item.picture))
                    self._largest_bytes[item.record.key] = largest
            records = records[size:]
            self.prefetch(records)
            yield portion

    def _opened(self, records: Sequence[Record]) -> list[Image | Refused]:
        if self._threads is None:
            return [opened(record, self._objects) for record in records]
        return [future.result() for future in [self._begun(record, self._threads) for record in records]]

    def _begun(self, record: Record, threads: Executor) -> Future[Image | Refused]:
        with self._lock:
            begun = self._ahead.pop(_source(record), None)
        return threads.submit(opened, record, self._objects) if begun is None else begun[1]

    def _fitting(self, records: Sequence[Record]) -> int:
        """How many of the first `records` may be in memory together, by the largest image of each line; one always."""
        left = _ROOM_BYTES
        for count, record in enumerate(records[:_MOST_AHEAD]):
            left -= self._largest_bytes.get(record.key, _ROOM_BYTES // _AT_FIRST)
            if left < 0:
                return max(1, count)
        return min(len(records), _MOST_AHEAD)


def _source(record: Record) -> tuple[int, int]:
    return record.partition, record.offset


def _most_bytes(picture: Picture) -> int:
    return _WHILE_DECODED * (picture.pixels.nbytes + (0 if picture.deep is None else picture.deep.nbytes))
