"""Prices of thresholds: their intervals hold what they promise where the truth is known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from flowgauge.evaluation.intervals import binomial_interval, exact_share, prediction_interval
from flowgauge.evaluation.operating_point import Costs, Evidence, Scored, good_scores
from flowgauge.training.thresholds import CalibrationScores, Rule, Threshold

DRAWS = 600


def threshold(scores: np.ndarray, groups: list[str] | None = None, rate: float = 0.05) -> Threshold:
    calibration = CalibrationScores.of(scores, groups)
    return Threshold.promising(rate, calibration, k=1.5, clean_half_k=5.0, false_alarm_share=rate)


def scored(scores: np.ndarray) -> Scored:
    return Scored(scores, np.arange(len(scores)))


def normal(count: int, seed: int, centre: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, 1, count)


def evidence(seed: int = 0, defects: int = 40, **given: Any) -> Evidence:
    known = Evidence(
        threshold(normal(200, seed)),
        scored(normal(80, seed + 1)),
        scored(normal(defects, seed + 2, 3.0)),
        np.array([]),
        normal(500, seed + 3),
    )
    return Evidence(**(vars(known) | given))


@pytest.mark.parametrize(("truth", "known", "new"), [(0.05, 200, 100), (0.02, 60, 300), (0.3, 30, 30), (0.6, 20, 2000)])
def test_intervals_of_the_share_and_of_a_further_sample_cover_at_their_rate(truth: float, known: int, new: int) -> None:
    rng = np.random.default_rng(known)
    held = np.zeros(2)
    for _ in range(DRAWS):
        share = exact_share(rng.random(known) < truth, np.arange(known))
        low, high = prediction_interval(share, new)
        held += [share.interval[0] <= truth <= share.interval[1], low <= rng.binomial(new, truth) / new <= high]
    assert (held / DRAWS >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / DRAWS)).all()


def test_images_of_one_part_count_as_what_they_tell() -> None:
    """Each of 40 parts shows ten images that all err, or do not: 400 images know no more than 40."""
    rng, parts = np.random.default_rng(0), np.repeat(np.arange(40), 10)
    naive = held = further = 0
    for _ in range(DRAWS):
        erred = rng.random(40)[parts] < 0.2
        share = exact_share(erred, parts)
        held += share.interval[0] <= 0.2 <= share.interval[1]
        low, high = binomial_interval(erred.sum(), erred.size)
        naive += low <= 0.2 <= high
        low, high = prediction_interval(share, 200)
        further += low <= rng.binomial(20, 0.2) / 20 <= high
    assert min(held, further) >= 0.93 * DRAWS
    assert naive < 0.6 * DRAWS


def test_the_prediction_of_independent_images_is_beta_binomial() -> None:
    share = exact_share(np.arange(100) < 5, np.arange(100))
    wanted = [stats.betabinom.ppf(0.025, 50, 5, 96) / 50, stats.betabinom.ppf(0.975, 50, 6, 95) / 50]
    assert prediction_interval(share, 50) == pytest.approx(wanted)
    assert prediction_interval(exact_share(np.zeros(9, bool), np.arange(9)), 10)[0] == 0
    assert prediction_interval(exact_share(np.ones(9, bool), np.arange(9)), 10)[1] == 1
    many = prediction_interval(share, 10_000_000)
    assert many == pytest.approx(share.interval, abs=0.005), "of a large sample only the share is unknown"


@given(some.lists(some.floats(-50, 50), min_size=8, max_size=60), some.floats(-60, 500))
def test_the_rate_that_a_value_implies_gives_no_higher_a_value(scores: list[float], value: float) -> None:
    calibration = CalibrationScores.of(np.array(scores))
    rate = calibration.rate_at(value)
    assert 0 < rate < 1
    if value >= min(scores):
        assert calibration.at(rate) <= value + 1e-6 * max(1, abs(value))
    assert calibration.rate_at(value + 1) <= rate


@pytest.mark.parametrize("rate", [0.3, 0.05, 0.01, 0.001])
def test_a_promise_and_the_value_that_it_gives_imply_each_other(rate: float) -> None:
    calibration = CalibrationScores.of(normal(199, 5))
    assert calibration.rate_at(calibration.at(rate)) == pytest.approx(rate, rel=1e-6)


def test_a_threshold_that_a_person_sets_promises_what_it_implies() -> None:
    limit = threshold(normal(199, 1))
    placed = limit.placed_at(limit.at(0.1))
    assert (placed.rule, placed.scores) == (Rule.PERSON, limit.scores)
    assert placed.promised == pytest.approx(0.1)
    assert placed.low < placed.value < placed.high
    assert placed.false_alarm_share == pytest.approx(0.1, abs=0.006)
    beyond = limit.placed_at(max(limit.scores) + 5)
    assert beyond.extrapolated
    assert 0 < (beyond.promised or 0) < 1 / 200
    assert beyond.low <= beyond.value <= beyond.high


def test_calibration_scores_that_differ_from_the_gauge_s_own_do_not_count() -> None:
    limit = threshold(normal(200, 0))
    alike, pooled = good_scores(limit, scored(normal(80, 1)))
    assert (len(alike), pooled) == (280, True)
    other, pooled = good_scores(limit, scored(normal(80, 1, 1.0)))
    assert (len(other), pooled) == (80, False)
    assert good_scores(limit, scored(np.array([])))[1]


@pytest.mark.parametrize("offset", [0.0, 0.4, 1.0])
def test_false_alarms_are_covered_whether_or_not_cross_fitting_is_off(offset: float) -> None:
    """At a threshold that 5 % of the line's good parts exceed; calibration scores lie `offset` too high."""
    truth, held = stats.norm.ppf(0.95), 0
    for seed in range(200):
        known = evidence(10 * seed, threshold=threshold(normal(200, 10 * seed, offset)), good=scored(normal(200, seed)))
        low, high = known.at(float(truth)).false_alarms.interval
        held += low <= 0.05 <= high
    assert held >= 0.9 * 200


