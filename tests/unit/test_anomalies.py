import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from flowgauge.synthetic.anomalies import KINDS, NOTICEABLE, SyntheticAnomaly, draw_anomaly, draw_anomaly_on

Pixels = NDArray[np.uint8]


def texture(height: int, width: int, coloured: bool = False, level: float = 128) -> Pixels:
    rng = np.random.default_rng(9)
    noise = ndimage.gaussian_filter(rng.standard_normal((height, width, 3 if coloured else 1)), (1, 4, 0)) * 40
    return np.clip(level + noise, 0, 255).astype(np.uint8).repeat(1 if coloured else 3, axis=2)


def synthetic(pixels: Pixels, kind: str, seed: int) -> SyntheticAnomaly:
    return draw_anomaly(pixels, kind, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(100, 100), (240, 130), (256, 600)])
def test_the_mask_is_where_pixels_changed_noticeably_and_never_empty(kind: str, shape: tuple[int, int]) -> None:
    pixels = texture(*shape)
    for seed in range(6):
        result = synthetic(pixels, kind, seed)
        change = np.abs(result.pixels.astype(int) - pixels).max(axis=2)

        np.testing.assert_array_equal(result.mask, change >= NOTICEABLE)
        assert result.mask.any()
        assert result.pixels.dtype == np.uint8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_defect_shows_on_a_flat_normal_texture_of_any_brightness(kind: str, level: int) -> None:
    flat = np.full((128, 128, 3), level, np.uint8)

    assert all(synthetic(flat, kind, seed).mask.sum() >= 8 for seed in range(5))


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_stays_and_the_same_seed_paints_the_same(kind: str) -> None:
    pixels = texture(128, 128, coloured=True)
    before = pixels.copy()
    first, again, other = (synthetic(pixels, kind, seed) for seed in (1, 1, 2))

    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_gray_stays_gray(kind: str) -> None:
    result = synthetic(texture(128, 128), kind, 3).pixels

    assert np.ptp(result, axis=2).max() == 0


@pytest.mark.parametrize("kind", ["scar", "scratch", "crack", "blowhole", "chip"])
def test_local_defects_leave_most_of_the_image_alone(kind: str) -> None:
    pixels = texture(256, 256)
    shares = [synthetic(pixels, kind, seed).mask.mean() for seed in range(20)]

    assert max(shares) < 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_strength_ranges_from_subtle_to_clear(kind: str) -> None:
    pixels = texture(256, 256)
    results = [synthetic(pixels, kind, seed) for seed in range(24)]
    strength = [float(np.abs(r.pixels.astype(int) - pixels)[r.mask].mean()) for r in results]

    assert max(strength) > 1.8 * min(strength)


def test_marks_grow_with_the_image() -> None:
    areas = [
        np.mean([synthetic(texture(side, side), "blowhole", seed).mask.sum() for seed in range(12)])
        for side in (128, 512)
    ]

    assert areas[1] > 5 * areas[0]


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="scratch"):
        synthetic(texture(64, 64), "graffiti", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_is_too_thin_is_synthetic_somewhere_all_the_same(kind: str) -> None:
    pixels, thin = texture(128, 128), np.zeros((128, 128), bool)
    thin[60, 30:90] = True
    for seed in range(4):
        assert draw_anomaly_on(pixels, thin, kind, np.random.default_rng(seed)).mask.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [6, 35])
def test_a_defect_keeps_to_the_part(kind: str, radius: int) -> None:
    pixels, (y, x) = texture(128, 128), np.indices((128, 128))
    allowed = np.hypot(y - 60, x - 120) < radius
    for seed in range(4):
        result = draw_anomaly_on(pixels, allowed, kind, np.random.default_rng(seed))
        np.testing.assert_array_equal(result.pixels[~allowed], pixels[~allowed])
        change = np.abs(result.pixels.astype(int) - pixels).max(axis=2)
        np.testing.assert_array_equal(result.mask, change >= NOTICEABLE)
        assert result.mask.any()
