"""Work that is owed to a store which may be away: tried until it succeeds, in the background where there are hands."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from threading import Condition

from flowgauge.domain.backoff import Backoff
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.ports import Clock
from flowgauge.runtime.task import Partition


@dataclass(frozen=True)
class Upload:
    """`pay` may be repeated and raises `Unavailable`; `size` is what waiting costs, in bytes of memory."""

    topic_partition: Partition
    offset: int
    line: str
    size: int
    pay: Callable[[], object]


class Outbox:
    """Owed for records of partitions; `enqueue`, `flush` and `finish` are called from one thread.

    Without `executor`, `flush` pays in the caller's thread; with one, up to `hands` at a time pay beside it. While
    the store is away nobody tries before a pause has passed, which doubles from a tenth of a second to ten.
    """

    def __init__(self, clock: Clock, executor: Executor | None = None, hands: int = 4) -> None:
        self._backoff = Backoff(clock)
        self._executor = executor
        self._hands = hands
        self._lock = Condition()
        self._waiting: deque[Upload] = deque()
        self._unpaid: defaultdict[Partition, set[int]] = defaultdict(set)
        self._lines: defaultdict[str, int] = defaultdict(int)
        self._at_work = 0
        self._failure: BaseException | None = None
        self.size = 0
        self.unavailable: Unavailable | None = None
        """Why the last attempt failed; None once one has succeeded."""

    def __len__(self) -> int:
        return sum(self._lines.values())

    @property
    def lines(self) -> list[str]:
        """Those that something is owed for."""
        with self._lock:
            return sorted(self._lines)

    def first(self, topic_partition: Partition) -> int | None:
        """The lowest offset of `topic_partition` that something is owed for."""
        with self._lock:
            return min(self._unpaid[topic_partition], default=None)

    def enqueue(self, outbox: Iterable[Upload]) -> None:
        """At most one for each offset."""
        with self._lock:
            for upload in outbox:
                self._waiting.append(upload)
                self._unpaid[upload.topic_partition].add(upload.offset)
                self._lines[upload.line] += 1
                self.size += upload.size

    def flush(self) -> None:
        """Pay what can be paid, or see to it that others do. Raises what a payment raised, but `Unavailable`."""
        self._raise_failure()
        if self._backoff.waiting():
            return
        if self._executor is None:
            self._pay_all()
            return
        with self._lock:
            missing = min(len(self._waiting), self._hands) - self._at_work
            self._at_work += max(0, missing)
        for _ in range(missing):
            self._executor.submit(self._work)

    def postpone(self, error: Unavailable) -> None:
        """Nothing is tried before a pause has passed."""
        with self._lock:
            self.unavailable = error
            if not self._backoff.waiting():  # else another hand has just failed too
                self._backoff.failed()

    def finish(self) -> None:
        """Return when everything is paid. Raises the `Unavailable` that prevents it."""
        self._pay_all()
        with self._lock:
            self._lock.wait_for(lambda: not self._at_work)
        self._raise_failure()
        if self.unavailable is not None:
            raise self.unavailable

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            self._pay_all()
        except BaseException as error:
            self._failure = error
        finally:
            with self._lock:
                self._at_work -= 1
                self._lock.notify_all()

    def _pay_all(self) -> None:
        while (upload := self._next()) is not None:
            try:
                upload.pay()
            except Unavailable as error:
                with self._lock:
                    self._waiting.appendleft(upload)
                self.postpone(error)
                return
            self._paid(upload)

    def _next(self) -> Upload | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _paid(self, upload: Upload) -> None:
        with self._lock:
            self._unpaid[upload.topic_partition].discard(upload.offset)
            self._lines[upload.line] -= 1
            if not self._lines[upload.line]:
                del self._lines[upload.line]
            self.size -= upload.size
            self.unavailable = None
            self._backoff.succeeded()
