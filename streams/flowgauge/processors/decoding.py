"""Images out of records, on threads and ahead of their turn where there are any."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor, Future

from flowgauge.domain.ports import Objects, Record
from flowgauge.runtime.events import Image, Refused, opened

_MOST_AHEAD = 64  # images, decoded, that are kept for a turn which may never come
_ROOM_BYTES = 512 * 2**20  # for them: more, and 24-megapixel cameras exhaust a worker; less leaves decoders idle
_AT_FIRST = 4  # until an image has told its size: more could be too many of a large camera's


class Prefetch:
    """`images` is called from one thread; `prefetch` from any."""

    def __init__(self, objects: Objects, threads: Executor | None = None) -> None:
        self._objects = objects
        self._threads = threads
        self._ahead: OrderedDict[tuple[int, int], Future[Image | Refused]] = OrderedDict()
        self._largest_bytes = 0

    def __len__(self) -> int:
        """How many wait for their turn."""
        return len(self._ahead)

    def prefetch(self, records: Sequence[Record]) -> None:
        """Begin with records that will come soon. Without threads nothing is done ahead."""
        if self._threads is None:
            return
        most = min(_MOST_AHEAD, max(1, _ROOM_BYTES // self._largest_bytes)) if self._largest_bytes else _AT_FIRST
        for record in records[:most]:
            source = record.partition, record.offset
            if source not in self._ahead:
                self._ahead[source] = self._threads.submit(opened, record, self._objects)
        while len(self._ahead) > most:
            self._ahead.popitem(last=False)[1].cancel()

    def images(self, records: Sequence[Record]) -> list[Image | Refused]:
        """One for each record, in order. Raises `Unavailable` where a claim check cannot be fetched."""
        if self._threads is None:
            return [opened(record, self._objects) for record in records]
        found = [future.result() for future in [self._begun(record, self._threads) for record in records]]
        sizes = [item.picture.pixels.nbytes for item in found if isinstance(item, Image)]
        self._largest_bytes = max([self._largest_bytes, *sizes])
        return found

    def _begun(self, record: Record, threads: Executor) -> Future[Image | Refused]:
        begun = self._ahead.pop((record.partition, record.offset), None)
        return begun or threads.submit(opened, record, self._objects)
