"""What is kept of an image beside its verdict: the image itself, and a heatmap where a person may want to look."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import IMAGES, Decision, Verdict
from flowgauge.domain.object_keys import heatmap_object, image_object
from flowgauge.domain.ports import Objects
from flowgauge.models.prediction import Judgement
from flowgauge.runtime.events import Image
from flowgauge.runtime.outbox import Debt, Debts
from flowgauge.runtime.task import Partition
from flowgauge.vision.heatmaps import heatmap_png

ROOM_BYTES = 256 * 2**20  # of images that wait in memory for their store; what exceeds it is read again from the log
_AT_ONCE = 16  # images that are read again between two batches


@dataclass(frozen=True)
class Scored:
    """`judgement` is None where the line has no gauge."""

    image: Image
    verdict: Verdict
    judgement: Judgement | None


class Evidence:
    """Stored under names that depend on the image alone: so a verdict can name what will be there, storing it again
    changes nothing, and a store that is away or full does not stop scoring.

    What is owed when a worker ends is found again by `recover`. `remake` scores an image of ours once more.
    """

    def __init__(
        self,
        objects: Objects,
        debts: Debts,
        remake: Callable[[Verdict], Scored | None],
        room_bytes: int,
    ) -> None:
        self.debts = debts
        self._objects = objects
        self._remake = remake
        self._room = room_bytes
        self._distant: deque[Verdict] = deque()

    def image_uri(self, image: Image) -> str:
        """Where the image will lie, or lies already."""
        event = image.event
        return image.uri or self._objects.uri(image_object(event.line, event.captured_at, event.image_id))

    def heatmap_uri(self, image: Image, judgement: Judgement | None) -> str | None:
        """Where the heatmap will lie; None where nobody needs one."""
        if judgement is None or judgement.decision is Decision.PASS:
            return None
        event = image.event
        return self._objects.uri(heatmap_object(event.line, event.captured_at, event.image_id))

    def owe(self, scored: Iterable[Scored]) -> None:
        """To be followed by `settle`."""
        for each in scored:
            if self.debts.size < self._room:
                self.debts.owe(self._debt(each))
            else:
                self._distant.append(each.verdict)

    def recover(self, verdicts: Iterable[Verdict]) -> None:
        """What a worker before this one may have left: objects that are there already are stored once more."""
        self._distant.extend(verdicts)

    def settle(self) -> None:
        """Go on paying; returns at once where others do it. Reads again what had no room before."""
        if self._distant and self.debts.trouble is None:
            try:
                self._reopen(_AT_ONCE)
            except Unavailable as error:
                self.debts.postpone(error)
        self.debts.settle()

    def finish(self) -> None:
        """Raises the `Unavailable` that keeps something from being stored."""
        while self._distant:
            self._reopen(_AT_ONCE)
            self.debts.finish()
        self.debts.finish()

    @property
    def owed(self) -> int:
        """Images whose evidence is not all stored."""
        return len(self._distant) + len(self.debts)

    def first(self, place: Partition) -> int | None:
        """The lowest image offset of `place` that something is owed for."""
        distant = (verdict.source.offset for verdict in self._distant if (IMAGES, verdict.source.partition) == place)
        owed = [offset for offset in (self.debts.first(place), min(distant, default=None)) if offset is not None]
        return min(owed, default=None)

    def _reopen(self, most: int) -> None:
        while self._distant and most and self.debts.size < self._room:
            again = self._remake(self._distant[0])
            self._distant.popleft()
            if again is not None:
                self.debts.owe(self._debt(again))
            most -= 1

    def _debt(self, scored: Scored) -> Iterator[Debt]:
        verdict = scored.verdict
        pieces = list(self._pieces(scored))
        if pieces:
            yield Debt(
                place=(IMAGES, verdict.source.partition),
                offset=verdict.source.offset,
                line=verdict.line,
                size=len(scored.image.data) + (scored.image.picture.pixels.nbytes if verdict.heatmap_uri else 0),
                pay=lambda: [piece() for piece in pieces],
            )

    def _pieces(self, scored: Scored) -> Iterator[Callable[[], object]]:
        image, verdict = scored.image, scored.verdict
        if image.uri is None and verdict.image_uri is not None:
            yield partial(self._objects.put, self._objects.name(verdict.image_uri), image.data, _tags(verdict))
        if scored.judgement is not None and verdict.heatmap_uri is not None:
            yield partial(self._put_heatmap, verdict, verdict.heatmap_uri, image, scored.judgement)

    def _put_heatmap(self, verdict: Verdict, uri: str, image: Image, judgement: Judgement) -> None:
        png = heatmap_png(image.picture, judgement.anomaly_map, judgement.map_ceiling)
        self._objects.put(self._objects.name(uri), png, _tags(verdict))


def _tags(verdict: Verdict) -> dict[str, str]:
    """What rules of retention go by."""
    return {"decision": verdict.decision.value}
