import re
from functools import cache

import numpy as np
import pytest
import torch

from flowgauge.adaptation.inner_loop import Parameters
from flowgauge.domain.errors import DatasetError
from flowgauge.evaluation.ablations import Ablation
from flowgauge.evaluation.contamination import VARIANTS, Cell, contaminated_fit, curves
from flowgauge.evaluation.feature_cache import Embedded, embedded, restored
from flowgauge.evaluation.splits import Split
from flowgauge.meta.initialization import MetaInit
from flowgauge.meta.outer_loop import parameters_of
from flowgauge.models.detector import Embedding, length
from flowgauge.models.headflow.detector import HEAD, HeadFlow
from flowgauge.reports.plots import curves_svg
from flowgauge.training.fit import FitSettings, Trainer, embedder_for
from flowgauge.training.thresholds import Rule, cut
from tests.support.gauges import defects, goods, settings
from tests.support.inits import init_of

GOOD, BAD = 24, 8
NAMES = tuple([f"good/{number:02}" for number in range(GOOD)] + [f"bad/{number:02}" for number in range(BAD)])
PARTS = {name: name for name in NAMES}
SPLIT = Split(
    seed=3,
    noise=0.2,
    train=NAMES[:16] + NAMES[24:28],
    mislabelled=NAMES[24:28],
    test_good=NAMES[16:24],
    test_defect=NAMES[28:],
)


@cache
def data() -> Embedded:
    pictures = goods(range(GOOD)) + defects(range(100, 100 + BAD), kinds=("stain", "chip"))
    return embedded(NAMES, pictures, settings("headflow"), "cpu", lambda what, done, total: None)


@cache
def elsewhere() -> MetaInit:
    """A start that nobody learned."""
    detector = embedder_for(settings("headflow"), "cpu").detector
    assert isinstance(detector, HeadFlow)
    generator = torch.Generator().manual_seed(9)
    parameters = parameters_of(detector)
    return init_of({name: p + 0.02 * torch.randn(p.shape, generator=generator) for name, p in parameters.items()})


def fit_again(variant: Ablation, split: Split = SPLIT) -> Cell:
    return contaminated_fit(data(), split, PARTS, variant, settings("headflow"), lambda: 0.0, elsewhere())


fitted = cache(fit_again)


def heads(parameters: Parameters) -> set[str]:
    return {name for name in parameters if name.startswith(HEAD)}


def same(one: Embedding, other: Embedding) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("detector", ["headflow", "rad"])
def test_a_part_is_what_those_images_alone_give(detector: str) -> None:
    chosen = settings(detector)
    pictures, names = goods(range(6)), tuple("abcdef")
    whole = embedded(names, pictures, chosen, "cpu", lambda what, done, total: None)
    part = whole.part(("e", "b"))
    embedder = embedder_for(chosen, "cpu")
    crops = embedder.preprocessing.crops([pictures[4], pictures[1]])
    views = embedder.detector.training_views(len(pictures))
    for number, view in enumerate(views):
        alone = embedder.embed(crops, lambda what, done, total: None, view)
        rows = slice(2 * number, 2 * number + 2)
        for name, tensor in alone.items():
            torch.testing.assert_close(part.good[name][rows].float(), tensor.float(), rtol=1e-2, atol=1e-2)
    assert part.image.tolist() == [0, 1] * len(views)
    assert part.synthetic_image.tolist() == [0, 1] * embedder.detector.anomalies_per_image
    assert len(part.mask) == 2 * embedder.detector.anomalies_per_image


def test_what_is_stored_and_restored_is_the_same() -> None:
    again = restored(NAMES, data().shape, embedder_for(settings("headflow"), "cpu").detector, data().tensors())
    one, other = data().training_set, again.training_set
    assert same(one.good, other.good)
    assert same(one.synthetic, other.synthetic)
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.synthetic_image, other.synthetic_image)
    assert torch.equal(one.mask, other.mask)
    assert length(other.good) == len(NAMES)


def test_each_variant_keeps_what_it_says() -> None:
    assert (fitted(Ablation.PLAIN).kept_good_share, fitted(Ablation.PLAIN).kept_mislabelled_share) == (1, 1)
    oracle = fitted(Ablation.CLEAN_ORACLE)
    assert (oracle.kept_good_share, oracle.kept_mislabelled_share) == (1, 0)


@cache
def strictly(variant: Ablation) -> Cell:
    """By rules that nearly every second image breaks."""
    strict = settings("headflow").model_copy(update={"clean_half_k": 0.5, "k": 0.05})
    return contaminated_fit(data(), SPLIT, PARTS, variant, strict, lambda: 0.0, elsewhere())


@pytest.mark.parametrize("variant", [Ablation.ONE_SIDED, Ablation.IQR])
def test_rejection_by_cross_fitted_scores_keeps_more_of_the_good_images(variant: Ablation) -> None:
    cell = strictly(variant)
    assert cell.kept_mislabelled_share is not None
    assert cell.kept_mislabelled_share < cell.kept_good_share < 1
    assert cell.kept_good_share >= 0.5


def test_what_is_not_replayed_was_seen_before_and_rejected() -> None:
    """Half of the images come for the first time, and all of those train."""
    cell = strictly(Ablation.REPLAY)
    assert cell.kept_mislabelled_share is not None
    left_out = 16 * (1 - cell.kept_good_share) + 4 * (1 - cell.kept_mislabelled_share)
    assert 0 < left_out <= 10
    assert cell.members == fitted(Ablation.PLAIN).members


