from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pixels

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import IMAGES
from flowgauge.domain.ports import Objects, Record
from flowgauge.runtime import events as events_module
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import Image, Loaded, Prefetch, Refused, opened
from flowgauge.vision.preprocessing import Preprocessing
from tests.support import streaming
from tests.support.files import encoded
from tests.support.streaming import BrightnessFacts, BrightnessGauge, SetClock, png, records, send

MANY = 100


@dataclass
class Calls:
    """Offsets that were opened; the first attempt at each of `failing` finds the store away."""

    offsets: list[int] = field(default_factory=list)
    failing: set[int] = field(default_factory=set)

    def __call__(self, record: Record, objects: Objects, loaded: Loaded) -> Image | Refused:
        self.offsets.append(record.offset)
        if record.offset in self.failing:
            self.failing.discard(record.offset)
            raise Unavailable("The store is away.", "Wait.")
        return opened(record, objects, loaded)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(events_module, "opened", calls)
    return calls


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = streaming.opened(tmp_path / "plant", SetClock())
    send(store, [(str(number), png(100, number)) for number in range(MANY)])
    return store


def opened_of(prefetching: Prefetch, records: list[Record]) -> list[Image | Refused]:
    return [item for portion in prefetching.portions(records) for item in portion]


def large_jpeg() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (1_100, 1_300, 3), dtype=np.uint8)
    return encoded(Pixels.fromarray(pixels), "JPEG")


def test_an_image_is_decoded_as_far_as_its_gauge_needs_and_again_when_a_finer_one_replaces_it(store: Store) -> None:
    send(store, [("large", large_jpeg())])
    (record,) = records(store.log, IMAGES)[MANY:]
    coarse, fine = (
        BrightnessGauge("a", name, 150, manifest=BrightnessFacts(Preprocessing(size=size)))
        for name, size in (("coarse", 64), ("fine", 512))
    )
    image = opened(record, store.objects, lambda line: coarse)
    assert isinstance(image, Image)
    assert (image.picture.reduction, image.picture.size) == (2, (1_300, 1_100))
    assert image.seen_by(coarse).picture is image.picture
    again = image.seen_by(fine)
    assert (again.picture.reduction, again.picture.sha256) == (1, image.picture.sha256)
    assert image.seen_by(None) is image


def test_a_reduced_picture_counts_what_decoding_it_takes(
    store: Store, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(store, [(f"large-{number}", large_jpeg()) for number in range(5)])
    first, *others = records(store.log, IMAGES)[MANY:]
    gauge = BrightnessGauge("a", "1", 150, manifest=BrightnessFacts(Preprocessing(size=64)))
    monkeypatch.setattr(events_module, "_ROOM_BYTES", 2 * 4 * 1_300 * 1_100)
    prefetching = Prefetch(store.objects, loaded=lambda line: gauge)
    assert offsets(opened_of(prefetching, [first])) == [MANY], "which tells how large images are"
    assert [len(portion) for portion in prefetching.portions(others)] == [2, 2]


def offsets(items: list[Image | Refused]) -> list[int]:
    return [item.record.offset for item in items]


def test_what_was_foreseen_is_opened_once_and_comes_in_its_order(
    store: Store, calls: Calls, threads: ThreadPoolExecutor
) -> None:
    *sent, last = records(store.log, IMAGES)[:9]
    prefetching = Prefetch(store.objects, threads)
    assert offsets(opened_of(prefetching, [last])) == [8], "which tells how large images are"
    prefetching.prefetch(sent[:6])
    prefetching.prefetch(sent[2:6])
    assert offsets(opened_of(prefetching, sent[:3])) == [0, 1, 2]
    assert offsets(opened_of(prefetching, sent[3:])) == [3, 4, 5, 6, 7]
    assert sorted(calls.offsets) == list(range(9))


def test_nothing_is_opened_ahead_without_threads(store: Store, calls: Calls) -> None:
    sent = records(store.log, IMAGES)[:4]
    prefetching = Prefetch(store.objects)
    prefetching.prefetch(sent)
    assert calls.offsets == []
    assert offsets(opened_of(prefetching, sent)) == [0, 1, 2, 3]


def test_a_store_that_was_away_when_an_image_was_foreseen_is_asked_again(
    store: Store, calls: Calls, threads: ThreadPoolExecutor
) -> None:
    sent = records(store.log, IMAGES)[:2]
    calls.failing = {1}
    prefetching = Prefetch(store.objects, threads)
    prefetching.prefetch(sent)
    with pytest.raises(Unavailable):
        opened_of(prefetching, sent)
    assert offsets(opened_of(prefetching, sent)) == [0, 1]


def test_what_never_has_its_turn_does_not_pile_up(store: Store, calls: Calls, threads: ThreadPoolExecutor) -> None:
    first, *sent = records(store.log, IMAGES)
    prefetching = Prefetch(store.objects, threads)
    assert offsets(opened_of(prefetching, [first])) == [0]
    for record in sent:
        prefetching.prefetch([record])
    assert len(prefetching) == 64
    assert offsets(opened_of(prefetching, sent)) == list(range(1, MANY))
    assert len(prefetching) == 0


def test_decoded_images_have_a_room_in_bytes(
    store: Store, calls: Calls, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = records(store.log, IMAGES)
    prefetching = Prefetch(store.objects, threads)
    prefetching.prefetch(sent)
    assert len(prefetching) == 4, "nothing has told its size yet"
    (image,) = opened_of(prefetching, sent[:1])
    assert isinstance(image, Image)
    monkeypatch.setattr(events_module, "_ROOM_BYTES", 4 * 7 * image.picture.pixels.nbytes + 1)
    prefetching.prefetch(sent[1:])
    assert len(prefetching) == 7
    assert [len(portion) for portion in prefetching.portions(sent[1:20])] == [7, 7, 5]
    monkeypatch.setattr(events_module, "_ROOM_BYTES", 1)
    prefetching.prefetch(sent[20:])
    assert len(prefetching) == 1, "one always fits"
    assert offsets(opened_of(prefetching, sent[20:])) == list(range(20, MANY))


def test_a_large_camera_beside_small_ones_does_not_fill_the_memory(
    store: Store, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(store, [(f"large-{number}", png(100, number, side=64)) for number in range(8)], line="large")
    small, large = (
        [record for record in records(store.log, IMAGES) if record.key == line] for line in (streaming.LINE, "large")
    )
    monkeypatch.setattr(events_module, "_ROOM_BYTES", 4 * 2 * 64 * 64 * 3)
    for these in (None, threads):
        prefetching = Prefetch(store.objects, these)
        assert [len(portion) for portion in prefetching.portions(small[:16])] == [16]
        assert [len(portion) for portion in prefetching.portions(large)][1:] == [2, 2]
        assert len(next(prefetching.portions([*small[:16], *large]))) == 17
