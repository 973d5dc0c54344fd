import math

import numpy as np
import pytest

from flowgauge.domain.folds import fold_of
from flowgauge.domain.messages import Decision
from flowgauge.training.gauge import decide_by_score
from flowgauge.training.thresholds import (
    Calibration,
    CalibrationScores,
    Rule,
    Threshold,
    bootstrap_interval,
    cut,
    equivalent_k,
    outlier_limit,
)


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
    assert cut(scores, Rule.ONE_SIDED, equivalent_k(scores, Rule.IQR, 1.5)) == pytest.approx(limit)


@pytest.mark.parametrize("copies", [80, 120, 200])
def test_copies_among_the_good_images_leave_the_limit_of_outliers_where_it_was(copies: int) -> None:
    scores = np.sort(_good(200))
    limit = outlier_limit(scores, Rule.ONE_SIDED, equivalent_k(scores, Rule.IQR, 1.5))
    first = (200 - copies) // 2
    # a batch may round a copy's score otherwise than another one
    scores[first : first + copies] = scores[100] + 1e-7 * (np.arange(copies) % 2)
    k = equivalent_k(scores, Rule.IQR, 1.5)
    assert 1 < k < 10
    assert outlier_limit(_good(200, seed=1), Rule.ONE_SIDED, k) == pytest.approx(limit, abs=1.5)


def test_copies_in_a_buffer_leave_out_no_good_image_that_stays_without_them() -> None:
    good = _good(60)
    with_copies = np.concatenate([good, np.full(60, np.median(good) - 0.1)])
    assert outlier_limit(with_copies, Rule.ONE_SIDED, 5.0) == pytest.approx(
        outlier_limit(good, Rule.ONE_SIDED, 5.0), abs=0.3
    )


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


def test_the_false_alarm_share_is_tested_by_the_other_folds() -> None:
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


def test_folds_keep_groups_whole_and_take_turns() -> None:
    folds = fold_of(["a", "a", "b", "c", "c", "d"], 2)
    assert folds.tolist() == [0, 0, 1, 0, 0, 1]


def test_each_fold_is_made_of_blocks_from_all_of_the_time() -> None:
    folds = fold_of([str(number) for number in range(100)], 2)
    assert folds.tolist() == [block % 2 for block in range(10) for _ in range(10)]


@pytest.mark.parametrize(("groups", "folds"), [(3, 2), (5, 3), (8, 8), (21, 4)])
def test_no_fold_is_empty(groups: int, folds: int) -> None:
    assert set(fold_of([str(number) for number in range(groups)], folds)) == set(range(folds))


SKEWED = np.exp(0.5 * _good(4000, seed=3))


def _fitted(rule: Rule = Rule.IQR, rate: float = 0.05) -> Threshold:
    return Threshold.from_folds(SKEWED, np.arange(4000) % 2, rule=rule, k=1.5, seed=0, false_alarms=rate)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.4])
def test_defects_do_not_lift_an_adapted_gauge_s_quartile_threshold_beyond_either_rule(share: float) -> None:
    fitted, scores = _fitted(), np.exp(0.5 * _good(4000, seed=4))
    scores[: round(share * 4000)] += 5
    adapted = fitted.for_adapted_gauge(scores, np.arange(4000) % 2, rescaled=False, seed=0)
    rules = {Rule.IQR: 1.5, Rule.ONE_SIDED: fitted.clean_half_k}
    assert adapted.value == min(cut(scores, rule, k) for rule, k in rules.items())
    assert share < 0.25 or adapted.rule is Rule.ONE_SIDED
    assert adapted.clean_half_k == fitted.clean_half_k


