"""Cameras that lie: the same picture again and again, or none at all."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowgauge.domain.messages import AlertKind, Decision, Statistics, Verdict
from flowgauge.registry.lines import set_line
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.vision.decoding import decode
from tests.support.cameras import Camera, alert_kinds, observe
from tests.support.files import encoded
from tests.support.shell import Shell
from tests.support.streaming import LINE, SetClock, append_verdicts, opened, png, verdict


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return opened(tmp_path, SetClock())


def seen(data: bytes) -> Statistics:
    return decode(data).statistics


def shown(frames: list[bytes], start: int = 0, **changes: Any) -> list[Verdict]:
    return [verdict(start + n, statistics=seen(data), **changes) for n, data in enumerate(frames)]


def noisy(gray: float, number: int, sigma: float) -> bytes:
    """What a sensor with noise makes of an even gray, in 8 bits."""
    noise = np.random.default_rng(number).normal(gray, sigma, (64, 64))
    return encoded(Image.fromarray(noise.clip(0, 255).astype(np.uint8)), "PNG")


def test_the_command_says_that_a_camera_is_frozen_and_since_which_image(flowgauge: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    for number in range(5):
        (folder / f"a{number}.png").write_bytes(png(100, number))
    for number in range(25):
        (folder / f"b{number:02}.png").write_bytes(png(100, 99))
    assert flowgauge("run", folder, "--line", LINE, "--store", tmp_path / "plant", "--once").code == 0
    printed = flowgauge("alerts", "--store", tmp_path / "plant").out
    assert re.search(rf"{LINE}: the last 20 images show the same picture, since b00\.png@\w+ of 20", printed)


def test_a_frozen_camera_is_one_alert_whose_count_grows(store: Store) -> None:
    append_verdicts(store.log, shown([png(100, n) for n in range(3)] + [png(100, 9)] * 60))
    observe(store)
    [alert] = [each for each in alerts(store.log) if each.kind is AlertKind.FROZEN_CAMERA]
    assert (alert.line, alert.count, alert.detail["first"], alert.detail["look"]) == (LINE, 40, "image-0003", "same")
    assert alert.detail["since"] == verdict(3).captured_at.isoformat()


def test_a_restart_and_a_lost_commit_change_nothing(store: Store, tmp_path: Path) -> None:
    frames = shown([png(100, 9)] * 50)
    append_verdicts(store.log, frames)
    observe(store)
    interrupted = opened(tmp_path / "interrupted", SetClock())
    for start in range(0, 50, 7):
        append_verdicts(interrupted.log, frames[start : start + 7])
        observe(interrupted, batch=3)
    interrupted.log.commit("observing", "verdicts", 0, 0)
    observe(interrupted)
    assert alerts(interrupted.log) == alerts(store.log)
    assert len(alerts(store.log)) == 1


def test_two_times_frozen_are_two_alerts(store: Store) -> None:
    append_verdicts(store.log, shown([png(100, 1)] * 20 + [png(100, n) for n in range(10, 30)] + [png(100, 2)] * 20))
    observe(store)
    assert alert_kinds(store).count(AlertKind.FROZEN_CAMERA) == 2


def test_pixels_that_are_equal_are_the_same_however_they_are_encoded(store: Store) -> None:
    picture = Image.open(BytesIO(png(100, 1, side=64)))
    frames = [encoded(picture, form) for form in ("PNG", "BMP", "TIFF")]
    assert len(set(frames)) == 3
    append_verdicts(store.log, shown(frames * 7))
    observe(store)
    assert alert_kinds(store) == [AlertKind.FROZEN_CAMERA]


@pytest.mark.parametrize("ring", [2, 4, 8])
def test_a_grabber_that_repeats_its_ring_of_buffers_is_frozen(store: Store, ring: int) -> None:
    append_verdicts(store.log, shown([png(100, n % ring) for n in range(ring + 20)]))
    observe(store)
    assert alert_kinds(store) == [AlertKind.FROZEN_CAMERA]


@pytest.mark.parametrize(("gray", "look"), [(4, "black"), (252, "white")])
def test_a_lens_cap_and_a_blinded_sensor_are_reported_though_noise_makes_every_image_another(
    store: Store, gray: int, look: str
) -> None:
    frames = [noisy(gray, number, 2.0) for number in range(20)]
    assert len({seen(frame).brightness for frame in frames}) == 20
    append_verdicts(store.log, shown(frames, decision=Decision.REVIEW))
    observe(store)
    [alert] = alerts(store.log)
    assert alert.detail["look"] == look
    assert f"the last 20 images are all {look}" in alert.message


@pytest.mark.parametrize("gray", [0, 255])
def test_frames_of_one_value_are_reported_even_where_they_pass(store: Store, gray: int) -> None:
    append_verdicts(store.log, shown([noisy(gray, 0, 0.0)] * 20))
    observe(store)
    assert alert_kinds(store) == [AlertKind.FROZEN_CAMERA]


def test_a_motionless_belt_a_dark_field_and_plain_goods_are_no_frozen_camera(store: Store) -> None:
    belt = [noisy(100, number, 0.6) for number in range(100)]
    dark_field = [noisy(4, number, 2.0) for number in range(60)]
    plain = [noisy(200, number, 1.0) for number in range(60)]
    append_verdicts(store.log, shown(belt))
    append_verdicts(store.log, shown(dark_field, 100, decision=Decision.PASS))
    append_verdicts(store.log, shown(plain, 160, decision=Decision.REVIEW))
    observe(store)
    assert AlertKind.FROZEN_CAMERA not in alert_kinds(store)


def test_a_line_says_after_how_many_images_or_never(store: Store) -> None:
    set_line(store.objects, LINE, frozen_images=5)
    append_verdicts(store.log, shown([png(100, 1)] * 5))
    observe(store)
    assert alert_kinds(store) == [AlertKind.FROZEN_CAMERA]
    set_line(store.objects, LINE, frozen_images=0)
    append_verdicts(store.log, shown([png(100, 2)] * 50, start=5))
    observe(store)
    assert alert_kinds(store) == [AlertKind.FROZEN_CAMERA]


def test_an_ordinary_line_raises_nothing(store: Store) -> None:
    append_verdicts(store.log, Camera().verdicts(200))
    observe(store)
    assert alert_kinds(store) == []
