"""Golden images in the object store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import unquote

from flowgauge.domain.golden import Label, is_hold_out
from flowgauge.domain.object_keys import encoded, golden_object, line_name
from flowgauge.domain.ports import Objects
from flowgauge.vision.decoding import Picture, decode

# hex; fewer, and two images of one name could share them; more are only longer to read
_HASH_DIGITS = 12


@dataclass(frozen=True)
class Golden:
    """A labelled image; `name` is its object's, `kind` the class of its defect, "" where nobody said."""

    image_id: str
    label: Label
    name: str
    kind: str = ""

    @property
    def is_hold_out(self) -> bool:
        return is_hold_out(self.image_id)


def add_golden(objects: Objects, line: str, label: Label, image_id: str, data: bytes, kind: str = "") -> Golden:
    """Store `data` under its label and class, and forget another one that it had. Raises `UnreadableImage`.

    Another image of the same id stays: the newcomer's id then has a piece of its content's hash behind it.
    """
    decode(data)
    named = {other.rpartition("/")[2]: other for other in objects.names(f"golden/{line_name(line)}/")}
    if encoded(image_id) in named and objects.get(named[encoded(image_id)]) != data:
        image_id = renamed(image_id, sha256(data).hexdigest())
    name = golden_object(line, label, image_id, kind)
    objects.put(name, data)
    if (before := named.get(encoded(image_id), name)) != name:
        objects.delete(before)
    return Golden(image_id, label, name, kind)


def renamed(image_id: str, digest: str) -> str:
    """The id of an image of that SHA-256, in hex, where another one has `image_id`."""
    return f"{image_id}@{digest[:_HASH_DIGITS]}"


def golden_set(objects: Objects, line: str) -> Iterator[Golden]:
    for label in Label:
        folder = f"golden/{line_name(line)}/{label}/"
        for name in objects.names(folder):
            kind, _, image_id = name.removeprefix(folder).rpartition("/")
            yield Golden(unquote(image_id), label, name, unquote(kind))


Decode = Callable[[bytes], Picture]
"""How whoever needs the pictures decodes them."""


def hold_out_pictures(objects: Objects, line: str, label: Label, decode: Decode = decode) -> Iterator[Picture]:
    """The hold-out half of the golden set, by which the gate tests a candidate; decoded one by one."""
    chosen = (golden for golden in golden_set(objects, line) if golden.label is label and golden.is_hold_out)
    return (decode(objects.get(golden.name)) for golden in chosen)


def training_defects(objects: Objects, line: str, decode: Decode = decode) -> Iterator[tuple[Picture, str]]:
    """Defects of the half that may train, each with its class, decoded one by one; always in the same order."""
    chosen = (golden for golden in golden_set(objects, line) if golden.label is Label.DEFECT and not golden.is_hold_out)
    return ((decode(objects.get(golden.name)), golden.kind) for golden in chosen)
