"""The data checks' statistics on numbers that a test sets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowgauge.datachecks.focus import focus_check, sharpness
from flowgauge.datachecks.near_duplicates import Pair, near_duplicates, parts_of
from flowgauge.datachecks.outliers import apart, surprising
from flowgauge.datachecks.sample_size import needed
from flowgauge.synthetic.procedural import Condition, ProceduralLine


def silent(what: str, done: int, total: int) -> None:
    pass


def features(images: int, seed: int = 0) -> Tensor:
    """Unrelated images: (N, 24, 16, 16) around a mean that all share, of length 1 at each place."""
    generator = torch.Generator().manual_seed(seed)
    shared = 3 * torch.randn(1, 24, 16, 16, generator=generator)
    return F.normalize(
        shared + F.interpolate(torch.randn(images, 24, 8, 8, generator=generator), scale_factor=2), dim=1
    )


def found(rows: Tensor) -> set[tuple[int, int]]:
    return {(pair.first, pair.second) for pair in near_duplicates(rows, silent)}


def test_unrelated_images_have_no_near_duplicates() -> None:
    assert [found(features(60, seed)) for seed in range(4)] == [set()] * 4


def test_images_that_share_what_is_their_own_are_near_duplicates() -> None:
    rows = features(60)
    noise = 0.1 * torch.randn(rows[:2].shape, generator=torch.Generator().manual_seed(9))
    rows[[50, 51]] = F.normalize(rows[[3, 7]] + noise, dim=1)
    assert found(rows) == {(3, 50), (7, 51)}


def test_images_that_differ_from_the_rest_in_one_way_are_a_cluster_and_no_near_duplicates() -> None:
    """As when a third of the images were turned."""
    rows, turned = features(60), torch.randn(1, 24, 16, 16, generator=torch.Generator().manual_seed(5))
    rows[40:] = F.normalize(rows[40:] + 0.6 * F.avg_pool2d(turned, 5, 1, 2) * 5, dim=1)
    assert found(rows) == set()


def test_what_is_so_all_over_two_images_makes_no_near_duplicates() -> None:
    """As when both are out of focus, or lit alike."""
    rows, haze = features(60), torch.randn(24, 1, 1, generator=torch.Generator().manual_seed(5))
    rows[[10, 20]] = F.normalize(rows[[10, 20]] + 0.1 * haze, dim=1)
    assert found(rows) == set()


def test_two_images_have_no_near_duplicates() -> None:
    assert near_duplicates(features(2), silent) == []


def test_near_duplicates_are_found_across_the_blocks_in_which_they_are_sought() -> None:
    rows = features(600)
    rows[599] = rows[1]
    rows[300] = rows[299]
    assert found(rows) == {(1, 599), (299, 300)}


def test_near_duplicates_of_near_duplicates_show_one_part() -> None:
    parts = parts_of([Pair(0, 3, 0.9), Pair(3, 4, 0.8)], 6)
    assert parts[0] == parts[3] == parts[4]
    assert len(set(parts.tolist())) == 4


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
