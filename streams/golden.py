"""Golden images in the object store."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from core.golden import Label, judges
from core.images import Picture, decode
from core.names import golden_object, line_name
from core.ports import Objects


@dataclass(frozen=True)
class Golden:
    """A labelled image; `name` is its object's."""

    image_id: str
    label: Label
    name: str

    @property
    def judges(self) -> bool:
        return judges(self.image_id)


def add_golden(objects: Objects, line: str, label: Label, image_id: str, data: bytes) -> Golden:
    """Store `data` under its label and forget another label that it had. Raises `UnreadableImage`."""
    decode(data)
    for other in set(Label) - {label}:
        objects.delete(golden_object(line, other, image_id))
    name = golden_object(line, label, image_id)
    objects.put(name, data)
    return Golden(image_id, label, name)


def golden_set(objects: Objects, line: str) -> Iterator[Golden]:
    for label in Label:
        for name in objects.names(f"golden/{line_name(line)}/{label}/"):
            yield Golden(unquote(name.rpartition("/")[2]), label, name)


def judging_pictures(objects: Objects, line: str, label: Label) -> list[Picture]:
    """The half of the golden set that judges."""
    chosen = (golden for golden in golden_set(objects, line) if golden.label is label and golden.judges)
    return [decode(objects.get(golden.name)) for golden in chosen]
