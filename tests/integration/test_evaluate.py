from collections.abc import Collection, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.errors import DatasetError
from flowgauge.domain.messages import Decision
from flowgauge.evaluation import evaluate as evaluate_module
from flowgauge.evaluation import stopwatch
from flowgauge.evaluation.datasets import Dataset
from flowgauge.evaluation.evaluate import Conditions, evaluate
from flowgauge.evaluation.results import Evaluation
from flowgauge.evaluation.splits import Groups, Trial, own_trial
from flowgauge.models.detector import Progress
from flowgauge.services.snapshots import stored_gauge
from flowgauge.training.gauge import Gauge
from flowgauge.vision.decoding import Picture
from tests.support.folders import write_image, write_mask, write_mvtec
from tests.support.plants import LINE, fitted_store, tiny_dataset


@pytest.fixture(scope="module", autouse=True)
def _few_repetitions() -> Iterator[None]:
    """Speeds are by a clock that ticks, so one of them is as good as many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_module, "REPETITIONS", 1)
        patch.setattr(stopwatch, "WARM_UPS", 0)
        yield


@pytest.fixture(scope="module")
def gauge(tmp_path_factory: pytest.TempPathFactory) -> Gauge:
    with open_store(str(fitted_store(tmp_path_factory.mktemp("evaluate") / "store"))) as plant:
        return stored_gauge(plant, LINE)


def judged(gauge: Gauge, trials: Sequence[Trial], groups: Groups | None = None) -> Evaluation:
    """An evaluation whose every fit gives `gauge`, by a clock that ticks once each time it is read."""
    ticks = count()

    def fitted(pictures: Collection[Picture], parts: Sequence[str] | None, seed: int, progress: Progress) -> Gauge:
        assert len(pictures) == len(trials[0].train)
        return gauge

    conditions = Conditions(fit=fitted, clock=lambda: next(ticks), device="cpu", groups=groups)
    return evaluate("tiny", trials, conditions, lambda what, done, total: None)


@pytest.fixture(scope="module")
def own(gauge: Gauge) -> Evaluation:
    return judged(gauge, [own_trial(Dataset.open(tiny_dataset()), seed=0)])


def test_the_figures_are_those_of_the_single_images(own: Evaluation) -> None:
    (run,) = own.runs
    good = [image.score for image in run.images if image.kind == "good"]
    bad = [image.score for image in run.images if image.kind != "good"]
    assert (run.fitted_images, run.good_images, run.defective_images) == (24, len(good), len(bad)) == (24, 6, 6)
    assert run.image_auroc == pytest.approx(np.mean([b > g for b in bad for g in good]))
    assert run.threshold is not None
    assert run.false_alarm_share == np.mean([g > run.threshold for g in good])
    assert run.miss_share == np.mean([b <= run.threshold for b in bad])
    assert run.review_share == np.mean([image.decision is Decision.REVIEW for image in run.images])


def test_the_map_finds_the_defects_of_a_procedural_line(own: Evaluation) -> None:
    (run,) = own.runs
    assert run.pixel_auroc is not None
    assert run.aupro is not None
    assert run.pixel_auroc > 0.8
    assert run.aupro > 0.5
    assert run.regions >= 6


def test_classes_are_tested_one_by_one_against_all_good_images(own: Evaluation) -> None:
    (run,) = own.runs
    assert set(run.per_class) == {"scratch", "stain"}
    assert all(figures.images == 3 for figures in run.per_class.values())
    mean = np.mean([figures.image_auroc for figures in run.per_class.values() if figures.image_auroc is not None])
    assert run.image_auroc == pytest.approx(mean)


def test_speed_is_that_of_batches_of_sixteen_by_the_given_clock(own: Evaluation) -> None:
    (run,) = own.runs
    assert (run.images_per_second, run.backbone_images_per_second, run.speed_ratio) == (16, 16, 1)
    assert run.fit_seconds == 1


def test_several_seeds_give_means_deviations_and_single_runs(gauge: Gauge) -> None:
    dataset = Dataset.open(tiny_dataset())
    both = judged(gauge, [own_trial(dataset, 0).limited(24), own_trial(dataset, 1).limited(24)]).document()
    assert [run["seed"] for run in both["runs"]] == [0, 1]
    assert both["image_auroc"] == np.mean([run["image_auroc"] for run in both["runs"]])
    assert both["image_auroc_std"] == 0
    assert set(both["per_class"]) == {"scratch", "stain"}


def test_one_seed_has_no_deviations(own: Evaluation) -> None:
    document = own.document()
    assert not [key for key in document if key.endswith("_std")]
    wanted = "image_auroc pixel_auroc aupro per_class fit_seconds images_per_second backbone_images_per_second"
    assert set(wanted.split()) <= set(document)


def test_groups_on_both_sides_are_counted(gauge: Gauge) -> None:
    dataset = Dataset.open(tiny_dataset())
    names = [entry.name for entry in (*dataset.train, *dataset.test)]
    apart = {name: name for name in names}
    shared = apart | {dataset.train[0].name: "twin", dataset.test[0].name: "twin"}
    trials = [own_trial(dataset, 0)]
    counted = [judged(gauge, trials, groups).runs[0].groups_on_both_sides for groups in (apart, shared)]
    assert counted == [0, 1]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Noise instead of parts; 8 images to learn from, and 2 good ones and 3 cracks to judge."""
    return write_mvtec(tmp_path / "data", train=8, test_good=2, defects={"crack": 3})