def test_a_rule_of_suspicion_comes_with_its_own_k() -> None:
    chosen = FitSettings(refine=2, k=1.5, clean_half_k=5)
    assert chosen.suspicion == (Rule.ONE_SIDED, 5)
    assert chosen.model_copy(update={"suspect_rule": Rule.IQR}).suspicion == (Rule.IQR, 1.5)
    scores = np.arange(40.0)
    limit = chosen.threshold(scores, np.arange(40) % 2, [str(number) for number in range(40)], seed=0)
    assert (limit.rule, limit.promised) == (Rule.ONE_SIDED, None)
    assert limit.value == cut(scores, Rule.ONE_SIDED, 5)


def test_the_same_cell_comes_out_the_same() -> None:
    assert fit_again(Ablation.FULL) == fitted(Ablation.FULL)
    assert 0.5 < fitted(Ablation.FULL).image_auroc <= 1


def test_all_images_train_where_nothing_is_rejected() -> None:
    for variant in (Ablation.FULL, Ablation.NO_META, Ablation.NO_ENSEMBLE):
        assert (fitted(variant).kept_good_share, fitted(variant).kept_mislabelled_share) == (1, 1)


def test_an_ensemble_has_members_and_a_single_detector_one() -> None:
    ensembles = (Ablation.FULL, Ablation.NO_META, Ablation.WIDE_ENSEMBLE)
    assert [fitted(variant).members for variant in ensembles] == [3, 3, 5]
    assert [fitted(variant).members for variant in (Ablation.NO_ENSEMBLE, Ablation.PLAIN)] == [1, 1]


def test_a_detector_that_has_no_ensemble_is_tested_without() -> None:
    pictures = goods(range(GOOD)) + defects(range(100, 100 + BAD), kinds=("stain", "chip"))
    rad = embedded(NAMES, pictures, settings("rad"), "cpu", _quiet)
    cell = contaminated_fit(rad, SPLIT, PARTS, Ablation.NO_META, settings("rad"), lambda: 0.0)
    assert cell.members == 1


def test_a_trainer_begins_where_it_is_reported_and_ends_elsewhere() -> None:
    training_set = data().part(SPLIT.train)
    random, reported = (Trainer(settings("headflow"), data().shape, 0, _quiet, start) for start in (None, elsewhere()))
    untrained = reported.untrained()
    assert isinstance(untrained, HeadFlow)
    begun = parameters_of(untrained)
    assert {n for n, value in elsewhere().parameters.items() if torch.equal(begun[n], value)} == heads(begun)
    one, other = (trainer.trained(training_set, "all").state_dict() for trainer in (random, reported))
    assert not torch.equal(one["members.0.head.leave.weight"], other["members.0.head.leave.weight"])
    again = reported.trained(training_set, "all").state_dict()
    assert all(torch.equal(again[name], value) for name, value in other.items())


def _quiet(what: str, done: int, total: int) -> None:
    """Nobody looks."""


def test_a_split_that_tests_one_kind_is_refused() -> None:
    with pytest.raises(DatasetError, match="one kind"):
        fit_again(Ablation.PLAIN, SPLIT.model_copy(update={"test_defect": ()}))


def cell(variant: Ablation, noise: float, seed: int, auroc: float) -> Cell:
    return Cell(
        variant=variant,
        noise=noise,
        seed=seed,
        members=1,
        image_auroc=auroc,
        kept_good_share=1,
        kept_mislabelled_share=None,
        fit_seconds=1,
    )


def test_curves_are_means_and_deviations_over_seeds() -> None:
    cells = [
        cell(Ablation.PLAIN, 0.2, 1, 0.7),
        cell(Ablation.PLAIN, 0.2, 0, 0.9),
        cell(Ablation.PLAIN, 0.0, 0, 0.95),
        cell(Ablation.FULL, 0.0, 0, 0.96),
    ]
    full, plain = curves(cells)
    assert (full.variant, plain.variant) == (Ablation.FULL, Ablation.PLAIN)
    clean, dirty = plain.curve
    assert (clean.noise, clean.image_auroc_mean, clean.image_auroc_std, clean.seeds) == (0.0, 0.95, None, (0,))
    assert dirty.image_auroc_mean == pytest.approx(0.8)
    assert dirty.image_auroc_std == pytest.approx(np.std([0.7, 0.9], ddof=1))
    assert dirty.seeds == (0, 1)


def test_the_plot_names_every_curve_and_level() -> None:
    cells = [cell(v, noise, 0, 0.9 - noise / 2) for v in (Ablation.NO_META, Ablation.IQR) for noise in (0.0, 0.3)]
    drawn = curves_svg(curves(cells))
    assert drawn.startswith("<svg ")
    assert all(word in drawn for word in ("no-meta .750", "iqr .750", "30 %", "no-meta at 30 %: 0.750"))
    assert drawn.count('class="curve"') == 2


def test_every_curve_of_a_plot_has_a_look_of_its_own() -> None:
    drawn = curves_svg(curves([cell(v, noise, 0, 0.8) for v in VARIANTS for noise in (0.0, 0.3)]))
    styles = re.findall(r'<g class="curve"><path d="[^"]*" style="([^"]*)"', drawn)
    looks = [tuple(re.findall(r"stroke: (#\w+)|stroke-dasharray: ([\d. ,]+)", each)) for each in styles]
    assert len(looks) == len(VARIANTS)
    assert len(set(looks)) == len(VARIANTS)
