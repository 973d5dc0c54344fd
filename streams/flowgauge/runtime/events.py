"""Image events: from a record to pixels, ahead of their turn where threads are free, and every way that fails."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from hashlib import sha256
from threading import Lock

from pydantic import ValidationError

from flowgauge.domain.errors import ObjectTooLarge, UnreadableImage, UserError
from flowgauge.domain.image_limits import MAX_MEGAPIXELS, current_limits
from flowgauge.domain.messages import HEADERS, IMAGES, Event
from flowgauge.domain.object_keys import verdict_id
from flowgauge.domain.ports import Objects, Outgoing, Record
from flowgauge.models.prediction import Predictor
from flowgauge.vision.decoding import Picture, decode, whole

_QUOTED = 200  # characters of a header in a reason
# bytes that fit in 64 bits; longer, and Python refuses to read some as a number, which would end the worker
_SIZE = re.compile("[0-9]{1,18}")
_REFERENCE, _REFERENCE_SHA256, _REFERENCE_SIZE = "ce_dataref", "ce_datasha256", "ce_datasize"

# decoded images that wait for a turn which may never come; fewer than two batches, and scoring waits for decoders
_MOST_AHEAD = 64
# for images from decoding to scoring: more, and large cameras exhaust a worker; less leaves decoders idle
_ROOM_BYTES = 2**30
# images of a line that has not told its size: more could be too many of a large camera's, fewer leave decoders idle
_AT_FIRST = 4
# times that a picture's pixels are in memory at the worst moment of decoding and measuring it
_WHILE_DECODED = 4
# of each pixel of the whole image while it is decoded, whatever it is then reduced to: as Pillow holds it
_PIXEL_BYTES = 4

Loaded = Callable[[str], Predictor | None]
"""The gauge of a line that is in memory; None where there is none."""


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
        if gauge is None:
            return self
        preprocessing = gauge.manifest.preprocessing
        # decoded for a gauge that was coarser, and that has been swapped since
        again = not preprocessing.resolves(self.picture)
        return replace(self, picture=gauge.seen(preprocessing.decode(self.data) if again else self.picture))


@dataclass(frozen=True)
class Refused:
    """An event that cannot be scored, and why."""

    record: Record
    reason: str


def image_record(event: Event, data: bytes) -> Outgoing:
    """The record that publishes `data` inline."""
    return Outgoing(IMAGES, event.line, data, event.headers())


def nothing_loaded(line: str) -> None:
    """No line has a gauge."""


def opened(record: Record, objects: Objects, loaded: Loaded = nothing_loaded) -> Image | Refused:
    """The image in `record`, decoded as far as the gauge that is `loaded` for its line needs, or why there is none.
    Raises `Unavailable` where its claim check cannot be fetched.
    """
    try:
        event = Event.from_headers(dict(record.headers), record.key, record.at)
        data, uri = _data(record, objects)
        gauge = loaded(event.line)
        reduction = whole if gauge is None else gauge.manifest.preprocessing.reduction
        # a gauge that is swapped before the image has its turn applies its own rule again, to the 16-bit values
        return Image(record, event, data, decode(data, reduction), uri).seen_by(gauge)
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
    size, limit = record.headers.get(_REFERENCE_SIZE, ""), current_limits().max_bytes
    if not _SIZE.fullmatch(size):
        raise UnreadableImage(_not_as_announced(_REFERENCE_SIZE), "Send the image again.")
    if int(size) > limit:
        raise UnreadableImage(
            f"{_REFERENCE_SIZE} announces {size} bytes, more than the limit of {limit}.",
            f"Send a smaller image, or raise {MAX_MEGAPIXELS}: the limit is eight bytes a pixel.",
        )
    try:
        # no more than was announced: an object of gigabytes would end the worker before it is refused
        data = objects.get(objects.name(reference), at_most=int(size))
    except ObjectTooLarge as error:
        raise UnreadableImage(_not_as_announced(_REFERENCE_SIZE), "Send the image again.") from error
    except KeyError as error:
        raise UnreadableImage(
            f"{_REFERENCE} names no object in our store: {reference[:_QUOTED]!r}.", "Send the image again."
        ) from error
    # without the check, an object that was overwritten meanwhile would be scored as the image that was announced
    for header, actual in ((_REFERENCE_SHA256, sha256(data).hexdigest()), (_REFERENCE_SIZE, str(len(data)))):
        if record.headers.get(header, "").lower() != actual:
            raise UnreadableImage(_not_as_announced(header), "Send the image again.")
    return data, reference


def _not_as_announced(header: str) -> str:
    return f"The object is not what {header} says."


class Prefetch:
    """Decodes images on `threads`, as the gauge that `loaded` names for their line sees them; as many at once as memory
    allows.

    `portions` is called from one thread; `prefetch` and, on the decoding threads, `loaded` from any.
    """

    def __init__(
        self,
        objects: Objects,
        threads: Executor | None = None,
        loaded: Loaded = nothing_loaded,
    ) -> None:
        self._objects = objects
        self._threads = threads
        self._loaded = loaded
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
                source = record.partition, record.offset
                if source not in self._ahead:
                    self._ahead[source] = record, self._threads.submit(self._decoded, record)
            newest = [record for record, _ in reversed(self._ahead.values())]
            while len(self._ahead) > self._fitting(newest):
                self._ahead.popitem(last=False)[1][1].cancel()

    def portions(self, records: Sequence[Record]) -> Iterator[list[Image | Refused]]:
        """One item for each record, in order, in portions that memory has room for; while the caller works on one, the
        next is decoded. Raises `Unavailable` where a claim check cannot be fetched.
        """
        while records:
            portion: list[Image | Refused] = []
            # the first images of a line tell its size, and then more may fit beside them
            while len(portion) < (size := self._fitting(records)):
                opened_now = self._images(records[len(portion) : size])
                portion += opened_now
                for item in opened_now:
                    if isinstance(item, Image):
                        width, height = item.picture.size
                        taken = max(_WHILE_DECODED * item.picture.nbytes, _PIXEL_BYTES * width * height)
                        known = self._largest_bytes.get(item.record.key, 0)
                        self._largest_bytes[item.record.key] = max(known, taken)
            records = records[len(portion) :]
            self.prefetch(records)
            yield portion

    def _images(self, records: Sequence[Record]) -> list[Image | Refused]:
        if self._threads is None:
            return [self._decoded(record) for record in records]
        # all are begun before the first is waited for, or the threads would work one after the other
        begun: list[Future[Image | Refused]] = []
        for record in records:
            with self._lock:
                ahead = self._ahead.pop((record.partition, record.offset), None)
            begun.append(self._threads.submit(self._decoded, record) if ahead is None else ahead[1])
        return [future.result() for future in begun]

    def _fitting(self, records: Sequence[Record]) -> int:
        """How many of the first `records` may be in memory together, by the largest image of each line; one always."""
        left = _ROOM_BYTES
        for count, record in enumerate(records[:_MOST_AHEAD]):
            left -= self._largest_bytes.get(record.key, _ROOM_BYTES // _AT_FIRST)
            if left < 0:
                return max(1, count)
        return min(len(records), _MOST_AHEAD)

    def _decoded(self, record: Record) -> Image | Refused:
        # as the gauge sees it, here and not on the scoring thread: a 24-megapixel 16-bit file costs it half a second
        return opened(record, self._objects, self._loaded)
