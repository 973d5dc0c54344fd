"""Image events: from a record to pixels, ahead of their turn where threads are free, and every way that fails."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from hashlib import sha256

from pydantic import ValidationError

from flowgauge.domain.errors import UnreadableImage, UserError
from flowgauge.domain.messages import HEADERS, IMAGES, Event
from flowgauge.domain.object_keys import verdict_id
from flowgauge.domain.ports import Objects, Outgoing, Record
from flowgauge.models.prediction import Predictor
from flowgauge.vision.decoding import Picture, decode

_REFERENCE, _REFERENCE_SHA256, _REFERENCE_SIZE = "ce_dataref", "ce_datasha256", "ce_datasize"

# decoded images that wait for a turn which may never come; fewer than two batches, and scoring waits for decoders
_MOST_AHEAD = 64
# for them: more, and 24-megapixel cameras exhaust a worker; less leaves decoders idle
_ROOM_BYTES = 512 * 2**20
# until an image has told its size: more could be too many of a large camera's, fewer leave decoders idle at a start
_AT_FIRST = 4


@dataclass(frozen=True)
class Image:
    """An event that can be scored. `uri` is set where the image lies in the store already (a claim check)."""

    record: Record
    event: Event
    data: bytes
    picture: Picture
    uri: str | None = None

    @property
    def key(self) -> str:
        """What two deliveries of one event share."""
        return str(verdict_id(self.event.source, self.event.image_id))

    def seen_by(self, gauge: Predictor | None) -> "Image":
        """With the picture as `gauge` sees it: statistics and heatmaps go by its rule for 16-bit files too."""
        return self if gauge is None else replace(self, picture=gauge.seen(self.picture))


@dataclass(frozen=True)
class Refused:
    """An event that cannot be scored, and why."""

    record: Record
    reason: str


def image_record(event: Event, data: bytes) -> Outgoing:
    """The record that publishes `data` inline."""
    return Outgoing(IMAGES, event.line, data, event.headers())


def opened(record: Record, objects: Objects) -> Image | Refused:
    """The image in `record`, or why there is none. Raises `Unavailable` where its claim check cannot be fetched."""
    try:
        event = Event.from_headers(dict(record.headers), record.key, record.at)
        data, uri = _data(record, objects)
        return Image(record, event, data, decode(data), uri)
    except ValidationError as error:
        problem = error.errors()[0]
        header = HEADERS[str(problem["loc"][0])]
        complaint = problem["msg"].removeprefix("Value error, ").rstrip(".")
        return Refused(record, f"The headers describe no image: {header}: {complaint}.")
    except (UnreadableImage, UserError) as error:
        return Refused(record, str(error))


def _data(record: Record, objects: Objects) -> tuple[bytes, str | None]:
    """The encoded image: the record's value or, with its URI, the object that the headers name (a claim check)."""
    reference = record.headers.get(_REFERENCE)
    if reference is None:
        return record.value, None
    try:
        data = objects.get(objects.name(reference))
    except KeyError as error:
        raise UnreadableImage(f"There is no object {reference!r} in our store.", "Send the image again.") from error
    # without the check, an object that was overwritten meanwhile would be scored as the image that was announced
    for header, actual in ((_REFERENCE_SHA256, sha256(data).hexdigest()), (_REFERENCE_SIZE, str(len(data)))):
        if record.headers.get(header, "").lower() != actual:
            raise UnreadableImage(f"The object is not what {header} says.", "Send the image again.")
    return data, reference


class Prefetch:
    """Decodes images on `threads`, as the gauge that `loaded` names for their line sees them.

    `images` is called from one thread; `prefetch` and, on the decoding threads, `loaded` from any.
    """

    def __init__(
        self,
        objects: Objects,
        threads: Executor | None = None,
        loaded: Callable[[str], Predictor | None] = lambda line: None,
    ) -> None:
        self._objects = objects
        self._threads = threads
        self._loaded = loaded
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
                self._ahead[source] = self._threads.submit(self._decoded, record)
        while len(self._ahead) > most:
            self._ahead.popitem(last=False)[1].cancel()

    def images(self, records: Sequence[Record]) -> list[Image | Refused]:
        """One for each record, in order. Raises `Unavailable` where a claim check cannot be fetched."""
        if self._threads is None:
            return [self._decoded(record) for record in records]
        # all are begun before the first is waited for, or the threads would work one after the other
        begun: list[Future[Image | Refused]] = []
        for record in records:
            ahead = self._ahead.pop((record.partition, record.offset), None)
            begun.append(ahead or self._threads.submit(self._decoded, record))
        found = [future.result() for future in begun]
        sizes = [item.picture.pixels.nbytes for item in found if isinstance(item, Image)]
        self._largest_bytes = max([self._largest_bytes, *sizes])
        return found

    def _decoded(self, record: Record) -> Image | Refused:
        item = opened(record, self._objects)
        # Here and not on the scoring thread: a 24-megapixel 16-bit file costs it half a second. A gauge that is
        # swapped before the image has its turn applies its own rule again, to the 16-bit values, which are kept.
        return item.seen_by(self._loaded(item.event.line)) if isinstance(item, Image) else item
