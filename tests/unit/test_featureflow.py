"""Laws of the default detector: whitening, the product of flows, scales and locations."""

from dataclasses import replace

import pytest
import torch

from flowgauge.models.detector import TrainingSet
from flowgauge.models.featureflow.detector import FeatureFlow
from flowgauge.models.flows.coupling import CouplingFlow
from flowgauge.models.flows.flow import ProductFlow
from flowgauge.models.registry import create
from flowgauge.models.whitening import Whitening
from tests.support.detectors import CONFIGS, SHAPE, features, small, training_set


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_whitened_patches_have_unit_covariance_whatever_their_parts() -> None:
    x = _normal(4000, 6) @ _normal(6, 6, seed=1) + 5
    whiten = Whitening(6, 4)
    whiten.measure(torch.split(x, 700))
    found = whiten(x)
    assert found.shape == (4000, 4)
    assert torch.allclose(found.mean(dim=0), torch.zeros(4), atol=1e-3)
    assert torch.allclose(torch.cov(found.T), torch.eye(4), atol=1e-2)


def test_a_direction_without_variance_stays_finite() -> None:
    x = torch.cat([_normal(500, 3), torch.ones(500, 1)], dim=1)
    whiten = Whitening(4, 4)
    whiten.measure([x])
    assert torch.isfinite(whiten(x + 1e-3)).all()


def test_realigned_patches_have_unit_covariance_again_in_the_same_axes() -> None:
    x = _normal(4000, 6) @ _normal(6, 6, seed=1) + 5
    whiten = Whitening(6, 4)
    whiten.measure([x])
    before = whiten(x)
    whiten.realign(torch.split(2.2 * x + 1, 700), 1.0)
    found = whiten(2.2 * x + 1)
    assert torch.allclose(torch.cov(found.T), torch.eye(4), atol=1e-2)
    assert torch.allclose(found, before, atol=1e-2), "a change of scale turns nothing"


def test_a_weight_of_nothing_leaves_the_whitening_as_it_is() -> None:
    x = _normal(4000, 6) @ _normal(6, 6, seed=1) + 5
    whiten = Whitening(6, 4)
    whiten.measure([x])
    before = whiten(x)
    whiten.realign([2.2 * x + 1], 0.0)
    assert torch.allclose(whiten(x), before, atol=1e-4)


def test_the_density_of_a_product_is_that_of_its_flows() -> None:
    flows = [CouplingFlow(width, blocks=2, hidden=8, clamp=1.9, seed=width) for width in (4, 6)]
    with torch.no_grad():
        for parameter in (p for flow in flows for p in flow.parameters() if p.requires_grad):
            parameter.add_(0.1 * _normal(*parameter.shape, seed=3))
    product, x = ProductFlow(flows), _normal(30, 10, seed=4)
    with torch.no_grad():
        own = [flow.nll(part) for flow, part in zip(flows, torch.split(x, [4, 6], dim=1), strict=True)]
        assert torch.allclose(product.nll(x), (4 * own[0] + 6 * own[1]) / 10, atol=1e-5)
        assert torch.allclose(product.token_scores_of(*product(x)), torch.stack(own, dim=1), atol=1e-5)


def _fitted(given: TrainingSet) -> FeatureFlow:
    detector = small("featureflow")
    assert isinstance(detector, FeatureFlow)
    detector.learn(given, seed=0, progress=lambda what, done, total: None)
    return detector.eval()


def test_flows_whose_scores_spread_more_weigh_no_more() -> None:
    given = training_set(small("featureflow"))
    detector = _fitted(given)
    held_out_NK = detector._tops(detector._held_out_nll(given.plain()))
    for term, score_N in enumerate(((held_out_NK - detector.centre) / detector.spread).T):
        assert score_N.median() == pytest.approx(0, abs=0.1), term
        assert -score_N.quantile(0.25) == pytest.approx(1, abs=0.15), term


def _training_set_with(pattern: torch.Tensor) -> TrainingSet:
    """Noise, and a pattern (C, H, W) at stride 16 that is the same in every image."""
    detector, given = small("featureflow"), training_set(small("featureflow"))
    x = list(features(len(given.image), seed=0))
    for level, feature in enumerate(x):
        side = feature.shape[-1] // pattern.shape[-1]
        x[level] = 0.3 * feature + pattern[:1].repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
    return replace(given, good=detector.embed(x))


def test_locations_have_their_own_scale_where_parts_lie_still_alone() -> None:
    still = _fitted(_training_set_with(3 * _normal(1, 4, 4, seed=9)))
    assert still.scale.flatten(1).std(dim=1).min() > 0
    moving = _fitted(training_set(small("featureflow")))
    assert moving.scale.flatten(1).std(dim=1).max() == pytest.approx(0, abs=1e-6)


