"""What is kept of an image beside its verdict: the image itself, and a heatmap where a person may want to look."""

from dataclasses import dataclass

from core.errors import Unavailable
from core.heatmaps import heatmap_png
from core.judgement import Judgement
from core.messages import Decision
from core.names import heatmap_object, image_object
from core.ports import Objects
from streams.events import Image


@dataclass(frozen=True)
class Kept:
    """Addresses of what was stored. `trouble` is why something was not: scoring goes on without it."""

    image_uri: str | None
    heatmap_uri: str | None
    trouble: Unavailable | None = None


class Evidence:
    """Stores under names that depend on the image alone, so that scoring it again changes nothing.

    A store that is away or full does not stop scoring: the verdict then has no address, and the image, which could no
    longer be looked at, cannot teach either.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def keep(self, image: Image, judgement: Judgement | None) -> Kept:
        image_uri: str | None = None
        try:
            image_uri = self._image(image)
            return Kept(image_uri, self._heatmap(image, judgement))
        except Unavailable as error:
            return Kept(image_uri, None, error)

    def _image(self, image: Image) -> str:
        if image.uri is not None:
            return image.uri
        event = image.event
        return self._objects.put(image_object(event.line, event.captured_at, event.image_id), image.data)

    def _heatmap(self, image: Image, judgement: Judgement | None) -> str | None:
        if judgement is None or judgement.decision is Decision.PASS:
            return None
        event = image.event
        png = heatmap_png(image.picture, judgement.anomaly_map, judgement.map_ceiling)
        return self._objects.put(heatmap_object(event.line, event.captured_at, event.image_id), png)
