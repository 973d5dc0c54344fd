"""Loss amplification compared with its base, on digits and on large images."""

import pytest

from flowgauge.evaluation.loss_amplification import RATES, Amplified, OneClassDigits, Setting, comparisons, settings_of
from flowgauge.models.lamp.reconstruction import BaseLoss, Optimiser

PLAIN = Setting(where="digits", loss=BaseLoss.L2, optimiser=Optimiser.ADAM, amplified=False)
STEEP = PLAIN.model_copy(update={"amplified": True})


def cell(setting: Setting, seed: int, *auroc: float) -> Amplified:
    tasks = {str(task): value for task, value in enumerate(auroc)}
    return Amplified(setting=setting, seed=seed, learning_rate=0.1, auroc=tasks)


def test_a_row_compares_means_over_seeds_and_counts_the_fits_that_gain() -> None:
    cells = [cell(PLAIN, 0, 0.5, 0.7), cell(PLAIN, 1, 0.7, 0.9), cell(STEEP, 0, 0.6, 0.6), cell(STEEP, 1, 0.8, 1.0)]
    (row,) = comparisons(cells)
    assert (row.base, row.amplified, row.gain) == pytest.approx((0.7, 0.75, 0.05))
    assert row.base_std == pytest.approx(0.2 / 2**0.5)
    assert (row.higher, row.pairs) == (3, 4)


def test_seeds_that_one_side_alone_has_do_not_count() -> None:
    """An interrupted run leaves such."""
    cells = [cell(PLAIN, 0, 0.5), cell(PLAIN, 1, 0.9), cell(STEEP, 0, 0.6), cell(STEEP, 2, 0.1)]
    (row,) = comparisons(cells)
    assert (row.base, row.amplified, row.higher, row.pairs) == pytest.approx((0.5, 0.6, 1, 1))
    assert comparisons([cell(PLAIN, 0, 0.5), cell(STEEP, 1, 0.6)]) == []


def test_a_base_that_nobody_amplified_makes_no_row() -> None:
    assert comparisons([cell(PLAIN, 0, 0.5)]) == []


def test_all_losses_meet_all_optimisers_with_and_without() -> None:
    settings = settings_of("digits", Optimiser)
    assert len(set(settings)) == len(settings) == 3 * 3 * 2


def test_an_autoencoder_of_digits_tells_one_class_from_the_others_and_repeats_itself() -> None:
    digits = OneClassDigits(steps=60)
    found = digits.run(PLAIN, 0, 3e-3, (0,))
    assert found.auroc["0"] > 0.9
    assert digits.run(PLAIN, 0, 3e-3, (0,)) == found
    assert digits.run(PLAIN, 1, 3e-3, (0,)) != found
    assert digits.run(STEEP, 0, 3e-3, (0,)) != found


def test_the_rate_is_one_of_those_offered() -> None:
    assert OneClassDigits(steps=2).best_rate(STEEP) in RATES[Optimiser.ADAM]
