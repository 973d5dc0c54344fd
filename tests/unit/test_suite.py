"""Detectors over several data sets: operating points, ranks, few-shot draws, the page, and what a second run does."""

import json
import re
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

import flowgauge.cli.benchmark.suite as work
from flowgauge.cli.benchmark.detectors import FitTask
from flowgauge.cli.model import FeatureOptions, Model
from flowgauge.cli.options import Device
from flowgauge.domain.errors import DatasetError, UserError
from flowgauge.evaluation.comparison import Contender, PromisedRate, miss_shares, promised_rates, threshold_at_true_rate
from flowgauge.evaluation.datasets import Entry
from flowgauge.evaluation.intervals import binomial_interval
from flowgauge.evaluation.splits import Trial
from flowgauge.evaluation.suite import (
    Failure,
    Ranking,
    SuiteResults,
    SuiteRun,
    critical_difference,
    groups_within,
    ranking,
)
from flowgauge.reports.comparisons import ranking_sentences, render_suite
from tests.support.folders import write_mvtec, write_plain
from tests.unit.test_comparison import contender


def suite_run(
    dataset: str,
    detector: str,
    auroc: float,
    seed: int = 0,
    shots: int | None = None,
    promised: dict[str, PromisedRate] | None = None,
) -> SuiteRun:
    fields = dict(contender(detector, seed, auroc)) | {"miss_share_at": {"0.05": 1 - auroc}, "promised": promised or {}}
    return SuiteRun(dataset=dataset, shots=shots, **fields)


