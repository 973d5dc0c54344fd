"""What is kept of an image beside its verdict: the image itself, and a heatmap where a person may want to look. Uploads
wait in an outbox while their store is away."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from threading import Condition

from flowgauge.domain.backoff import Backoff
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import IMAGES, Decision, Verdict
from flowgauge.domain.object_keys import heatmap_object, image_object
from flowgauge.domain.ports import Clock, Objects, Record
from flowgauge.models.prediction import Prediction
from flowgauge.runtime.events import Image
from flowgauge.runtime.task import Partition
from flowgauge.vision.heatmaps import Backdrop, backdrop, heatmap_over

# of images that wait in memory for their store: what exceeds it is read again from the log, more exhausts a worker
ROOM_BYTES = 256 * 2**20
# images that are read again between two batches: more delay the next batch, fewer the end of what is pending
_AT_ONCE = 16
# uploads beside each other: fewer, and a camera's images come quicker than a store at a distance takes them; more only
# fill its queue
UPLOADERS = 4


@dataclass(frozen=True)
class Scored:
    """What is left of an image that has been scored; its pixels would fill the memory. `uri` is set where the image was
    in the store before; `prediction` is None where the line has no gauge, and `backdrop` where no heatmap is due.
    """

    record: Record
    data: bytes
    uri: str | None
    verdict: Verdict
    prediction: Prediction | None
    backdrop: Backdrop | None

    @classmethod
    def of(cls, image: Image, verdict: Verdict, prediction: Prediction | None) -> "Scored":
        drawn_on = None if verdict.heatmap_uri is None else backdrop(image.picture)
        return cls(image.record, image.data, image.uri, verdict, prediction, drawn_on)


@dataclass(frozen=True)
class Upload:
    """What the store lacks of one record. `put` may be repeated and raises `Unavailable`; `size` is what waiting costs,
    in bytes of memory."""

    topic_partition: Partition
    offset: int
    line: str
    size: int
    put: Callable[[], None]


class Outbox:
    """Uploads that are tried until they succeed; `enqueue`, `flush` and `finish` are called from one thread.

    Without `executor`, `flush` uploads in the caller's thread; with one, up to `UPLOADERS` threads do so beside it.
    While the store is away nobody tries before a pause has passed (see `Backoff`). `size` is what waits, in bytes;
    `unavailable` is why the last attempt failed, None once one has succeeded.
    """

    def __init__(self, clock: Clock, executor: Executor | None = None) -> None:
        self.size = 0
        self.unavailable: Unavailable | None = None
        self._executor = executor
        self._backoff = Backoff(clock)
        self._lock = Condition()
        self._waiting: deque[Upload] = deque()
        self._pending: defaultdict[Partition, dict[int, Upload]] = defaultdict(dict)
        self._at_work = 0
        self._failure: BaseException | None = None

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._pending.values()))

    @property
    def lines(self) -> list[str]:
        """Those that something is pending of."""
        with self._lock:
            return sorted({upload.line for uploads in self._pending.values() for upload in uploads.values()})

    def first(self, topic_partition: Partition) -> int | None:
        """The lowest offset of `topic_partition` that something is pending of."""
        with self._lock:
            return min(self._pending[topic_partition], default=None)

    def enqueue(self, upload: Upload) -> None:
        """To be followed by `flush`."""
        with self._lock:
            self._waiting.append(upload)
            self._pending[upload.topic_partition][upload.offset] = upload
            self.size += upload.size

    def flush(self) -> None:
        """Upload what can be uploaded, or see to it that others do. Raises what an upload raised, but `Unavailable`."""
        if self._failure is not None:
            raise self._failure
        if self._backoff.waiting():
            return
        if self._executor is None:
            self._upload_all()
            return
        with self._lock:
            missing = min(len(self._waiting), UPLOADERS) - self._at_work
            self._at_work += max(0, missing)
        for _ in range(missing):
            self._executor.submit(self._work)

    def postpone(self, error: Unavailable) -> None:
        """Nothing is tried before a pause has passed."""
        with self._lock:
            self.unavailable = error
            self._backoff.failed()

    def finish(self) -> None:
        """Return when nothing is pending. Raises the `Unavailable` that prevents it."""
        self._upload_all()
        with self._lock:
            self._lock.wait_for(lambda: not self._at_work)
        if self._failure is not None:
            raise self._failure
        if self.unavailable is not None:
            raise self.unavailable

    def _work(self) -> None:
        try:
            self._upload_all()
        except BaseException as error:
            self._failure = error
        finally:
            with self._lock:
                self._at_work -= 1
                self._lock.notify_all()

    def _upload_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                upload = self._waiting.popleft()
            try:
                upload.put()
            except Unavailable as error:
                with self._lock:
                    self._waiting.appendleft(upload)
                self.postpone(error)
                return
            with self._lock:
                # an offset is found twice at a start where two workers believed that the partition was theirs
                self._pending[upload.topic_partition].pop(upload.offset, None)
                self.size -= upload.size
                self.unavailable = None
                self._backoff.succeeded()


class Artifacts:
    """Stored under names that depend on the image alone: so a verdict can name what will be there, storing it again
    changes nothing, and a store that is away or full does not stop scoring.

    What is pending when a worker ends is found again by `recover`. `remake` scores an image of ours once more.
    """

    def __init__(
        self, objects: Objects, outbox: Outbox, remake: Callable[[Verdict], Scored | None], room_bytes: int
    ) -> None:
        self.outbox = outbox
        self._objects = objects
        self._remake = remake
        self._room = room_bytes
        # partition and offset of the image, and its verdict as it is written, a quarter of what it takes as an object
        self._distant: deque[tuple[int, int, bytes]] = deque()

    def uris(self, image: Image, at: datetime, prediction: Prediction | None) -> tuple[str, str | None]:
        """Where the image of an event `at` will lie, or lies already, and its heatmap; None where nobody needs one."""
        line, image_id, source = image.event.line, image.event.image_id, image.event.source
        image_uri = image.uri or self._objects.uri(image_object(line, at, image_id, source))
        if prediction is None or prediction.decision is Decision.PASS:
            return image_uri, None
        return image_uri, self._objects.uri(heatmap_object(line, at, image_id, source))

    def enqueue(self, scored: Iterable[Scored]) -> None:
        """To be followed by `flush`."""
        for each in scored:
            if self.outbox.size < self._room:
                self._enqueue(each)
            else:
                self._put_off(each.verdict)

    def recover(self, verdicts: Iterable[Verdict]) -> None:
        """What a worker before this one may have left: objects that are there already are stored once more."""
        for verdict in verdicts:
            self._put_off(verdict)

    def _put_off(self, verdict: Verdict) -> None:
        self._distant.append((verdict.source.partition, verdict.source.offset, verdict.encode()))

    def flush(self) -> None:
        """Go on uploading; returns at once where others do it. Reads again what had no room before."""
        if self._distant and self.outbox.unavailable is None:
            try:
                self._reopen()
            except Unavailable as error:
                self.outbox.postpone(error)
        self.outbox.flush()

    def finish(self) -> None:
        """Raises the `Unavailable` that keeps something from being stored."""
        while self._distant:
            self._reopen()
            self.outbox.finish()
        self.outbox.finish()

    @property
    def pending(self) -> int:
        """Images that are not stored yet, or whose heatmaps are not."""
        return len(self._distant) + len(self.outbox)

    def first(self, topic_partition: Partition) -> int | None:
        """The lowest image offset of `topic_partition` that something is pending of."""
        offsets = [offset for partition, offset, _ in self._distant if (IMAGES, partition) == topic_partition]
        in_outbox = self.outbox.first(topic_partition)
        return min(offsets if in_outbox is None else [*offsets, in_outbox], default=None)

    def _reopen(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._distant or self.outbox.size >= self._room:
                return
            again = self._remake(Verdict.decode(self._distant[0][2]))
            # only now: `remake` raises `Unavailable` while the log is away, and the image stays pending
            self._distant.popleft()
            if again is not None:
                self._enqueue(again)

    def _enqueue(self, scored: Scored) -> None:
        verdict, prediction, drawn_on = scored.verdict, scored.prediction, scored.backdrop
        # a claim check lies in the store already
        image_uri = None if scored.uri is not None else verdict.image_uri
        heatmap_uri = None if prediction is None else verdict.heatmap_uri
        tags = {"decision": verdict.decision.value}

        def put() -> None:
            if image_uri is not None:
                self._objects.put(self._objects.name(image_uri), scored.data, tags)
            if heatmap_uri is not None and prediction is not None and drawn_on is not None:
                png = heatmap_over(drawn_on, prediction.anomaly_map, prediction.map_ceiling)
                self._objects.put(self._objects.name(heatmap_uri), png, tags)

        if image_uri is not None or heatmap_uri is not None:
            size = len(scored.data) + (0 if drawn_on is None else drawn_on.nbytes)
            source = IMAGES, verdict.source.partition
            self.outbox.enqueue(Upload(source, verdict.source.offset, verdict.line, size, put))