def test_a_quartile_threshold_of_an_adapted_gauge_is_unchanged_where_nothing_has_changed() -> None:
    fitted = _fitted()
    again = fitted.for_adapted_gauge(SKEWED, np.arange(4000) % 2, rescaled=False, seed=0)
    assert again.value == pytest.approx(fitted.value)
    assert again.false_alarm_share == pytest.approx(fitted.false_alarm_share)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_an_adapted_gauge_keeps_the_promise_though_suspects_were_cut_off(rate: float) -> None:
    """Of good images alone, moved and scaled as a change of light does: below, at and above the share that was cut."""
    fitted = _fitted(Rule.CONFORMAL, rate)
    line = 3 + 2 * np.exp(0.5 * _good(4000, seed=5))
    kept = line[line <= cut(line, Rule.ONE_SIDED, fitted.clean_half_k)]
    assert 0.02 < 1 - len(kept) / 4000 < 0.06
    adapted = fitted.for_adapted_gauge(kept, np.arange(len(kept)) % 2, rescaled=False, seed=0)
    fresh = 3 + 2 * np.exp(0.5 * _good(100_000, seed=6))
    assert 0.7 * rate < (fresh > adapted.value).mean() < 1.3 * rate
    assert (adapted.promised, adapted.clean_half_k) == (rate, fitted.clean_half_k)
    assert adapted.false_alarm_share == pytest.approx(rate, rel=0.3)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_defects_that_were_kept_lift_an_adapted_gauge_s_threshold_little(share: float) -> None:
    fitted = _fitted(Rule.CONFORMAL)
    line = np.exp(0.5 * _good(4000, seed=5))
    line[: round(share * 4000)] += 2.5
    kept = line[line <= cut(line, Rule.ONE_SIDED, fitted.clean_half_k)]
    adapted = fitted.for_adapted_gauge(kept, np.arange(len(kept)) % 2, rescaled=False, seed=0)
    fresh = np.exp(0.5 * _good(100_000, seed=6))
    assert (fresh > adapted.value).mean() < 1.3 * 0.05
    assert (fresh + 2.5 > adapted.value).mean() > (0.9 if share < 0.25 else 0.3)
    assert adapted.value < CalibrationScores.of(line).at(0.05)


@pytest.mark.parametrize("parts", [39, 57, 60, 75])
def test_the_rank_of_an_adapted_gauge_s_promise_is_taken_once(parts: int) -> None:
    """Whatever the number of kept images: (parts + 1) * 0.05 is an integer for 39 of them alone."""
    fitted = _fitted(Rule.CONFORMAL)
    kept = np.exp(0.5 * _good(parts, seed=7)) + 10
    adapted = fitted.for_adapted_gauge(kept, np.arange(parts) % 2, rescaled=True, seed=0)
    assert adapted.value == pytest.approx(fitted.value), "the kept scores' own quantile is higher"
    assert adapted.at(0.05) == adapted.value


def test_a_rescaled_detector_s_clean_scores_hold_for_its_adapted_gauge_too() -> None:
    """A fifth of defects, none of which was found, moves the quartiles by which the scale would be taken."""
    fitted = _fitted(Rule.CONFORMAL)
    line = np.exp(0.5 * _good(400, seed=5))
    line[:80] += 1.5
    rescaled, scaled = (
        fitted.for_adapted_gauge(line, np.arange(400) % 2, rescaled=given, seed=0) for given in (True, False)
    )
    assert rescaled.value == pytest.approx(fitted.value, rel=0.02)
    assert scaled.value > 1.2 * rescaled.value


def test_the_conformal_rule_takes_the_score_of_the_rank() -> None:
    scores = CalibrationScores.of(np.random.default_rng(0).permutation(np.arange(1.0, 100)))
    assert [scores.at(rate) for rate in (0.01, 0.05, 0.1, 0.5)] == [99, 95, 90, 50]
    assert scores.at(0.059) == 95, "the promise holds for rates between two ranks too"
    assert scores.supported == pytest.approx(0.01)


