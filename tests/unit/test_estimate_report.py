import numpy as np
import pytest

from flowgauge.evaluation.choices import Choice, Chooser, Costs
from flowgauge.evaluation.estimate import EstimateReport, Origin, Repeat, estimated, f1, precision
from flowgauge.evaluation.near_duplicates import NearDuplicates
from flowgauge.reports.estimate import render_estimate
from tests.unit.test_report import outline

GOOD, DEFECTS = 80, 40
PARTS = {f"good/{n}": f"good/{n}" for n in range(GOOD)} | {f"<b>/{n}": f"<b>/{n}" for n in range(DEFECTS)}
COSTS = Costs(miss=20, false_alarm=1, prevalence=0.1)


def repeat(seed: int, shift: float = 0.0) -> Repeat:
    """Twenty of each kind judge; `shift` makes good images look worse."""
    rng = np.random.default_rng(seed)
    good, bad = (rng.permutation(count)[:20] for count in (GOOD, DEFECTS))
    return Repeat(
        seed=seed,
        threshold=12.0,
        median=10.0,
        deviation=2.0,
        good={f"good/{n}": 10 + shift + 1.5 * np.sin(n) for n in good},
        defect={f"<b>/{n}": 13 + 2 * np.cos(n) for n in bad},
        train_images=40,
        idle=0,
        seconds=1.0,
    )


def estimate_report(
    shift: float = 0.6, near_duplicates: bool = False, choice: Choice = Choice.YOUDEN
) -> EstimateReport:
    repeats = tuple(repeat(seed, shift) for seed in range(10))
    apart = tuple(repeat(seed) for seed in range(10))
    groups = (NearDuplicates(names=("good/1", "good/<2>"), distance=0.2, across=True),) if near_duplicates else ()
    return EstimateReport(
        dataset="tiles",
        detector="headflow",
        software="flowgauge 0",
        key="key",
        chooser=Chooser(choice=choice, costs=COSTS, budget=0.01),
        good_images=GOOD,
        defective_images=DEFECTS,
        parts=GOOD + DEFECTS,
        origin=Origin.NEAR_DUPLICATES if near_duplicates else Origin.FILE,
        estimate=estimated(repeats, PARTS, COSTS, GOOD),
        duplicates_apart=estimated(apart, PARTS, COSTS, GOOD) if near_duplicates else None,
        near_duplicates=groups,
        repeats=repeats,
        repeats_apart=apart if near_duplicates else (),
    )


def test_figures_are_means_over_repeats_and_agree_with_one_another() -> None:
    found = estimate_report().estimate
    alarms = [np.mean([s > 12 for s in repeat(seed, 0.6).good.values()]) for seed in range(10)]
    misses = [np.mean([s <= 12 for s in repeat(seed, 0.6).defect.values()]) for seed in range(10)]
    assert found.false_alarm_share.mean == pytest.approx(np.mean(alarms))
    assert found.false_alarm_share.spread == pytest.approx(np.std(alarms, ddof=1))
    assert found.miss_share.mean == pytest.approx(np.mean(misses))
    assert found.recall.mean == pytest.approx(1 - found.miss_share.mean)
    assert found.recall.interval == pytest.approx([1 - end for end in found.miss_share.interval[::-1]])
    assert found.balanced_accuracy.mean == pytest.approx(1 - np.mean([alarms, misses]))
    assert found.cost_per_1000.mean == pytest.approx(900 * np.mean(alarms) + 2000 * np.mean(misses))
    for figure in found.figures().values():
        assert figure.interval[0] <= figure.mean <= figure.interval[1]
    assert found.false_alarm_share.interval == pytest.approx(found.false_alarms.interval)


def test_precision_and_f1_are_as_among_equally_many_of_both_kinds() -> None:
    assert precision(0.1, 0.1) == pytest.approx(0.9)
    assert f1(0.1, 0.1) == pytest.approx(0.9)
    assert f1(0.0, 0.5) == pytest.approx(2 * 1.0 * 0.5 / 1.5)
    assert precision(0.0, 1.0) == 1.0, "no alarm is no wrong alarm"


def test_the_promise_counts_whole_parts_around_the_interval() -> None:
    found = estimate_report()
    low, high = found.estimate.false_alarms.interval
    words = found.promise.split()
    reported = [int(word) for word in words if word.isdigit()]
    assert reported[0] <= 1000 * low < reported[0] + 1
    assert reported[1] - 1 < 1000 * high <= reported[1]
    assert "of 100 defects expect" in found.promise


def test_what_near_duplicates_flatter_is_said() -> None:
    assert len(list(estimate_report().sentences())) == 1
    _, flattery = estimate_report(near_duplicates=True).sentences()
    assert "2 images are near duplicates" in flattery
    assert "1 lie in both train and test" in flattery
    assert any("--groups or --group" in words for words in estimate_report(near_duplicates=True).warnings())
    assert not list(estimate_report().warnings())


def test_a_budget_that_so_few_images_cannot_keep_is_warned_of() -> None:
    (words,) = estimate_report(choice=Choice.BUDGET).warnings()
    assert "20 good images cannot keep a budget of 0.01" in words


@pytest.mark.parametrize("near_duplicates", [False, True])
def test_the_page_is_well_formed_and_asks_nothing_of_the_network(near_duplicates: bool) -> None:
    found = estimate_report(near_duplicates=near_duplicates)
    page = render_estimate(found)
    seen = outline(page)
    assert "script" not in seen.seen
    assert "url(" not in page
    assert found.promise in page
    assert ("Near duplicates" in page) is near_duplicates
    assert "<b>/" not in page
    assert page.count("<title>repeat ") == 30, "a threshold, a share of false alarms and one of misses for each repeat"
    assert render_estimate(EstimateReport.model_validate_json(found.model_dump_json())) == page


def test_the_page_renders_where_nothing_ever_errs() -> None:
    quiet = estimate_report(shift=-5.0)
    assert quiet.estimate.false_alarm_share.mean == 0
    assert quiet.estimate.false_alarm_share.interval[1] > 0
    outline(render_estimate(quiet))