def test_misses_without_labelled_defects_are_unknown_and_never_none() -> None:
    point = evidence(defects=0, defect_rate=0.1, costs=Costs(false_alarm=1, miss=100)).at(2.0)
    assert (point.misses, point.misses_among(10), point.cost) == (None, None, None)


def test_flagged_defects_tell_what_would_pass_and_nothing_else() -> None:
    known = evidence(defects=0, flagged=np.array([1.0, 2.5, 4.0]))
    assert (known.at(3.0).flagged, known.at(3.0).flagged_passed, known.at(3.0).misses) == (3, 2, None)


def test_the_price_of_a_threshold_counts_alarms_misses_and_reviews() -> None:
    known = evidence(defect_rate=0.1, costs=Costs(false_alarm=2, miss=50, review=1))
    point = known.at(1.5)
    good, misses = np.concatenate([normal(200, 0), normal(80, 1)]), normal(40, 2, 3.0)
    assert point.false_alarms.mean == pytest.approx((good > 1.5).mean())
    assert point.misses is not None
    assert point.misses.mean == pytest.approx((misses <= 1.5).mean())
    inside = ((known.recent >= point.low) & (known.recent <= point.high)).mean()
    assert point.review == pytest.approx(inside)
    total = 0.9 * 2 * point.false_alarms.mean + 0.1 * 50 * point.misses.mean + inside
    assert point.cost is not None
    assert point.cost_interval is not None
    assert point.cost == pytest.approx(1000 * total)
    assert point.cost_interval[0] < point.cost < point.cost_interval[1]


def test_the_cheapest_threshold_lies_in_its_interval_and_rises_with_the_cost_of_false_alarms() -> None:
    found = []
    for false_alarm in (1.0, 100.0):
        known = evidence(defect_rate=0.1, costs=Costs(false_alarm=false_alarm, miss=50))
        points = known.shown(list(np.linspace(0, 4, 17)))
        cheapest = known.cheapest(points)
        assert cheapest is not None
        point, (low, high) = cheapest
        assert low <= point.threshold <= high
        assert point.cost == min(each.cost or 0 for each in points)
        found.append(point.threshold)
    assert found[0] < found[1]
    assert evidence().cheapest(evidence().shown()) is None


def test_the_true_best_threshold_lies_in_the_interval_of_the_cheapest() -> None:
    values = np.linspace(-1, 5, 25)
    truth = 0.9 * stats.norm.sf(values) + 0.1 * 10 * stats.norm.cdf(values - 3)
    best, held = values[truth.argmin()], 0
    for seed in range(60):
        known = evidence(10 * seed, defects=60, defect_rate=0.1, costs=Costs(false_alarm=1, miss=10))
        cheapest = known.cheapest([known.at(float(value)) for value in values])
        assert cheapest is not None
        held += cheapest[1][0] <= best <= cheapest[1][1]
    assert held >= 54
