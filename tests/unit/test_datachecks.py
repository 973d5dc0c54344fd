"""The data checks' statistics on numbers that a test sets."""

import numpy as np
import pytest
from scipy import stats

from flowgauge.datachecks.camera import focus_check
from flowgauge.datachecks.image_statistics import sharpness
from flowgauge.datachecks.outliers import apart, surprising
from flowgauge.datachecks.training_images import needed
from flowgauge.synthetic.procedural import Condition, ProceduralLine


@pytest.mark.parametrize("images", [30, 200, 2000])
def test_normal_values_stand_out_no_more_often_than_the_family_may(images: int) -> None:
    draws = [np.random.default_rng(seed).normal(size=images) for seed in range(200)]
    wrong = sum(apart(values, values, 0.0).any() for values in draws)
    assert wrong <= 40 if images < 100 else wrong <= 8  # quartiles of 30 values are rough


def test_a_value_that_is_far_but_little_off_does_not_stand_out() -> None:
    values = np.append(np.linspace(0.99, 1.01, 50), [1.1, 2.0])
    assert np.flatnonzero(apart(values, values, 0.5)).tolist() == [51]


def test_maxima_are_surprising_no_more_often_than_the_rate() -> None:
    draws = [np.random.default_rng(seed).gumbel(size=150) for seed in range(300)]
    assert sum(surprising(scores, 0.02).any() for scores in draws) <= 20


def test_a_tenth_that_scores_high_is_surprising_and_the_rest_is_not() -> None:
    rng = np.random.default_rng(0)
    scores = np.append(rng.gumbel(size=180), rng.gumbel(14, 1, size=20))
    named = surprising(scores, 0.02)
    assert named[180:].all()
    assert named[:180].sum() <= 1


def test_what_is_surprising_is_what_the_step_up_rule_rejects() -> None:
    """Benjamini and Hochberg by their words: all up to the largest rank k with p_(k) <= rate * k / n."""
    for seed in range(20):
        scores = np.random.default_rng(seed).gumbel(size=60) + np.linspace(0, 8, 60) ** 2 / 8
        q1, median, q3 = np.quantile(scores, (0.25, 0.5, 0.75))
        iqr = np.log(np.log(4)) - np.log(np.log(4 / 3))
        p = stats.gumbel_r.sf((scores - median) / (q3 - q1) * iqr - np.log(np.log(2)))
        passed = np.flatnonzero(np.sort(p) <= 0.2 * np.arange(1, 61) / 60)
        rejected = np.argsort(p)[: passed[-1] + 1 if len(passed) else 0]
        assert np.flatnonzero(surprising(scores, 0.2)).tolist() == sorted(rejected.tolist())


def test_all_equal_scores_surprise_nobody() -> None:
    assert not surprising(np.ones(40), 0.02).any()


def test_defocus_lowers_sharpness_in_spite_of_the_sensors_noise() -> None:
    line = ProceduralLine("leather", seed=0, size=128)
    sharp = [sharpness(line.good(0, Condition(blur=blur)).pixels) for blur in (0, 1, 2, 3)]
    assert sharp == sorted(sharp, reverse=True)
    assert sharp[0] - sharp[2] > 1


def test_a_flat_image_has_a_sharpness() -> None:
    assert np.isfinite(sharpness(np.full((40, 30, 3), 128, np.uint8)))


def test_sharper_images_are_not_out_of_focus() -> None:
    usual = np.random.default_rng(0).normal(0, 0.05, 100)
    check = focus_check([f"{n}" for n in range(102)], np.append(usual, [-2.0, 2.0]), usual)
    (finding,) = check.findings
    assert [image.name for image in finding.images] == ["100"]


def test_wilks_rule_asks_for_59_parts_where_a_twentieth_may_be_rejected() -> None:
    assert needed(0.05, 0.95) == 59
    assert needed(0.01, 0.95) == 299