def test_images_of_one_part_weigh_as_one() -> None:
    """Nine parts with one image each, and one with ninety, of which the lower half scores as the others do."""
    scores = np.concatenate([np.arange(1.0, 10), np.full(45, 5.5), np.full(45, 100.0)])
    calibration = CalibrationScores.of(scores, [*map(str, range(9)), *["many"] * 90])
    assert calibration.parts == 10
    assert calibration.supported == pytest.approx(1 / 11)
    assert calibration.at(2 / 11) == 8.0, "9 and half of the many lie above: 0.15 of all parts' images"
    assert calibration.at(1 / 11) == 9.0
    assert calibration.at(0.04) >= 100.0, "half of one part in ten lies above all others' images: 0.05"
    assert CalibrationScores.of(scores).at(2 / 11) == 100.0, "as single images, the one part decides"


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_for_parts_of_any_number_of_images_is_the_one_that_all_sums_give(decimals: int, seed: int) -> None:
    """All weights of the others are summed and looked through for every level, among ties and parts of any size."""
    rng = np.random.default_rng(seed)
    scores, part = np.round(rng.normal(size=120), decimals), (40 * rng.random(120) ** 3).astype(int)
    calibration = CalibrationScores.of(scores, [str(number) for number in part])
    of_part = calibration.part == np.arange(calibration.parts)[:, None]
    own_PN = np.cumsum(np.where(of_part, calibration.weights, 0), axis=1)

    def exceeded(level: float) -> float:
        others_PN = own_PN.sum(axis=0) - own_PN
        first = (others_PN < level * (calibration.parts - 1) - 1e-9).sum(axis=1)
        reached = own_PN[np.arange(calibration.parts), np.minimum(first, len(scores) - 1)]
        return float(np.mean(1 - reached))

    for rate in (0.05, 0.1, 0.3, 0.6):
        low, high = 0.0, 1.0
        for _ in range(14):
            middle = (low + high) / 2
            low, high = (low, middle) if exceeded(middle) <= rate else (middle, high)
        level = np.searchsorted(np.cumsum(calibration.weights), high * calibration.parts - 1e-6)
        if exceeded(1) <= rate:
            assert calibration.at(rate) == calibration.scores[level]


def test_few_images_say_what_they_cannot_promise() -> None:
    few = Threshold.from_folds(_good(8), np.arange(8) % 2, rule=Rule.CONFORMAL, k=1.5, seed=0, false_alarms=0.01)
    assert few.extrapolated
    assert few.supported == pytest.approx(1 / 9)
    assert few.value >= max(few.scores)
    assert few.false_alarm_interval == pytest.approx((0, 1 - 0.05 ** (1 / 8)))
    assert "8 good parts support a promise of 11 % false alarms" in few.sentence
    assert "up to 31 % are possible" in few.sentence
    enough = few.repromised(1 / 9)
    assert not enough.extrapolated
    assert enough.value == max(few.scores) == few.at(1 / 9)


def test_a_threshold_gives_any_other_promise_and_can_be_moved() -> None:
    threshold = _fitted(Rule.CONFORMAL)
    rates = [0.2, 0.1, 0.05, 0.01, 0.001, 0.0001]
    limits = [threshold.at(rate) for rate in rates]
    assert limits == sorted(limits)
    assert threshold.at(0.05) == threshold.value
    for rate in rates[:4]:
        assert threshold.repromised(rate).false_alarm_share == pytest.approx(rate, abs=0.001)
    moved = threshold.moved_to(threshold.value + 1)
    assert (moved.value, moved.at(0.05)) == pytest.approx((threshold.value + 1, threshold.value + 1))
    assert moved.low == pytest.approx(threshold.low + 1)
    assert Threshold.model_validate_json(threshold.model_dump_json()) == threshold


def test_a_fold_of_one_image_has_a_threshold() -> None:
    assert CalibrationScores.of(np.array([3.0]), ["one"]).at(0.05) == 3.0


def test_a_quartile_threshold_of_images_that_all_lie_in_one_fold_is_checked_by_themselves() -> None:
    scores = _good(20)
    threshold = Threshold.from_folds(scores, np.zeros(20, np.intp), rule=Rule.ONE_SIDED, k=5, seed=0)
    assert threshold.false_alarm_share == (scores > threshold.value).mean()


def test_constant_scores_have_a_finite_threshold() -> None:
    assert CalibrationScores.of(np.ones(9)).at(0.001) == 1.0


def test_the_quartile_rules_promise_nothing() -> None:
    threshold = _fitted()
    assert (threshold.promised, threshold.false_alarm_interval) == (None, None)
    assert "promises no false-alarm rate" in threshold.sentence
    with pytest.raises(ValueError, match="no k"):
        cut(SKEWED, Rule.CONFORMAL, 1.5)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_for_review(score: float) -> None:
    decision, (reason,) = decide_by_score(_fitted(), score)
    assert decision is Decision.REVIEW
    assert "no finite number" in reason
