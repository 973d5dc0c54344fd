import numpy as np
import pytest

from flowgauge.evaluation.choices import Costs, least_cost, smallest_budget, within_budget

GOOD = np.array([0.0, 1.0, 2.0, 3.0, 6.0])
DEFECT = np.array([2.5, 5.0, 5.5, 8.0, 9.0, 10.0])


def errors(threshold: float) -> tuple[float, float]:
    return float(np.greater(GOOD, threshold).mean()), float(np.less_equal(DEFECT, threshold).mean())


def test_youden_takes_the_threshold_with_the_most_hits_less_false_alarms() -> None:
    assert least_cost(GOOD, DEFECT) == 4.0  # between 3 and 5: one false alarm of five, one miss of six
    best = 1 - sum(errors(least_cost(GOOD, DEFECT)))
    assert best == pytest.approx(max(1 - sum(errors(value)) for value in np.linspace(-1, 9, 400)))


def test_between_kinds_that_do_not_overlap_the_threshold_lies_in_the_middle() -> None:
    assert least_cost(np.array([1.0, 2.0]), np.array([6.0, 9.0])) == 4.0


def test_dear_misses_lower_the_threshold_and_dear_false_alarms_raise_it() -> None:
    dear_misses = least_cost(GOOD, DEFECT, *Costs(miss=100, false_alarm=1, prevalence=0.5).per_share)
    dear_alarms = least_cost(GOOD, DEFECT, *Costs(miss=1, false_alarm=100, prevalence=0.5).per_share)
    assert (dear_misses, dear_alarms) == (2.25, 7.0)


def test_where_defects_cost_nothing_there_are_no_alarms() -> None:
    assert errors(least_cost(GOOD, DEFECT, *Costs(miss=0, false_alarm=1, prevalence=0.5).per_share))[0] == 0


def test_where_false_alarms_cost_nothing_every_defect_is_caught() -> None:
    assert errors(least_cost(GOOD, DEFECT, *Costs(miss=1, false_alarm=0, prevalence=0.5).per_share))[1] == 0


def test_costs_are_those_of_a_thousand_parts_at_the_lines_prevalence() -> None:
    costs = Costs(miss=10, false_alarm=2, prevalence=0.1)
    assert costs.per_1000(0.05, 0.5) == pytest.approx(1000 * (0.9 * 2 * 0.05 + 0.1 * 10 * 0.5))


def test_a_budget_is_kept_on_new_parts() -> None:
    """Seen over many halves of 99: on average a new part lies above the threshold just as often as is allowed."""
    rng = np.random.default_rng(0)
    shares = [1 - within_budget(rng.random(99), 0.05) for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(0.05, abs=0.002)  # 4 deviations of the mean are 0.0019


def test_too_few_images_for_a_budget_give_their_highest_score() -> None:
    assert within_budget(GOOD, 0.01) == 6.0
    assert smallest_budget(len(GOOD)) == pytest.approx(1 / 6)
