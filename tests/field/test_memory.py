"""Memory goes with the squares that a gauge sees, and not with the camera: who learns holds few pictures at a time."""

import tracemalloc
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from PIL import Image

from flowgauge.adaptation.adapt import adapt
from flowgauge.domain.golden import Label
from flowgauge.domain.messages import AdaptationRequest, Reason
from flowgauge.domain.ports import Buffered
from flowgauge.processors.adaptation import Adaptation
from flowgauge.registry.golden_sets import add_golden
from flowgauge.registry.lines import set_line
from flowgauge.registry.snapshots import active_snapshot
from flowgauge.services import fit as service
from flowgauge.services.fit import FromDataset, with_bit_depth
from flowgauge.training.fit import fit
from flowgauge.vision import pictures as pictures_module
from flowgauge.vision.decoding import Picture, SixteenBit, decode
from flowgauge.vision.pictures import Pictures, in_batches
from flowgauge.vision.preprocessing import sixteen_bit_rule
from tests.support.files import encoded
from tests.support.gauges import AT, gauge, goods, line, png
from tests.support.gauges import settings as quick
from tests.support.streaming import LINE, START, SetClock, fitted
from tests.support.streaming import opened as opened_store

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


def test_a_gauge_does_not_depend_on_the_room_and_decodes_what_has_none_once() -> None:
    known = goods(range(12))
    files = [png(picture.pixels) for picture in known]
    pictures, decoded = Pictures(room_bytes=0), []

    def again(file: bytes) -> Picture:
        decoded.append(file)
        return decode(file)

    for file in files:
        pictures.add(decode(file), partial(again, file))
    without_room, all_in_memory = (fit(each, line="a", settings=quick(), at=AT) for each in (pictures, known))
    assert without_room.manifest == all_in_memory.manifest
    assert decoded == files


def test_the_bits_of_16_bit_files_are_known_without_decoding_them_again() -> None:
    values = [np.full((16, 16), peak, np.uint16) for peak in (700, 1_023, 5)]
    pictures = Pictures(room_bytes=0)
    for each in values:
        pictures.add(decode(encoded(Image.fromarray(each), "PNG")), lambda: pytest.fail("decoded again"))
    assert sixteen_bit_rule(pictures) is SixteenBit.TEN_BIT
    warnings: list[str] = []
    assert with_bit_depth(quick(), pictures, warnings.append).preprocessing.sixteen_bit is SixteenBit.TEN_BIT
    assert "the brightest training value is 1023" in warnings[0]


def test_an_adaptation_is_given_crops_of_buffer_and_golden_set(large: Path, tmp_path: Path) -> None:
    store = fitted(opened_store(tmp_path / "plant", SetClock()))
    set_line(store.objects, LINE, buffer_minimum=IMAGES)
    entries = []
    for number, path in enumerate(sorted(large.glob("*.jpg"))):
        store.objects.put(f"images/{path.name}", path.read_bytes())
        uri = store.objects.uri(f"images/{path.name}")
        entries.append(Buffered(path.name, uri, "", START - timedelta(seconds=IMAGES - number), None, "pass", ""))
        add_golden(store.objects, LINE, Label.GOOD, path.name, path.read_bytes() + b"golden")
    store.state.buffer_add(LINE, entries, IMAGES)
    request = AdaptationRequest(
        request_id=UUID(int=7), line=LINE, reason=Reason.PERSON, requested_at=START, requested_by="anna"
    )
    known = gauge()
    tracemalloc.start()
    adaptation = Adaptation(store, lambda *_: known, adapt, "worker-1", lambda: False)
    given = adaptation._gathered(request, active_snapshot(store.log, LINE), lambda what, share: None)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(given.buffered) == IMAGES
    assert 0 < len(given.golden_good) < IMAGES
    _, crop = given.buffered[3]
    whole = decode((large / "003.jpg").read_bytes())
    assert (crop.pixels == known.manifest.preprocessing.resampled(whole)).all()
    assert crop.statistics == whole.statistics
    assert kept < 2 * BYTES
    assert peak < 10 * BYTES, "decoding takes up to seven times an image, and there are 36 of them"


def test_large_pictures_are_looked_at_few_at_a_time_and_small_ones_as_many_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = goods(range(20))
    assert [len(batch) for batch in in_batches(known, 16, lambda picture: picture)] == [16, 4]
    monkeypatch.setattr(pictures_module, "BATCH_BYTES", 3 * known[0].pixels.nbytes)
    assert [len(batch) for batch in in_batches(known, 16, lambda picture: picture)] == [3] * 6 + [2]
    assert [len(batch) for batch in in_batches(known, 16, lambda picture: None)] == [16, 4]
    assert list(in_batches([], 16, lambda picture: None)) == []
