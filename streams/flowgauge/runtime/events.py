"""Image events: from a record to pixels, and every way in which that fails."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from pydantic import ValidationError

from flowgauge.domain.errors import UnreadableImage, UserError
from flowgauge.domain.messages import HEADERS, IMAGES, Event
from flowgauge.domain.object_keys import verdict_id
from flowgauge.domain.ports import Objects, Outgoing, Record
from flowgauge.vision.decoding import Picture, decode

_QUOTED = 200  # characters of a header in a reason
_REFERENCE, _REFERENCE_SHA256, _REFERENCE_SIZE = "ce_dataref", "ce_datasha256", "ce_datasize"


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
    reference = record.headers.get(_REFERENCE)
    if reference is None:
        return record.value, None
    try:
        data = objects.get(objects.name(reference))
    except KeyError as error:
        raise UnreadableImage(
            f"{_REFERENCE} names no object in our store: {reference[:_QUOTED]!r}.", "Send the image again."
        ) from error
    _check(record, data)
    return data, reference


def _check(record: Record, data: bytes) -> None:
    claims: tuple[tuple[str, Callable[[], str]], ...] = (
        (_REFERENCE_SHA256, lambda: sha256(data).hexdigest()),
        (_REFERENCE_SIZE, lambda: str(len(data))),
    )
    for header, actual in claims:
        if record.headers.get(header, "").lower() != actual():
            raise UnreadableImage(f"The object is not what {header} says.", "Send the image again.")