@pytest.mark.parametrize(("detectors", "q"), [(2, 1.960), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_has_the_published_q(detectors: int, q: float) -> None:
    """Demšar 2006, table 5(a)."""
    unit = (detectors * (detectors + 1) / 6) ** 0.5
    assert critical_difference(detectors, 1) / unit == pytest.approx(q, abs=5e-4)


def test_ranks_of_four_classifiers_on_fourteen_data_sets() -> None:
    """After Demšar 2006, table 6 and section 3.2.2, with a rounded tie in `voting` broken so that the mean ranks are
    those published. The Friedman test rejects, but CD = 2.569 * sqrt(4 * 5 / (6 * 14)) = 1.25 is more than the best and
    the worst rank differ by: one group.
    """
    table = {
        "adult": (0.763, 0.768, 0.771, 0.798),
        "breast cancer": (0.599, 0.591, 0.590, 0.569),
        "wisconsin": (0.954, 0.971, 0.968, 0.967),
        "cmc": (0.628, 0.661, 0.654, 0.657),
        "ionosphere": (0.882, 0.888, 0.886, 0.898),
        "iris": (0.936, 0.931, 0.916, 0.931),
        "liver": (0.661, 0.668, 0.609, 0.685),
        "lung cancer": (0.583, 0.583, 0.563, 0.625),
        "lymphography": (0.775, 0.838, 0.866, 0.875),
        "mushroom": (1.000, 1.000, 1.000, 1.000),
        "primary tumor": (0.940, 0.962, 0.965, 0.962),
        "rheum": (0.619, 0.666, 0.614, 0.669),
        "voting": (0.972, 0.981, 0.9751, 0.975),
        "wine": (0.957, 0.978, 0.946, 0.970),
    }
    names = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
    found = ranking({dataset: dict(zip(names, row, strict=True)) for dataset, row in table.items()})
    assert found is not None
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    expected = {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}
    assert found.mean_ranks == pytest.approx(expected, abs=5e-4)
    assert next(iter(found.mean_ranks)) == "C4.5+m+cf"
    assert found.groups == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)
    assert found.friedman_p is not None
    assert found.friedman_p < 0.05


def test_equal_values_share_their_ranks() -> None:
    found = ranking({"a": {"w": 0.9, "x": 0.5, "y": 0.9, "z": 0.1}})
    assert found is not None
    assert found.mean_ranks == {"w": 1.5, "x": 3.0, "y": 1.5, "z": 4.0}


def test_data_sets_that_lack_a_detector_do_not_count() -> None:
    rows = {"a": {"x": 0.9, "y": 0.8}, "b": {"x": 0.1}}
    found = ranking(rows)
    assert found is not None
    assert found.datasets == ("a",)
    assert found.mean_ranks == {"x": 1.0, "y": 2.0}
    assert found.friedman_p is None, "for two detectors there is no Friedman test"
    assert ranking({"a": {"x": 0.9}}) is None
    assert ranking({"a": {"x": 0.9}, "b": {"y": 0.8}}) is None


def test_detectors_that_are_alike_everywhere_do_not_differ() -> None:
    found = ranking({name: dict.fromkeys("xyz", 0.9) for name in "ab"})
    assert found is not None
    assert found.friedman_p == 1.0


def test_groups_are_the_largest_ones_that_lie_within_the_difference() -> None:
    mean_ranks = {"a": 1.0, "b": 1.8, "c": 2.5, "d": 5.0}
    assert groups_within(mean_ranks, 1.0) == [("a", "b"), ("b", "c")]
    assert groups_within(mean_ranks, 2.0) == [("a", "b", "c")]
    assert groups_within(mean_ranks, 0.5) == []


@pytest.mark.parametrize(("datasets", "able"), [(1, False), (3, False), (4, True)])
def test_it_is_said_when_no_result_could_have_shown_a_difference(datasets: int, able: bool) -> None:
    found = ranking({f"{n}": {"x": 0.9, "y": 0.8} for n in range(datasets)})
    assert found is not None
    assert found.can_differ is able
    said = " ".join(ranking_sentences(found))
    assert ("no result could have shown" in said) is not able
    assert "Friedman" not in said


def test_misses_at_a_true_rate_take_the_whole_images_that_the_rate_allows() -> None:
    good = np.arange(20.0)
    assert threshold_at_true_rate(good, 0.01) == 19.0, "fewer than 1 / rate images: none may alarm"
    assert threshold_at_true_rate(good, 0.05) == 18.0
    assert threshold_at_true_rate(good, 0.10) == 17.0
    scores = np.concatenate([good, [17.5, 18.5, 30.0, 0.0]])
    defective = np.arange(24) >= 20
    assert miss_shares(scores, defective) == {"0.01": 0.75, "0.05": 0.5, "0.1": 0.25}
    assert miss_shares(good, np.zeros(20, dtype=bool)) == {}


def test_equal_good_scores_never_exceed_the_rate() -> None:
    good = np.array([0.0] * 90 + [5.0] * 10)
    threshold = threshold_at_true_rate(good, 0.05)
    assert threshold == 5.0
    assert (good > threshold).mean() <= 0.05


def test_a_promise_is_held_against_the_test_images() -> None:
    scores, defective = np.array([0.1, 0.2, 0.3, 0.9, 0.25]), np.array([False, False, False, False, True])
    found = promised_rates({0.05: 0.22, 0.01: inf, 0.1: inf}.__getitem__, scores, defective)
    assert found == {
        "0.05": PromisedRate(threshold=0.22, false_alarm_share=0.5, miss_share=0.0, good_images=4, false_alarms=2)
    }, "a rate that too few images can promise is left out"
    assert promised_rates(None, scores, defective) == {}


def test_the_binomial_interval_is_that_of_clopper_and_pearson() -> None:
    assert binomial_interval(0, 60) == pytest.approx((0.0, 1 - 0.025 ** (1 / 60)))
    assert binomial_interval(60, 60) == pytest.approx((0.025 ** (1 / 60), 1.0))
    assert binomial_interval(5, 100) == pytest.approx((0.0164, 0.1128), abs=1e-4)


def test_few_shots_are_drawn_by_seed_and_spread_over_the_training_images() -> None:
    train = tuple(Entry(f"{n:03}", Path(f"{n:03}"), "good") for n in range(40))
    first, second = (Trial(seed, None, train, (), 0.0).by_training_size(8) for seed in (0, 1))
    assert first == Trial(0, None, train, (), 0.0).by_training_size(8)
    assert first.train != second.train
    for trial in (first, second):
        assert [int(entry.name) // 5 for entry in trial.train] == list(range(8)), "one of each eighth"
    assert Trial(0, None, train[:8], (), 0.0).by_training_size(8).train == train[:8]


def test_means_are_over_data_sets_of_means_over_seeds() -> None:
    found = SuiteResults(
        (
            *(suite_run("screw", "rad", auroc, seed) for seed, auroc in enumerate((0.5, 0.7))),
            suite_run("tiles", "rad", 0.9),
            suite_run("tiles", "rad", 0.2, shots=8),
            suite_run("screw", "glass", 0.8),
            suite_run("tiles", "glass", 0.8),
        )
    )
    glass, rad = found.summaries
    assert (glass.detector, rad.detector) == ("glass", "rad")
    assert rad.image_auroc == pytest.approx(0.75)
    assert rad.worst_dataset == "screw"
    assert rad.worst == pytest.approx(0.6)
    assert rad.miss_share_at == {"0.05": pytest.approx(0.25)}
    assert rad.mean_rank == glass.mean_rank == 1.5
    assert found.shots == [8]
    assert found.with_all_sizes() == []


def test_the_page_shows_tables_ranks_curves_promises_and_failures() -> None:
    promised = {
        "0.05": PromisedRate(threshold=1.0, false_alarm_share=0.4, miss_share=0.0, good_images=60, false_alarms=24)
    }
    runs = [
        suite_run(dataset, detector, auroc, seed, shots, promised if detector == "rad" else None)
        for dataset in ("screw", "<tiles>")
        for detector, auroc in (("rad", 0.8), ("glass", 0.9), ("padim", 0.7))
        for seed in (0, 1)
        for shots in (None, 8)
    ]
    failure = Failure(dataset="capsules", cause="It has no defects.")
    found = SuiteResults(tuple(runs), (failure,))
    whole = render_suite(found)
    assert render_suite(found) == whole
    assert "<tiles>" not in whole
    assert whole.count('class="rank-group"') == 1
    assert whole.count('class="curve"') == 9, "three detectors: the mean and two data sets"
    assert len(re.findall(r'<td class="best">0.900', whole)) == 3, "two data sets and the mean"
    assert len(re.findall(r'class="broken">40', whole)) == 2
    assert "<strong>capsules</strong>: It has no defects." in whole
    bare = render_suite(SuiteResults(tuple(run for run in runs if run.shots is None and run.detector == "glass")))
    assert not re.findall(r'Few-shot|Promised and|class="rank-group"|could not be measured', bare)


class Fits:
    """Stands in for the processes that fit: what was asked of them, and an image AUROC of 0.8 for all but one name."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, int, int | None]] = []

    def __call__(self, task: FitTask) -> Contender:
        self.asked.append((task.dataset.name, task.model.detector, task.seed, task.shots))
        if task.model.detector == "glass":
            raise RuntimeError("singular matrix")
        return contender(task.model.detector, task.seed)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    stand_in = Fits()
    monkeypatch.setattr(work, "measured_alone", stand_in)
    return stand_in


def like(root: Path) -> FitTask:
    return FitTask(root, None, None, None, Model(), Device.CPU, None)


def suite_of(root: Path, detectors: tuple[str, ...] = ("rad",), shots: tuple[int, ...] = (8,)) -> work.Suite:
    models = work.models_of(detectors, (), FeatureOptions())
    return work.Suite(work.datasets_in(like(root), ()), models, shots, lambda what, done, total: None)


def test_a_second_run_measures_only_what_is_new(fits: Fits, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "suite.json"
    for name, train in (("a", 8), ("b", 12)):
        write_mvtec(root / name, train=train, test_good=2, defects={"dent": 2})
    suite_of(root).run([0], out)
    first = [("a", "rad", 0, None), ("b", "rad", 0, None), ("b", "rad", 0, 8)]
    assert fits.asked == first, "eight images are all that `a` has"
    suite_of(root).run([0, 1], out)
    assert [each[2] for each in fits.asked[3:]] == [1, 1, 1]
    suite_of(root, ("csflow", "rad")).run([0], out)
    assert len(fits.asked) == 9
    assert len(json.loads(out.read_text())["runs"]) == 9

    tiled = replace(suite_of(root), models=(replace(suite_of(root).models[0], tiles="2x2"),))
    with pytest.raises(UserError, match="other images or settings"):
        tiled.run([0], out)
    write_plain(root / "a" / "train" / "good", 9)
    with pytest.raises(UserError, match="other images or splits of a"):
        suite_of(root).run([0], out)


def test_what_fails_is_reported_and_the_rest_is_kept(fits: Fits, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "suite.json"
    write_mvtec(root / "fine", train=8, test_good=2, defects={"dent": 2})
    write_mvtec(root / "flawless", train=8, test_good=2, defects={})
    found = suite_of(root, ("glass", "rad")).run([0, 1], out)
    assert [(run.dataset, run.detector) for run in found.runs] == [("fine", "rad")] * 2
    assert [failure.what for failure in found.failures] == ["flawless", "fine, glass, seed 0", "fine, glass, seed 1"]
    assert "no defects" in found.failures[0].cause
    assert found.failures[1].cause == "RuntimeError: singular matrix"
    assert len(json.loads(out.read_text())["failures"]) == 3

    with pytest.raises(UserError, match=r"Nothing could be measured\. flawless: flawless has no defects"):
        work.Suite(
            work.datasets_in(like(root), ["flawless"]),
            suite_of(root).models,
            (),
            lambda what, done, total: None,
        ).run([0], None)


def test_a_data_set_is_split_and_grouped_by_its_own_files(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "tiles", train=9, test_good=2, defects={"dent": 2})
    (folder,) = work.datasets_in(like(tmp_path), ())
    assert folder.groups is None
    assert len(folder.trials([3])[0].train) == 9
    before = folder.digest()
    names = [f"train/good/{n:03}.png" for n in range(8)]
    split = {"seed": 0, "train": names, "test_good": ["train/good/008.png"], "test_defect": ["test/dent/000.png"]}
    (tmp_path / "tiles" / "clean_splits.json").write_text(json.dumps({"splits": [split]}))
    (tmp_path / "tiles" / "groups.json").write_text("{}")
    (folder,) = work.datasets_in(like(tmp_path), ())
    assert len(folder.trials([0])[0].test) == 2
    assert folder.groups is not None
    assert folder.digest() != before
    with pytest.raises(DatasetError, match="no seed 3"):
        folder.trials([3])


@pytest.mark.parametrize(
    ("names", "said"), [((), "holds no data set"), (("screw",), "holds no data set"), (("x",), "holds no data set 'x'")]
)
def test_a_folder_without_the_data_set_is_a_mistake(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    if names == ("x",):
        write_mvtec(tmp_path / "tiles", train=8, test_good=1, defects={"dent": 1})
        with pytest.raises(UserError, match="is one data set"):
            work.datasets_in(like(tmp_path / "tiles"), ())
    with pytest.raises(UserError, match=said):
        work.datasets_in(like(tmp_path), names)


def test_options_belong_to_one_detector() -> None:
    features = FeatureOptions()
    glass, rad = work.models_of(("glass", "rad"), ("glass.steps=5",), features)
    assert (glass.changes, rad.changes) == (["steps=5"], [])
    assert "lamp" not in [model.detector for model in work.models_of((), (), features)]
    for change in ("steps=5", "csflow.steps=5", "glass.nothing=5"):
        with pytest.raises(UserError):
            work.models_of(("glass", "rad"), (change,), features)


@pytest.mark.parametrize(("text", "sizes"), [(None, ()), ("32,8,8", (8, 32))])
def test_sizes_are_a_list_of_numbers(text: str | None, sizes: tuple[int, ...]) -> None:
    assert work.shots_of(text) == sizes


@pytest.mark.parametrize("text", ["many", "4,16", ""])
def test_sizes_that_cannot_be_fitted_to_are_a_mistake(text: str) -> None:
    with pytest.raises(UserError):
        work.shots_of(text)


def test_a_ranking_survives_json() -> None:
    found = ranking({name: {"x": 0.9, "y": 0.8, "z": 0.7} for name in "abc"})
    assert found is not None
    assert Ranking.model_validate_json(found.model_dump_json()) == found
