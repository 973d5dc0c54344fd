"""Baselines: anomalib's own models on our features, in the noise benchmark and as detectors."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

import pytest
import torch

from flowgauge.anomalib.detectors import (
    BASELINES,
    BaselineDetector,
    Fastflow,
    FastflowConfig,
    GreedyCoreset,
    Padim,
    PadimConfig,
    Patchcore,
    PatchcoreConfig,
    offer_all,
)
from flowgauge.cli.benchmark import speed
from flowgauge.domain.seeding import seeded
from flowgauge.evaluation import contamination
from flowgauge.evaluation.ablations import Ablation
from flowgauge.evaluation.contamination import Predictor, baseline_fit
from flowgauge.evaluation.stopwatch import Stopwatch
from flowgauge.models import registry
from flowgauge.models.backbones import BackboneSpec, Origin
from flowgauge.models.detector import Embedding, FeatureShape
from flowgauge.training.fit import FitSettings, fit
from flowgauge.training.snapshot import load, save
from flowgauge.vision.preprocessing import Preprocessing
from tests.support.detectors import SHAPE, features, training_set
from tests.support.gauges import goods, settings
from tests.support.plants import SIDE, tiny_dataset
from tests.support.shell import Shell
from tests.unit import test_detectors as conformance
from tests.unit.test_contamination import NAMES, SPLIT, data, same


def test_every_baseline_can_be_had() -> None:
    assert BASELINES.keys() == contamination.BASELINES


@pytest.mark.parametrize("variant", BASELINES)
def test_a_baseline_is_tested_as_ours_are(variant: Ablation) -> None:
    cell = baseline_fit(data(), SPLIT, variant, BASELINES[variant], iter((0.0, 3.0)).__next__)
    assert cell.image_auroc > 0.7
    assert (cell.variant, cell.noise, cell.seed, cell.members) == (variant, SPLIT.noise, SPLIT.seed, 1)
    assert (cell.kept_good_share, cell.kept_mislabelled_share, cell.fit_seconds) == (1, 1, 3)


@pytest.mark.parametrize("variant", BASELINES)
def test_a_baseline_scores_alike_with_the_same_seed_alone(variant: Ablation) -> None:
    scores = [
        BASELINES[variant](data().plain(SPLIT.train), data().shape, seed)(data().plain(NAMES)) for seed in (3, 3, 4)
    ]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


@pytest.mark.parametrize("variant", BASELINES)
def test_a_score_does_not_depend_on_what_else_is_tested(variant: Ablation) -> None:
    predict = BASELINES[variant](data().plain(SPLIT.train), data().shape, 0)
    together = predict(data().plain(NAMES))
    torch.testing.assert_close(predict(data().plain(NAMES[-1:])), together[-1:], rtol=1e-3, atol=1e-3)


def test_all_training_images_train_a_baseline_and_nothing_says_which_are_mislabelled() -> None:
    shown = []

    def remembering(good: Embedding, shape: FeatureShape, seed: int) -> Predictor:
        shown.append(good)
        return BASELINES[Ablation.PADIM](good, shape, seed)

    untold = SPLIT.model_copy(update={"mislabelled": ()})
    reported, silent = (
        baseline_fit(data(), split, Ablation.PADIM, remembering, lambda: 0.0) for split in (SPLIT, untold)
    )
    assert all(same(good, data().plain(SPLIT.train)) for good in shown)
    assert silent == reported.model_copy(update={"kept_mislabelled_share": None})


@pytest.mark.parametrize("variant", BASELINES)
def test_a_baseline_takes_defects_that_it_was_shown_for_good(variant: Ablation) -> None:
    among, without = (BASELINES[variant](data().plain(names), data().shape, 0) for names in (SPLIT.train, NAMES[:16]))
    defective = data().plain(SPLIT.mislabelled)
    assert (among(defective) < without(defective)).all()


def test_the_coreset_is_the_one_that_anomalib_would_choose() -> None:
    from anomalib.models.components import KCenterGreedy  # whose first import, as a detector, keeps its warnings quiet

    with seeded(0):
        patches = torch.randn(600, 24)
    chosen = []
    for greedy in (KCenterGreedy, GreedyCoreset):
        with seeded(5):
            chosen.append(greedy(patches, 0.2).select_coreset_idxs())
    assert len(chosen[0]) == 120
    assert chosen[0] == chosen[1]


def test_covariances_are_inverted_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen, invert = torch.get_num_threads(), [], torch.linalg.inv

    def inverted(matrices: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        inverse: torch.Tensor = invert(matrices)
        return inverse

    monkeypatch.setattr(torch.linalg, "inv", inverted)
    torch.set_num_threads(2)
    try:
        BASELINES[Ablation.PADIM](data().plain(SPLIT.train), data().shape, 0)
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    def named(folder: str) -> list[str]:
        root = tiny_dataset()
        return sorted(path.relative_to(root).as_posix() for path in (root / folder).iterdir())

    split = {"seed": 0, "train": named("train/good")[:12]}
    path = tmp_path / "splits.json"
    judged = {"test_good": named("test/good"), "test_defect": named("test/stain")}
    path.write_text(json.dumps({"splits": [split | judged]}))
    return path


def test_baselines_stand_in_the_document_and_in_the_plot(flowgauge: Shell, splits: Path, tmp_path: Path) -> None:
    plot, out = tmp_path / "noise.svg", tmp_path / "noise.json"
    command = ("benchmark", "contamination", tiny_dataset(), "--splits", splits, "--seeds", "0", "--size", SIDE)
    paths = ("--cache", tmp_path / "cache", "--json", out, "--plot", plot)
    variants = ("--variant", "padim", "--variant", "plain", "--variant", "patchcore")
    done = flowgauge(*command, *paths, *variants, "--device", "cpu")
    assert done.code == 0, done.err
    assert "Coreset" not in done.err, "their bar does not run across ours"
    document = json.loads(out.read_text())
    assert [curve["variant"] for curve in document["curves"]] == ["plain", "patchcore", "padim"]
    assert all(cell["fit_seconds"] > 0 for cell in document["cells"])
    assert all(f"{name} ." in plot.read_text() or f"{name} 1" in plot.read_text() for name in ("patchcore", "padim"))


def test_without_the_extra_its_name_is_reported_first(
    flowgauge: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "anomalib" or "flowgauge.anomalib" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anomalib", None)
    nowhere = tmp_path / "nowhere"
    done = flowgauge(
        "benchmark", "contamination", nowhere, "--splits", nowhere, "--variant", "full", "--variant", "padim"
    )
    assert done.code == 2
    assert "padim needs anomalib" in done.err
    assert "pip install '.[baselines]'" in done.err
    assert "Traceback" not in done.err


def test_baselines_need_features_by_stride(flowgauge: Shell, splits: Path) -> None:
    command = ("benchmark", "contamination", tiny_dataset(), "--splits", splits, "--seeds", "0", "--detector", "rad")
    done = flowgauge(*command, "--variant", "patchcore")
    assert done.code == 2
    assert "patchcore needs the features that headflow keeps" in done.err


SMALL: dict[str, Callable[[], BaselineDetector]] = {
    "patchcore": lambda: Patchcore(PatchcoreConfig(coreset=0.2), SHAPE),
    "padim": lambda: Padim(PadimConfig(features=12), SHAPE),
    "fastflow": lambda: Fastflow(FastflowConfig(steps=2, batch=8), SHAPE),
}


def trained(name: str, seed: int = 0) -> BaselineDetector:
    detector = SMALL[name]()
    detector.learn(training_set(detector), seed=seed, progress=lambda what, done, total: None)
    return detector


trained_once = cache(trained)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "promise",
    [
        conformance.test_scores_and_maps_have_one_row_per_image,
        conformance.test_a_defect_scores_higher_than_every_good_image,
        conformance.test_the_map_is_highest_where_the_defect_is,
        conformance.test_a_score_does_not_depend_on_the_neighbours,
        conformance.test_a_score_does_not_depend_on_the_batch,
        conformance.test_scoring_does_not_change_its_input,
        conformance.test_scoring_does_not_change_the_detector,
        conformance.test_an_embedding_keeps_images_apart,
        conformance.test_scores_from_an_embedding_are_those_from_features,
        conformance.test_every_view_that_scores_also_trains,
    ],
)
def test_a_baseline_keeps_what_every_detector_promises(name: str, promise: Callable[[BaselineDetector], None]) -> None:
    promise(trained_once(name))


@pytest.mark.parametrize("name", SMALL)
def test_the_same_training_set_and_seed_train_a_baseline_the_same(name: str) -> None:
    first, again, other = (made.state_dict() for made in (trained_once(name), trained(name), trained(name, seed=1)))
    assert same(first, again)
    assert any(not torch.equal(tensor, other[key]) for key, tensor in first.items())


@pytest.mark.parametrize("name", SMALL)
def test_learning_does_not_change_the_training_set_of_a_baseline(name: str) -> None:
    detector = SMALL[name]()
    given = training_set(detector)
    before = {key: tensor.clone() for key, tensor in given.good.items()}
    detector.learn(given, seed=0, progress=lambda what, done, total: None)
    assert same(given.good, before)


@pytest.mark.parametrize("name", SMALL)
def test_a_baseline_scores_in_training_mode_as_otherwise(name: str) -> None:
    detector = trained_once(name)
    with torch.inference_mode():
        before = detector.score(features(3, seed=2))
        after = detector.train().score(features(3, seed=2))
    assert torch.equal(after.image, before.image)


@pytest.mark.parametrize("name", SMALL)
def test_more_good_images_than_a_batch_are_all_reported_of(name: str) -> None:
    detector, reported = SMALL[name](), list[tuple[int, int]]()
    detector.learn(training_set(detector), seed=0, progress=lambda what, done, total: reported.append((done, total)))
    assert reported[-1][0] == reported[-1][1]
    assert all(0 < done <= total for done, total in reported)


TRANSFORMER = BackboneSpec(name="xcit_nano_12_p16_224", layers=(0, 1), origin=Origin.NONE)
"""Two levels of one stride, on a grid of 14 places a side whatever the image's size."""


