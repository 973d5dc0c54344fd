"""Peers in the noise benchmark: anomalib's own models, on the features that ours are given."""

import json
import sys
from pathlib import Path

import pytest
import torch

from adapters.anomalib.models import KCenterGreedy
from adapters.anomalib.peers import PEERS, GreedyCoreset, padim
from core.detectors.base import Embedding, FeatureShape
from core.evaluation import peers
from core.evaluation.noise import Variant
from core.evaluation.peers import Judge, peer_fit
from core.seeding import seeded
from tests.support.plants import SIDE, tiny_dataset
from tests.support.shell import Shell
from tests.unit.test_noise import NAMES, SPLIT, data, same


def test_every_peer_can_be_had() -> None:
    assert PEERS.keys() == peers.PEERS


@pytest.mark.parametrize("variant", PEERS)
def test_a_peer_is_judged_as_ours_are(variant: Variant) -> None:
    cell = peer_fit(data(), SPLIT, variant, PEERS[variant], iter((0.0, 3.0)).__next__)
    assert cell.image_auroc > 0.7
    assert (cell.variant, cell.noise, cell.seed, cell.members) == (variant, SPLIT.noise, SPLIT.seed, 1)
    assert (cell.kept_good_share, cell.kept_mislabelled_share, cell.fit_seconds) == (1, 1, 3)


@pytest.mark.parametrize("variant", PEERS)
def test_a_peer_scores_alike_with_the_same_seed_alone(variant: Variant) -> None:
    scores = [PEERS[variant](data().plain(SPLIT.train), data().shape, seed)(data().plain(NAMES)) for seed in (3, 3, 4)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


@pytest.mark.parametrize("variant", PEERS)
def test_a_score_does_not_depend_on_what_else_is_judged(variant: Variant) -> None:
    judge = PEERS[variant](data().plain(SPLIT.train), data().shape, 0)
    together = judge(data().plain(NAMES))
    torch.testing.assert_close(judge(data().plain(NAMES[-1:])), together[-1:], rtol=1e-3, atol=1e-3)


def test_all_training_images_teach_a_peer_and_nothing_says_which_are_mislabelled() -> None:
    shown = []

    def remembering(good: Embedding, shape: FeatureShape, seed: int) -> Judge:
        shown.append(good)
        return padim(good, shape, seed)

    untold = SPLIT.model_copy(update={"mislabelled": ()})
    told, silent = (peer_fit(data(), split, Variant.PADIM, remembering, lambda: 0.0) for split in (SPLIT, untold))
    assert all(same(good, data().plain(SPLIT.train)) for good in shown)
    assert silent == told.model_copy(update={"kept_mislabelled_share": None})


@pytest.mark.parametrize("variant", PEERS)
def test_a_peer_takes_defects_that_it_was_shown_for_good(variant: Variant) -> None:
    among, without = (PEERS[variant](data().plain(names), data().shape, 0) for names in (SPLIT.train, NAMES[:16]))
    defective = data().plain(SPLIT.mislabelled)
    assert (among(defective) < without(defective)).all()


def test_the_coreset_is_the_one_that_anomalib_would_choose() -> None:
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
        padim(data().plain(SPLIT.train), data().shape, 0)
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


def test_peers_stand_in_the_document_and_in_the_plot(flowgauge: Shell, splits: Path, tmp_path: Path) -> None:
    plot, out = tmp_path / "noise.svg", tmp_path / "noise.json"
    command = ("benchmark", "noise", tiny_dataset(), "--splits", splits, "--seeds", "0", "--size", SIDE)
    places = ("--cache", tmp_path / "cache", "--json", out, "--plot", plot)
    variants = ("--variant", "padim", "--variant", "plain", "--variant", "patchcore")
    done = flowgauge(*command, *places, *variants, "--device", "cpu")
    assert done.code == 0, done.err
    assert "Coreset" not in done.err, "their bar does not run across ours"
    document = json.loads(out.read_text())
    assert [curve["variant"] for curve in document["curves"]] == ["plain", "patchcore", "padim"]
    assert all(cell["fit_seconds"] > 0 for cell in document["cells"])
    assert all(f"{name} ." in plot.read_text() or f"{name} 1" in plot.read_text() for name in ("patchcore", "padim"))


def test_without_the_extra_its_name_is_told_first(
    flowgauge: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "anomalib" or "adapters.anomalib" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anomalib", None)
    nowhere = tmp_path / "nowhere"
    done = flowgauge("benchmark", "noise", nowhere, "--splits", nowhere, "--variant", "full", "--variant", "padim")
    assert done.code == 2
    assert "padim needs anomalib" in done.err
    assert "flowgauge[peers]" in done.err
    assert "Traceback" not in done.err


def test_peers_need_features_by_stride(flowgauge: Shell, splits: Path) -> None:
    command = ("benchmark", "noise", tiny_dataset(), "--splits", splits, "--seeds", "0", "--detector", "rad")
    done = flowgauge(*command, "--variant", "patchcore")
    assert done.code == 2
    assert "patchcore needs the features that patchflow keeps" in done.err
