"""Images out of records, on threads and ahead of their turn where there are any."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor, Future

from flowgauge.domain.ports import Objects, Record
from flowgauge.runtime.events import Image, Refused, opened

_MOST_AHEAD = 64  # images, decoded, that are kept for a turn which may never come


class Prefetch:
    """`images` is called from one thread; `prefetch` from any."""

    def __init__(self, objects: Objects, threads: Executor | None = None) -> None:
        self._objects = objects
        self._threads = threads
        self._ahead: OrderedDict[tuple[int, int], Future[Image | Refused]] = OrderedDict()

    def __len__(self) -> int:
        """How many wait for their turn."""
        return len(self._ahead)

    def prefetch(self, records: Sequence[Record]) -> None:
        """Begin with records that will come soon. Without threads nothing is done ahead."""
        if self._threads is None:
            return
        for record in records[:_MOST_AHEAD]:
            source = record.partition, record.offset
            if source not in self._ahead:
                self._ahead[source] = self._threads.submit(opened, record, self._objects)
        while len(self._ahead) > _MOST_AHEAD:
            self._ahead.popitem(last=False)[1].cancel()

    def images(self, records: Sequence[Record]) -> list[Image | Refused]:
        """One for each record, in order. Raises `Unavailable` where a claim check cannot be fetched."""
        if self._threads is None:
            return [opened(record, self._objects) for record in records]
        return [future.result() for future in [self._begun(record, self._threads) for record in records]]

    def _begun(self, record: Record, threads: Executor) -> Future[Image | Refused]:
        begun = self._ahead.pop((record.partition, record.offset), None)
        return begun or threads.submit(opened, record, self._objects)
