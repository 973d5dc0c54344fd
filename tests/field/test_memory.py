"""Memory goes with the squares that a gauge sees, and not with the camera: fitting holds few pictures at a time."""

import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from flowgauge.services import fit as service
from flowgauge.services.fit import FromDataset
from flowgauge.training.fit import fit
from flowgauge.vision.decoding import decode
from flowgauge.vision.pictures import Pictures
from tests.support.gauges import AT, goods, line, png
from tests.support.gauges import settings as quick

SIDE, IMAGES = 1_000, 24
BYTES = SIDE * SIDE * 3


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """24 good images of one megapixel: 72 MB decoded."""
    for number in range(IMAGES):
        part = Image.fromarray(line().good(number).pixels)
        part.resize((SIDE, SIDE)).save(tmp_path / f"{number:03d}.jpg")
    return tmp_path


def silent(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def test_pictures_beyond_the_room_are_decoded_again_and_the_same() -> None:
    files = [png(line().good(number).pixels) for number in range(6)]
    size = decode(files[0]).pixels.nbytes
    pictures = Pictures(room_bytes=2 * size)
    for file in files:
        pictures.add(decode(file), partial(decode, file))
    first, second = list(pictures), list(pictures)
    assert [one is other for one, other in zip(first, second, strict=True)] == [True, True, *[False] * 4]
    assert [picture.sha256 for picture in first] == [decode(file).sha256 for file in files]
    assert len(pictures) == 6


def test_reading_a_data_set_keeps_no_more_than_the_room(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Pictures", partial(Pictures, room_bytes=2 * BYTES))
    warnings: list[str] = []
    tracemalloc.start()
    good = FromDataset(large).read(silent, warnings.append)
    kept, _ = tracemalloc.get_traced_memory()
    sides = {picture.size for picture in good.pictures}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sides == {(SIDE, SIDE)}
    assert (len(good.pictures), warnings) == (IMAGES, [])
    assert kept < 3 * BYTES
    assert peak < 12 * BYTES, "half of what all of them take"


def test_a_gauge_does_not_depend_on_the_room() -> None:
    known = goods(range(12))
    files = [png(picture.pixels) for picture in known]
    pictures = Pictures(room_bytes=0)
    for file in files:
        pictures.add(decode(file), partial(decode, file))
    again, all_in_memory = (fit(each, line="a", settings=quick(), at=AT) for each in (pictures, known))
    assert again.manifest == all_in_memory.manifest