def test_empty_masks_are_left_out_of_pixel_metrics_alone(gauge: Gauge, copied: Path) -> None:
    write_mask(copied / "ground_truth/crack/001_mask.png", white=False)
    (run,) = judged(gauge, [own_trial(Dataset.open(copied), 0)]).runs
    assert run.left_out_of_pixel_metrics == ("test/crack/001.png",)
    assert (run.defective_images, run.regions) == (3, 2)


def test_without_masks_there_are_image_metrics_alone(gauge: Gauge, copied: Path) -> None:
    for mask in copied.glob("ground_truth/*/*"):
        mask.unlink()
    (copied / "ground_truth/crack").rmdir()
    (copied / "ground_truth").rmdir()
    (run,) = judged(gauge, [own_trial(Dataset.open(copied), 0)]).runs
    assert (run.pixel_auroc, run.aupro, run.per_class["crack"].aupro) == (None, None, None)
    assert run.image_auroc is not None


def test_unreadable_images_are_named_and_left_out(gauge: Gauge, copied: Path) -> None:
    write_image(copied / "train/good/more.png", 77)
    trial = own_trial(Dataset.open(copied), 0)
    (copied / "test/good/000.png").write_bytes(b"")
    (run,) = judged(gauge, [trial]).runs
    assert set(run.unreadable) == {"test/good/000.png"}
    assert run.good_images == 1


def _must_not_be_fitted(*_: object) -> Gauge:
    raise AssertionError("was fitted")


def test_a_wrong_mask_is_found_before_the_fit(copied: Path) -> None:
    write_mask(copied / "ground_truth/crack/002_mask.png", (40, 40))
    conditions = Conditions(fit=_must_not_be_fitted, clock=lambda: 0.0, device="cpu")
    with pytest.raises(DatasetError, match="002_mask"):
        evaluate("x", [own_trial(Dataset.open(copied), 0)], conditions, lambda what, done, total: None)


def test_a_test_side_that_cannot_be_read_is_found_before_the_fit(copied: Path) -> None:
    trial = own_trial(Dataset.open(copied), 0)
    for image in copied.glob("test/*/*"):
        image.write_bytes(b"")
    conditions = Conditions(fit=_must_not_be_fitted, clock=lambda: 0.0, device="cpu")
    with pytest.raises(DatasetError, match="No test image"):
        evaluate("x", [trial], conditions, lambda what, done, total: None)
