import numpy as np
import pytest

from core.thresholds import Calibration, Rule, Threshold, bootstrap_interval, cut, equivalent_k, fold_of


def _good(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, count)


def _contaminated(share: float, count: int = 4000) -> np.ndarray:
    scores = _good(count)
    scores[: round(share * count)] += 5
    return scores


def test_the_iqr_rule_is_the_formula() -> None:
    assert cut(np.array([1.0, 2, 3, 4, 5]), Rule.IQR, 1.5) == pytest.approx(4 + 1.5 * 2)


def test_the_one_sided_rule_is_the_formula() -> None:
    assert cut(np.array([1.0, 2, 3, 4, 5]), Rule.ONE_SIDED, 2) == pytest.approx(3 + 2 * 1)


@pytest.mark.parametrize(("share", "rejects"), [(0.1, True), (0.2, True), (0.3, False)])
def test_the_iqr_rule_breaks_down_above_a_quarter_of_contamination(share: float, rejects: bool) -> None:
    scores = _contaminated(share)
    caught = (scores[: round(share * 4000)] > cut(scores, Rule.IQR, 1.5)).mean()
    assert bool(caught > 0.5) is rejects


def test_the_one_sided_rule_goes_on_where_the_iqr_rule_has_broken_down() -> None:
    scores = _contaminated(0.3)
    limit = cut(scores, Rule.ONE_SIDED, 3)
    assert (scores[:1200] > limit).mean() > 0.9
    assert (scores[1200:] > limit).mean() < 0.01


def test_the_equivalent_k_puts_the_same_threshold() -> None:
    scores = np.exp(_good(500))
    limit = cut(scores, Rule.IQR, 1.5)
    assert cut(scores, Rule.ONE_SIDED, equivalent_k(scores, limit)) == pytest.approx(limit)


def test_the_bootstrap_interval_narrows_with_more_images_and_holds_the_value() -> None:
    widths = []
    for count in (40, 640):
        scores = _good(count)
        low, high = bootstrap_interval(scores, Rule.IQR, 1.5, seed=0)
        assert low <= cut(scores, Rule.IQR, 1.5) <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_drawing_whole_groups_widens_the_interval_when_a_group_repeats_itself() -> None:
    scores = np.repeat(_good(40), 8)
    groups = [str(index) for index in np.repeat(np.arange(40), 8)]
    alone = bootstrap_interval(scores, Rule.IQR, 1.5, seed=0)
    together = bootstrap_interval(scores, Rule.IQR, 1.5, seed=0, groups=groups)
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])


def test_the_false_alarm_share_is_judged_by_the_other_folds() -> None:
    scores = np.concatenate([_good(100), _good(100, seed=1) + 10])
    folds = np.repeat([0, 1], 100)
    threshold = Threshold.from_folds(scores, folds, rule=Rule.IQR, k=1.5, seed=0)
    assert threshold.false_alarm_share == pytest.approx(0.5)
    assert threshold.low <= threshold.value <= threshold.high
    assert threshold.images == 200


def test_calibration_puts_the_median_at_zero_and_a_deviation_at_one() -> None:
    scores = 3 + 2 * _good(20_000)
    calibration = Calibration.of(scores)
    assert calibration.standardise(3) == pytest.approx(0, abs=0.05)
    assert calibration.standardise(5) == pytest.approx(1, abs=0.05)


def test_defects_do_not_widen_the_calibration() -> None:
    clean, dirty = Calibration.of(_contaminated(0)), Calibration.of(_contaminated(0.2))
    assert dirty.deviation < 1.3 * clean.deviation


def test_calibration_of_constant_scores_is_finite() -> None:
    assert np.isfinite(Calibration.of(np.ones(9)).standardise(2))


def test_folds_keep_groups_whole_and_in_order() -> None:
    folds = fold_of(["a", "a", "b", "c", "c", "d"], 2)
    assert folds.tolist() == [0, 0, 0, 1, 1, 1]


SKEWED = np.exp(0.5 * _good(4000, seed=3))


def _fitted() -> Threshold:
    return Threshold.from_folds(SKEWED, np.arange(4000) % 2, rule=Rule.IQR, k=1.5, seed=0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.4])
def test_defects_among_the_scores_do_not_lift_a_threshold_that_is_handed_on_beyond_either_rule(share: float) -> None:
    fitted, scores = _fitted(), np.exp(0.5 * _good(4000, seed=4))
    scores[: round(share * 4000)] += 5
    handed = fitted.handed_on(scores, np.arange(4000) % 2, seed=0)
    rules = {Rule.IQR: 1.5, Rule.ONE_SIDED: fitted.clean_half_k}
    assert handed.value == min(cut(scores, rule, k) for rule, k in rules.items())
    assert share < 0.25 or handed.rule is Rule.ONE_SIDED
    assert handed.clean_half_k == fitted.clean_half_k


def test_a_threshold_is_handed_on_unchanged_where_nothing_has_changed() -> None:
    fitted = _fitted()
    again = fitted.handed_on(SKEWED, np.arange(4000) % 2, seed=0)
    assert again.value == pytest.approx(fitted.value)
    assert again.false_alarm_share == pytest.approx(fitted.false_alarm_share)
