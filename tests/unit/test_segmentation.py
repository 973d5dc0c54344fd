"""The object told from its ground."""

import numpy as np
import pytest
from numpy.typing import NDArray

from flowgauge.synthetic.procedural import MATERIALS, ProceduralLine
from flowgauge.vision.segmentation import segmented


def ellipse(side: int) -> NDArray[np.bool_]:
    y, x = np.indices((side, side)) / side - 0.5
    return np.asarray((x / 0.35) ** 2 + (y / 0.2) ** 2 < 1)


def scene(side: int, data: float, part: float, noise: float = 3.0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    gray = np.where(ellipse(side), part, data) + rng.normal(0, noise, (side, side))
    return np.repeat(gray.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def overlap(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize("side", [96, 256, 900])
@pytest.mark.parametrize(("background", "part"), [(30, 180), (220, 90), (120, 160)])
def test_an_object_is_outlined_at_any_size_and_on_any_background(side: int, background: float, part: float) -> None:
    assert overlap(segmented(scene(side, background, part)), ellipse(side)) > 0.95


def test_holes_belong_to_the_object_and_specks_do_not() -> None:
    pixels = scene(200, 30, 180)
    pixels[95:105, 95:105] = 30
    pixels[10:18, 10:18] = 180
    found = segmented(pixels)
    assert found[95:105, 95:105].all()
    assert not found[8:20, 8:20].any()


def test_a_soft_shadow_is_no_part_of_the_object() -> None:
    """The outline runs where the slope is steepest, and not where the ground begins to darken."""
    y, x = np.indices((200, 200)) / 200 - 0.5
    fade = np.clip(1.6 - np.hypot(x / 0.35, y / 0.2), 0, 1) / 0.6
    gray = np.where(ellipse(200), 40.0, 200 - 40 * fade.clip(0, 1))
    pixels = np.repeat(gray.astype(np.uint8)[:, :, None], 3, axis=2)
    assert overlap(segmented(pixels), ellipse(200)) > 0.95


@pytest.mark.parametrize("material", sorted(set(MATERIALS) - {"turned-washer"}))
def test_a_normal_texture_that_fills_the_picture_shows_no_object(material: str) -> None:
    line = ProceduralLine(material, seed=0, size=128)
    assert np.mean([segmented(line.good(index).pixels).mean() for index in range(4)]) < 0.05


def test_a_washer_is_found() -> None:
    line = ProceduralLine("turned-washer", seed=0, size=128)
    assert all(0.2 < segmented(line.good(index).pixels).mean() < 0.9 for index in range(4))
