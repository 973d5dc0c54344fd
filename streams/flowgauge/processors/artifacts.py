"""What is kept of an image beside its verdict: the image itself, and a heatmap where a person may want to look."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import IMAGES, Decision, Verdict
from flowgauge.domain.object_keys import heatmap_object, image_object
from flowgauge.domain.ports import Objects, Record
from flowgauge.models.prediction import Prediction
from flowgauge.runtime.events import Image
from flowgauge.runtime.outbox import Outbox, Upload
from flowgauge.runtime.task import Partition
from flowgauge.vision.heatmaps import Backdrop, backdrop, heatmap_over

ROOM_BYTES = 256 * 2**20  # of images that wait in memory for their store; what exceeds it is read again from the log
_AT_ONCE = 16  # images that are read again between two batches


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


class Artifacts:
    """Stored under names that depend on the image alone: so a verdict can name what will be there, storing it again
    changes nothing, and a store that is away or full does not stop scoring.

    What is owed when a worker ends is found again by `recover`. `remake` scores an image of ours once more.
    """

    def __init__(
        self,
        objects: Objects,
        outbox: Outbox,
        remake: Callable[[Verdict], Scored | None],
        room_bytes: int,
    ) -> None:
        self.outbox = outbox
        self._objects = objects
        self._remake = remake
        self._room = room_bytes
        self._distant: deque[Verdict] = deque()

    def image_uri(self, image: Image, at: datetime) -> str:
        """Where the image of an event `at` will lie, or lies already."""
        event = image.event
        return image.uri or self._objects.uri(image_object(event.line, at, event.image_id, event.source))

    def heatmap_uri(self, image: Image, at: datetime, prediction: Prediction | None) -> str | None:
        """Where the heatmap will lie; None where nobody needs one."""
        if prediction is None or prediction.decision is Decision.PASS:
            return None
        event = image.event
        return self._objects.uri(heatmap_object(event.line, at, event.image_id, event.source))

    def enqueue(self, scored: Iterable[Scored]) -> None:
        """To be followed by `flush`."""
        for each in scored:
            if self.outbox.size < self._room:
                self.outbox.enqueue(self._upload(each))
            else:
                self._distant.append(each.verdict)

    def recover(self, verdicts: Iterable[Verdict]) -> None:
        """What a worker before this one may have left: objects that are there already are stored once more."""
        self._distant.extend(verdicts)

    def flush(self) -> None:
        """Go on paying; returns at once where others do it. Reads again what had no room before."""
        if self._distant and self.outbox.unavailable is None:
            try:
                self._reopen(_AT_ONCE)
            except Unavailable as error:
                self.outbox.postpone(error)
        self.outbox.flush()

    def finish(self) -> None:
        """Raises the `Unavailable` that keeps something from being stored."""
        while self._distant:
            self._reopen(_AT_ONCE)
            self.outbox.finish()
        self.outbox.finish()

    @property
    def pending(self) -> int:
        """Images whose evidence is not all stored."""
        return len(self._distant) + len(self.outbox)

    def first(self, topic_partition: Partition) -> int | None:
        """The lowest image offset of `topic_partition` that something is owed for."""
        distant = (
            verdict.source.offset for verdict in self._distant if (IMAGES, verdict.source.partition) == topic_partition
        )
        pending = [
            offset for offset in (self.outbox.first(topic_partition), min(distant, default=None)) if offset is not None
        ]
        return min(pending, default=None)

    def _reopen(self, most: int) -> None:
        while self._distant and most and self.outbox.size < self._room:
            again = self._remake(self._distant[0])
            self._distant.popleft()
            if again is not None:
                self.outbox.enqueue(self._upload(again))
            most -= 1

    def _upload(self, scored: Scored) -> Iterator[Upload]:
        verdict = scored.verdict
        pieces = list(self._pieces(scored))
        if pieces:
            yield Upload(
                topic_partition=(IMAGES, verdict.source.partition),
                offset=verdict.source.offset,
                line=verdict.line,
                size=len(scored.data) + (0 if scored.backdrop is None else scored.backdrop.gray.nbytes),
                pay=lambda: [piece() for piece in pieces],
            )

    def _pieces(self, scored: Scored) -> Iterator[Callable[[], object]]:
        verdict = scored.verdict
        if scored.uri is None and verdict.image_uri is not None:
            yield partial(self._objects.put, self._objects.name(verdict.image_uri), scored.data, _tags(verdict))
        if scored.prediction is not None and scored.backdrop is not None and verdict.heatmap_uri is not None:
            yield partial(self._put_heatmap, verdict, verdict.heatmap_uri, scored.backdrop, scored.prediction)

    def _put_heatmap(self, verdict: Verdict, uri: str, drawn_on: Backdrop, prediction: Prediction) -> None:
        png = heatmap_over(drawn_on, prediction.anomaly_map, prediction.map_ceiling)
        self._objects.put(self._objects.name(uri), png, _tags(verdict))


def _tags(verdict: Verdict) -> dict[str, str]:
    """What rules of retention go by."""
    return {"decision": verdict.decision.value}