def test_still_of_one_never_centres_locations() -> None:
    detector = create("featureflow", CONFIGS["featureflow"] | {"still": 1.0}, SHAPE)
    detector.learn(_training_set_with(3 * _normal(1, 4, 4, seed=9)), seed=0, progress=lambda what, done, total: None)
    assert isinstance(detector, FeatureFlow)
    assert detector.location.flatten(1).std(dim=1).max() == pytest.approx(0, abs=1e-6)


def test_patches_of_the_border_are_reported_from_those_within() -> None:
    ones = [torch.ones(1, c, side, side) for c, side in zip(SHAPE.channels, SHAPE.sides, strict=True)]
    for patches in small("featureflow").embed(ones).values():
        seen = patches[0, 0, [0, 0, 1], [0, 1, 1]].float()
        assert torch.allclose(seen, torch.tensor([4 / 9, 6 / 9, 1]), atol=1e-3)


def _state_of(detector: FeatureFlow, member: int) -> list[torch.Tensor]:
    modules = [detector.member_flow(member), *detector._whiten_of(member)]
    return [tensor for module in modules for tensor in module.state_dict().values()]


def test_no_image_reaches_the_member_that_holds_it_out() -> None:
    given = training_set(small("featureflow"))
    other = {name: tensor.clone() for name, tensor in given.good.items()}
    for tensor in other.values():
        tensor[0] += 3
    one, two = _fitted(given), _fitted(replace(given, good=other))
    holds_out = int(given.folds(one.config.members)[0])
    for member in range(one.config.members):
        pairs = list(zip(_state_of(one, member), _state_of(two, member), strict=True))
        same = all(torch.equal(mine, others) for mine, others in pairs)
        assert same == (member == holds_out)


def test_folds_stay_when_images_are_left_out() -> None:
    given = training_set(small("featureflow"))
    named = given.showing([f"part {number // 2}" for number in range(int(given.image.max()) + 1)])
    assert torch.equal(named.folds(3), named.without(torch.tensor([0, 5, 23])).folds(3))


def test_an_image_has_the_mean_score_of_all_members() -> None:
    given = training_set(small("featureflow"))
    detector = _fitted(given)
    plain = given.plain()
    nll_BTK = detector.patch_nll(plain.good)
    members = torch.split(nll_BTK, detector.terms, dim=2)
    assert len(members) == detector.config.members
    alone = torch.stack([detector.image_scores(member, plain.good) for member in members])
    assert torch.allclose(detector.score_embedding(plain.good).image, alone.mean(dim=0), atol=1e-4)
    held_out = detector.held_out_scores(given).image
    fold = given.folds(detector.config.members)[plain.image]
    assert torch.allclose(held_out, alone.gather(0, fold[None])[0], atol=1e-4)


def test_few_images_are_seen_mirrored_too_and_tested_plain() -> None:
    detector = small("featureflow")
    assert [len(detector.training_views(images)) for images in (8, 64, 65, 128, 129, 1000)] == [4, 4, 2, 2, 1, 1]
    given = training_set(detector)
    assert len(given.good["stride8"]) == 4 * 24
    assert len(_fitted(given).held_out_scores(given).image) == 24


def test_an_image_whose_patches_are_all_less_likely_by_as_much_scores_the_same() -> None:
    given = training_set(small("featureflow"))
    detector = _fitted(given)
    nll_BTK = detector.patch_nll(given.plain().good)
    usual = detector.image_scores(nll_BTK, {})
    assert torch.allclose(detector.image_scores(nll_BTK + 2, {}), usual, atol=1e-2)
    nll_BTK[:, 5] += 2
    assert (detector.image_scores(nll_BTK, {}) > usual + 1).all()


def test_a_flow_of_a_coarser_grid_scores_each_of_its_patches_once_and_for_all_finer_patches_within() -> None:
    given = training_set(small("featureflow"), 12)
    detector = _fitted(given)
    tokens_BTD = detector.tokens(given.good)
    with torch.no_grad():
        each_N_K = detector.flow.token_scores_of(*detector.flow(tokens_BTD.flatten(0, 1)))
    repeated_BTK = each_N_K.view(*tokens_BTD.shape[:2], -1)
    assert torch.allclose(detector.patch_nll(given.good), repeated_BTK, atol=1e-5), "as an adaptation scores tokens"
    coarse_BHW = repeated_BTK[:, :, detector.terms - 1].view(-1, *detector.grid)
    factor = detector.grid[0] // SHAPE.sides[-1]
    assert factor > 1
    within = coarse_BHW.unfold(1, factor, factor).unfold(2, factor, factor).flatten(3)
    assert torch.equal(within.amax(dim=3), within.amin(dim=3))
