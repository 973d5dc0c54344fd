"""Laws of the cross-scale flow, in float64, and of the detector over it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from flowgauge.adaptation.inner_loop import InnerLoop, TrainingTokens, adapted
from flowgauge.models.csflow.detector import CrossScaleFlow, CsFlow, Scales
from flowgauge.models.registry import create
from tests.support.detectors import CONFIGS, SHAPE, shown, small, training_set

SCALES = [Scales(4, (4, 2, 1)), Scales(5, (3, 2)), Scales(2, (2,))]


@pytest.fixture(params=SCALES, ids=lambda scales: f"C{scales.channels}-{len(scales.sides)}scales")
def flow(request: pytest.FixtureRequest) -> CrossScaleFlow:
    return _moved(CrossScaleFlow(request.param, blocks=2, hidden=3, kernel=3, clamp=1.5, top=0.5, seed=3).double())


def _moved(flow: CrossScaleFlow) -> CrossScaleFlow:
    """Away from the identity at which a flow begins."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return flow


def _rows(flow: CrossScaleFlow, rows: int = 5) -> Tensor:
    return torch.randn(rows, flow.dimensions, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_maps_and_rows_are_two_ways_to_see_the_same(flow: CrossScaleFlow) -> None:
    x = _rows(flow)
    maps = flow.scales.maps(x)
    assert [tuple(m.shape) for m in maps] == [(5, flow.scales.channels, side, side) for side in flow.scales.sides]
    assert torch.equal(flow.scales.rows(maps), x)


def test_the_inverse_undoes_the_flow(flow: CrossScaleFlow) -> None:
    x = _rows(flow)
    z, _ = flow(x)
    assert not torch.allclose(z, x)
    torch.testing.assert_close(flow.inverse(z), x, atol=1e-9, rtol=1e-9)


def test_the_log_determinant_is_that_of_autograds_jacobian(flow: CrossScaleFlow) -> None:
    x = _rows(flow)
    _, log_det = flow(x)
    for row, found in zip(x, log_det.detach(), strict=True):
        jacobian = jacrev(lambda v: flow(v[None])[0][0])(row)
        assert float(torch.linalg.slogdet(jacobian.detach()).logabsdet) == pytest.approx(float(found), abs=1e-9)


def test_an_images_likelihood_and_token_score_do_not_depend_on_its_batch(flow: CrossScaleFlow) -> None:
    x = _rows(flow)
    beside_others, beside_extremes = flow(x), flow(torch.cat([x[:2], 30 * x[2:]]))
    assert torch.equal(beside_others[1][:2], beside_extremes[1][:2])
    for found in (flow.nll_of, flow.token_scores_of):
        assert torch.equal(found(*beside_others)[:2], found(*beside_extremes)[:2])
        torch.testing.assert_close(torch.cat([found(*flow(row[None])) for row in x]), found(*beside_others))


def test_every_scale_sees_all_scales() -> None:
    flow = _moved(CrossScaleFlow(SCALES[0], blocks=1, hidden=3, kernel=3, clamp=1.5, top=0.5, seed=3).double())
    x = _rows(flow, rows=1)
    before = flow.scales.maps(flow(x)[0])
    for changed in range(3):
        maps = flow.scales.maps(x.clone())
        maps[changed] = maps[changed] + 1
        after = flow.scales.maps(flow(flow.scales.rows(maps))[0])
        assert all(not torch.allclose(a, b) for a, b in zip(after, before, strict=True))


def test_a_blocks_log_scales_stay_within_the_clamp() -> None:
    flow = CrossScaleFlow(SCALES[0], blocks=1, hidden=3, kernel=3, clamp=0.5, top=0.5, seed=0).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.fill_(100)
        _, log_det = flow(_rows(flow).abs())
    assert 0.49 * flow.dimensions < float(log_det.max()) <= 0.5 * flow.dimensions


def test_gradients_reach_every_parameter(flow: CrossScaleFlow) -> None:
    flow.nll(_rows(flow)).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_energies_lie_where_the_latent_vectors_are_long() -> None:
    flow = CrossScaleFlow(SCALES[0], blocks=1, hidden=3, kernel=3, clamp=1, top=0.5, seed=0)
    z = [torch.zeros(1, 4, side, side) for side in SCALES[0].sides]
    z[0][0, :, 1, 2] = 3
    energies = flow.energies(flow.scales.rows(z))[0]
    assert float(energies[1, 2]) == pytest.approx(9 * 4 / 7)
    assert float(energies.sum()) == pytest.approx(9 * 4 / 7)


def test_the_inner_loop_lowers_the_loss_and_leaves_the_anchor_alone() -> None:
    flow = CrossScaleFlow(SCALES[0], blocks=2, hidden=4, kernel=3, clamp=1.5, top=0.5, seed=0)
    generator = torch.Generator().manual_seed(2)
    trained, watched = (1 + 0.5 * torch.randn(60, flow.dimensions, generator=generator) for _ in range(2))
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    _, steps = adapted(flow, TrainingTokens(trained, watched), InnerLoop(), seed=0)
    assert steps[-1].validation_loss < steps[0].validation_loss - 0.1
    assert all(torch.equal(tensor, before[name]) for name, tensor in flow.state_dict().items())


def _small() -> CsFlow:
    detector = small("csflow")
    assert isinstance(detector, CsFlow)
    return detector


def test_the_features_that_it_keeps_are_the_coarsest_strides_of_every_size() -> None:
    detector = _small()
    maps = shown(detector, 3, seed=1)
    embedding = detector.embed(maps)
    assert [tuple(x.shape) for x in embedding.values()] == [(3, 8, side, side) for side in (4, 2, 1)]
    assert all(torch.equal(x, maps[2 + 3 * number].half()) for number, x in enumerate(embedding.values()))


def test_tokens_of_what_trained_are_white() -> None:
    detector = _small()
    given = training_set(detector, images=400)
    detector.measure(given.good)
    whole = detector.flow.scales.maps(detector.tokens(given.good)[:, 0])[0]
    covariance = torch.cov(whole.transpose(0, 1).flatten(1))
    torch.testing.assert_close(covariance, torch.eye(8), atol=0.02, rtol=0)


def test_scales_and_sizes_are_options() -> None:
    detector = create("csflow", {"pyramid_levels": [0, 1], "hidden": 4, "blocks": 1, "clamp": 0.7}, SHAPE)
    assert isinstance(detector, CsFlow)
    assert detector.pyramid_levels == (0, 1)
    assert detector.flow.scales.sides == (4, 2)
    assert detector.score(shown(detector, 2, seed=0)).maps.shape == (2, 4, 4)


def _trained_by(images: int, **options: Any) -> CsFlow:
    detector = create("csflow", CONFIGS["csflow"] | options, SHAPE)
    assert isinstance(detector, CsFlow)
    detector.learn(training_set(detector, images), seed=0, progress=lambda what, done, total: None)
    return detector


@pytest.mark.parametrize("images", [120, 240])
def test_fresh_parts_score_around_zero_however_many_have_trained(images: int) -> None:
    """Of some twenty parts, the three that do not train are too few to tell what is common."""
    detector = _trained_by(images)
    found = detector.score(shown(detector, 60, seed=99))
    assert abs(float(found.image.median())) < 1
    assert float(found.maps.mean()) == pytest.approx(1, abs=0.1)


def test_one_part_to_calibrate_by_does_not_blow_up_the_scale() -> None:
    detector = _trained_by(6)
    assert float(detector.spread) >= 0.02 * float(detector.centre) > 0


def test_maps_are_the_latent_vectors_lengths_where_nothing_whitened_is_asked_for() -> None:
    detector = _trained_by(24, whitened_share=0)
    embedding = detector.embed(shown(detector, 3, seed=5))
    with torch.no_grad():
        z, _ = detector.flow(detector.tokens(embedding)[:, 0])
    found = detector.score_embedding(embedding)
    torch.testing.assert_close(found.maps * detector.unit, detector.flow.energies(z))
    highest = detector.flow.energies(z).flatten(1).topk(2, dim=1)[0].mean(dim=1)
    torch.testing.assert_close(found.image * detector.spread + detector.centre, highest)
