"""Whether a line's scores lie where its calibration's did, with any defects among them."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from flowgauge.training.threshold_check import EXPECTED, Shift, disagreement, shift
from flowgauge.training.thresholds import Rule, Threshold

DRAWS = range(40)


def good(count: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).gamma(3.0, 1.0, count)


def line(seed: int, defects: float, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float64]:
    scores = move(good(80, 1000 + seed))
    scores[: round(80 * defects)] += 20
    return scores


def threshold(scores: NDArray[np.float64], parts: list[str] | None = None) -> Threshold:
    parts = parts or [str(number) for number in range(len(scores))]
    folds = np.arange(len(scores)) % 2
    return Threshold.from_folds(scores, folds, rule=Rule.CONFORMAL, k=1.5, seed=0, false_alarms=0.05, groups=parts)


def found(defects: float, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> list[Shift]:
    return [shift(threshold(good(120, seed)), line(seed, defects, move), seed=0) for seed in DRAWS]


@pytest.mark.parametrize("defects", [0.0, 0.1, 0.2, 0.3])
def test_an_unchanged_line_is_within_chance_whatever_its_share_of_defects(defects: float) -> None:
    """At either end of the range, 2.5 % of the draws are beyond it by chance."""
    shifts = found(defects, lambda scores: scores)
    assert sum(each.moved for each in shifts) <= 3
    low, high = EXPECTED
    assert low - 0.05 < np.mean([each.position for each in shifts]) < high + 0.05


@pytest.mark.parametrize("defects", [0.0, 0.2])
@pytest.mark.parametrize("move", [lambda scores: scores + 2, lambda scores: 3 * scores, lambda scores: scores / 3])
def test_scores_that_moved_are_beyond_chance(
    defects: float, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> None:
    assert sum(each.changed for each in found(defects, move)) >= 38


@pytest.mark.parametrize("defects", [0.0, 0.1])
def test_an_unchanged_line_with_a_usual_share_of_defects_has_not_changed(defects: float) -> None:
    assert sum(each.changed for each in found(defects, lambda scores: scores)) <= 3


def test_a_longer_tail_is_a_change_though_the_lower_quartile_stays() -> None:
    shifts = found(0.0, lambda scores: np.where(scores > np.quantile(scores, 0.6), scores + 6, scores))
    assert sum(each.moved for each in shifts) <= 3
    assert sum(each.changed for each in shifts) == len(shifts)


def test_a_calibration_that_is_copies_for_the_most_part_contradicts_no_threshold() -> None:
    scores = np.sort(good(200, 0))
    scores[:160] = scores[100]
    assert disagreement(threshold(scores), good(200, 1), seed=0) is None


def test_a_part_with_many_images_counts_once() -> None:
    """Forty images of one odd part among forty parts would else make the calibration look high."""
    scores, parts = good(80, 1), [str(number) for number in range(40)] + ["odd"] * 40
    scores[40:] += 20
    unmoved = shift(threshold(scores, parts), good(80, 2), seed=0)
    assert not unmoved.moved
    assert unmoved.position < 0.4


@pytest.mark.parametrize("value", [-1.0, 0.1])
def test_alarms_that_nearly_every_image_was_promised_are_no_change(value: float) -> None:
    promising = threshold(good(120, 1)).placed_at(value)
    assert promising.promised is not None
    assert promising.promised > 0.9
    assert not shift(promising, good(80, 2), seed=0).changed
