import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowgauge.vision.decoding import Picture
from flowgauge.vision.heatmaps import LONGEST_SIDE, MOST_REGIONS, heatmap_png, regions

Map = NDArray[np.float32]


def picture(width: int, height: int) -> Picture:
    gray = np.random.default_rng(1).integers(60, 200, (height, width, 1), dtype=np.uint8)
    return Picture(gray.repeat(3, axis=2), "")


def pixels(png: bytes) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(png)), np.int16)


def spots(*patches: tuple[int, int, float], shape: tuple[int, int] = (16, 32)) -> Map:
    values = np.zeros(shape, np.float32)
    for row, column, score in patches:
        values[row, column] = score
    return values


@pytest.mark.parametrize(
    ("size", "shown"), [((300, 200), (300, 200)), ((2000, 1000), (512, 256)), ((10, 3000), (2, 512))]
)
def test_a_heatmap_keeps_the_proportions_within_its_longest_side(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = Image.open(io.BytesIO(heatmap_png(picture(*size), np.zeros((8, 8), np.float32), 1.0)))

    assert (image.format, image.mode, image.size) == ("PNG", "RGB", shown)
    assert max(image.size) <= LONGEST_SIDE


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_good_patches_show_the_dimmed_image_without_colour(value: float) -> None:
    shown = pixels(heatmap_png(picture(64, 48), np.full((6, 8), value, np.float32), 2.0))

    assert np.ptp(shown, axis=2).max() == 0
    assert 0 < shown.mean() < picture(64, 48).pixels.mean()


def test_patches_at_the_ceiling_are_coloured_and_outlined_and_others_are_not() -> None:
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[2:6, 5:8] = 3.0

    shown = pixels(heatmap_png(picture(128, 128), anomaly_map, 2.0))

    colourful = np.ptp(shown, axis=2)
    assert colourful[40:88, 90:120].min() > 40
    assert colourful[:, :48].max() == 0
    assert (shown == (0, 255, 220)).all(axis=2).sum() > 40


def test_colour_depends_on_the_share_of_the_ceiling_alone() -> None:
    anomaly_map = np.random.default_rng(2).random((8, 8)).astype(np.float32)

    assert heatmap_png(picture(64, 64), anomaly_map, 0.7) == heatmap_png(picture(64, 64), anomaly_map * 4, 2.8)


def test_a_brighter_colour_is_a_higher_value() -> None:
    ramp = np.linspace(0, 0.99, 64, dtype=np.float32)[None, :].repeat(64, axis=0)
    black = Picture(np.zeros((64, 64, 3), np.uint8), "")

    lightness = pixels(heatmap_png(black, ramp, 1.0)).mean(axis=(0, 2))

    assert np.diff(lightness).min() >= -1
    assert lightness[-1] > lightness[8] + 50


def test_nothing_above_the_level_has_no_region() -> None:
    assert regions(spots((3, 3, 1.0)), 1.0, (320, 160)) == ()


def test_regions_are_boxes_in_pixels_of_the_image_strongest_first() -> None:
    weak, strong = regions(spots((2, 4, 5.0), (2, 5, 4.0), (10, 31, 9.0)), 3.0, (320, 160))[::-1]

    assert (strong.left, strong.top, strong.right, strong.bottom, strong.score) == (310, 100, 320, 110, 9.0)
    assert (weak.left, weak.top, weak.right, weak.bottom, weak.score) == (40, 20, 60, 30, 5.0)


def test_patches_that_touch_at_a_corner_are_one_region() -> None:
    assert len(regions(spots((2, 2, 5.0), (3, 3, 5.0)), 1.0, (32, 16))) == 1


def test_only_the_strongest_regions_are_named() -> None:
    many = spots(*((1 + 4 * (k % 4), 1 + 4 * (k // 4), 1.0 + k) for k in range(24)))

    found = regions(many, 0.5, (320, 160))

    assert [region.score for region in found] == [24.0 - k for k in range(MOST_REGIONS)]


@pytest.mark.parametrize("size", [(7, 5), (33, 17), (1000, 333)])
def test_a_region_is_never_empty_and_never_leaves_the_image(size: tuple[int, int]) -> None:
    anomaly_map = np.random.default_rng(4).random((16, 32)).astype(np.float32)

    for region in regions(anomaly_map, 0.8, size):
        assert 0 <= region.left < region.right <= size[0]
        assert 0 <= region.top < region.bottom <= size[1]