@pytest.mark.parametrize("backbone", [BackboneSpec(), TRANSFORMER], ids=["pyramid", "transformer"])
@pytest.mark.parametrize(
    ("name", "config"),
    [("patchcore", {"coreset": 0.05}), ("padim", {"features": 20}), ("fastflow", {"steps": 2, "epochs": 1})],
)
def test_the_snapshot_of_a_baseline_scores_as_it_did(
    name: str, config: dict[str, float], backbone: BackboneSpec
) -> None:
    offer_all()
    wanted = FitSettings(detector=name, config=config, backbone=backbone, preprocessing=settings().preprocessing)
    gauge = fit(goods(range(12)), line="weld", settings=wanted, at=datetime(2026, 1, 1, tzinfo=UTC))
    snapshot = save(gauge)
    again = load(snapshot.manifest, snapshot.weights)
    theirs, ours = (made.predict(goods(range(20, 24))) for made in (gauge, again))
    assert [prediction.score for prediction in ours] == [prediction.score for prediction in theirs]
    assert all((a.anomaly_map == b.anomaly_map).all() for a, b in zip(ours, theirs, strict=True))


def test_what_a_baseline_learned_weighs_in_its_state() -> None:
    def numbers(name: str) -> int:
        return sum(tensor.numel() for tensor in trained_once(name).state_dict().values())

    paths, width = 24 * 8 * 8, SHAPE.channels[1] + SHAPE.channels[2]
    assert numbers("patchcore") > int(0.2 * paths) * width
    assert numbers("padim") > (SHAPE.size // 4) ** 2 * 12 * 12


def test_offered_twice_baselines_are_still_there() -> None:
    for _ in range(2):
        offer_all()
    assert {"patchcore", "padim", "fastflow"} <= registry.DETECTORS.keys()


@pytest.mark.parametrize("name", speed.Baseline)
def test_every_baseline_can_be_timed_beside_a_gauge(name: speed.Baseline) -> None:
    """EfficientAd takes no smaller images than these, and the others are fitted to small ones."""
    side = 256 if name is speed.Baseline.EFFICIENT_AD else SIDE
    own = settings().model_copy(update={"preprocessing": Preprocessing(size=side)})
    forward = speed.baseline_forward(name, goods(range(8)), own, "cpu", lambda what, done, total: None)
    work = partial(forward, torch.zeros(2, 3, side, side))
    assert Stopwatch(iter(range(6)).__next__, "cpu").in_turns({name: work}, 3) == {name: [1000, 1000, 1000]}
