"""Golden images in the object store."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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
    def key(self) -> str:
        """The encoded id: of a long one the object's name does not tell more."""
        return _key(self.name)

    @property
    def is_hold_out(self) -> bool:
        return is_hold_out(unquote(self.key))


def _key(name: str) -> str:
    return name.rpartition("/")[2]


def add_golden(objects: Objects, line: str, label: Label, image_id: str, data: bytes, kind: str = "") -> Golden:
    """Store `data` under its label and class, and forget others that it had. Raises `UnreadableImage`.

    Another image of the same id stays: the newcomer's id then has a piece of its content's hash behind it.
    """
    decode(data)
    before = list(golden_set(objects, line))
    of_id = (each for each in before if each.key == encoded(image_id))
    others = [stored for _, stored in contents(objects, of_id)]
    if others and data not in others:
        image_id = renamed(image_id, sha256(data).hexdigest())
    name = golden_object(line, label, image_id, kind)
    objects.put(name, data)
    for each in before:
        if each.key == encoded(image_id) and each.name != name:
            objects.delete(each.name)
    return Golden(image_id, label, name, kind)


def remove_golden(objects: Objects, line: str, golden: Golden) -> None:
    """Also under another label, where a change of it was cut off."""
    for each in list(golden_set(objects, line)):
        if each.key == golden.key:
            objects.delete(each.name)


def renamed(image_id: str, digest: str) -> str:
    """The id of an image of that SHA-256, in hex, where another one has `image_id`."""
    return f"{image_id}@{digest[:_HASH_DIGITS]}"


def golden_set(objects: Objects, line: str) -> Iterator[Golden]:
    for label in Label:
        folder = f"golden/{line_name(line)}/{label}/"
        for name in objects.names(folder):
            kind, _, image_id = name.removeprefix(folder).rpartition("/")
            yield Golden(unquote(image_id), label, name, unquote(kind))


class GoldenIndex:
    """The golden images of a line, to find those that were made of an image."""

    def __init__(self, objects: Objects, golden: Iterable[Golden]) -> None:
        self._objects = objects
        self._golden = {each.key: each for each in golden}
        self._digests: dict[str, str] = {}

    def of(self, image_id: str, digest: str) -> Golden | None:
        """That of the image with this id and SHA-256; None for another camera's image of the same id."""
        own = self._golden.get(encoded(renamed(image_id, digest)))
        if own is not None:
            return own
        found = self._golden.get(encoded(image_id))
        return found if found is not None and self._digest(found) == digest else None

    def _digest(self, golden: Golden) -> str | None:
        if golden.key not in self._digests:
            self._digests |= {each.key: sha256(data).hexdigest() for each, data in contents(self._objects, [golden])}
        return self._digests.get(golden.key)


Decode = Callable[[bytes], Picture]
"""How whoever needs the pictures decodes them."""


def contents(objects: Objects, chosen: Iterable[Golden]) -> Iterator[tuple[Golden, bytes]]:
    """Their encoded images, one by one, without those that got another label meanwhile and with it another name."""
    for golden in chosen:
        with suppress(KeyError):
            yield golden, objects.get(golden.name)


def hold_out_pictures(objects: Objects, line: str, label: Label, decode: Decode = decode) -> Iterator[Picture]:
    """The hold-out half of the golden set, by which the gate tests a candidate; decoded one by one."""
    chosen = (golden for golden in golden_set(objects, line) if golden.label is label and golden.is_hold_out)
    return (decode(data) for _, data in contents(objects, chosen))


def training_defects(objects: Objects, line: str, decode: Decode = decode) -> Iterator[tuple[Picture, str]]:
    """Defects of the half that may train, each with its class, decoded one by one; always in the same order."""
    chosen = (golden for golden in golden_set(objects, line) if golden.label is Label.DEFECT and not golden.is_hold_out)
    return ((decode(data), golden.kind) for golden, data in contents(objects, chosen))
