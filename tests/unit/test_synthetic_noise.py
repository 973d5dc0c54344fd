import numpy as np
import pytest

from flowgauge.synthetic.noise import smooth_noise, standardised, stroke, through, wander


@pytest.mark.parametrize("shape", [(64, 64), (40, 200)])
def test_smooth_noise_is_standardised_and_smoother_with_fewer_cells(shape: tuple[int, int]) -> None:
    coarse, fine = (smooth_noise(np.random.default_rng(0), shape, cells) for cells in (4, 16))

    assert coarse.shape == fine.shape == shape
    assert (coarse.mean(), coarse.std()) == pytest.approx((0, 1), abs=1e-4)
    assert np.abs(np.diff(coarse, axis=1)).mean() < 0.5 * np.abs(np.diff(fine, axis=1)).mean()


def test_a_flat_field_standardises_to_zero() -> None:
    assert not standardised(np.full((4, 4), 7, np.float32)).any()


def test_a_straight_line_is_exact_below_the_pixel() -> None:
    line = np.stack([np.full(40, 10.3), np.arange(40.0)], axis=1)

    drawn = stroke(line, (32, 40), np.full(40, 4.0), np.linspace(0, 1, 40))

    distance = np.abs(np.arange(32) - 10.3)[:, None]
    np.testing.assert_allclose(drawn, np.clip(2.5 - distance, 0, 1) * np.linspace(0, 1, 40), atol=1e-6)


def test_a_curve_outside_the_frame_draws_nothing() -> None:
    assert not stroke(np.array([[-50.0, -50.0], [-51.0, -50.0]]), (16, 16), np.array([3.0, 3.0])).any()


def test_a_path_advances_one_pixel_a_step_and_passes_through_its_patch() -> None:
    path = wander(np.random.default_rng(1), (0, 0), 0.5, 60, bend=0.02, jitter=0.3)
    moved = through(np.array([8.0, 9.0]), path)

    np.testing.assert_allclose(np.linalg.norm(np.diff(path, axis=0), axis=1), 1)
    np.testing.assert_array_equal(moved[30], (8.0, 9.0))


def test_a_path_without_bend_or_jitter_is_straight() -> None:
    path = wander(np.random.default_rng(1), (2, 3), 0.0, 5, bend=0, jitter=0)

    np.testing.assert_allclose(path, [(2, 4), (2, 5), (2, 6), (2, 7), (2, 8)])
