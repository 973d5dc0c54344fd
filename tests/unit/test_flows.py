"""Laws that every flow keeps, in float64 where the law is about numbers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from flowgauge.models.flows.coupling import CouplingFlow
from flowgauge.models.flows.training import Rows, Training, held_out_images, maximise_likelihood

SHAPES = [(2, 1), (5, 3), (16, 4)]


@pytest.fixture(params=SHAPES, ids=lambda shape: f"D{shape[0]}-blocks{shape[1]}")
def case(request: pytest.FixtureRequest) -> tuple[CouplingFlow, Tensor]:
    dimensions, blocks = request.param
    flow = CouplingFlow(dimensions, blocks=blocks, hidden=12, clamp=1.5, seed=3).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.requires_grad:  # away from the identity at which a flow begins
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(7, dimensions, generator=generator, dtype=torch.float64)
    return flow, x


Case = tuple[CouplingFlow, Tensor]


def test_the_inverse_undoes_the_flow(case: Case) -> None:
    flow, x = case
    z, _ = flow(x)
    assert not torch.allclose(z, x)
    torch.testing.assert_close(flow.inverse(z), x, atol=1e-9, rtol=1e-9)


def test_the_log_determinant_is_that_of_autograds_jacobian(case: Case) -> None:
    flow, x = case
    _, log_det = flow(x)
    for row in range(len(x)):
        jacobian = jacrev(lambda v: flow(v[None])[0][0])(x[row])
        assert float(torch.linalg.slogdet(jacobian.detach()).logabsdet) == pytest.approx(
            float(log_det[row].detach()), abs=1e-9
        )


def test_the_likelihood_is_the_change_of_variables(case: Case) -> None:
    flow, x = case
    z, log_det = flow(x)
    log_normal = torch.distributions.Normal(0, 1).log_prob(z).sum(dim=1)  # type: ignore[no-untyped-call]
    expected = -(log_normal + log_det) / x.shape[1]
    torch.testing.assert_close(flow.nll(x), expected)


def test_a_row_does_not_depend_on_its_neighbours(case: Case) -> None:
    flow, x = case
    alone = torch.cat([flow.nll(x[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(flow.nll(x), alone)


def test_gradients_reach_every_trainable_parameter(case: Case) -> None:
    flow, x = case
    flow.nll(x).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in flow.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name


def test_a_saved_and_loaded_flow_has_the_same_density(case: Case) -> None:
    flow, x = case
    other = CouplingFlow(flow.dimensions, blocks=len(flow.sequence), hidden=12, clamp=1.5, seed=99).double()
    assert not torch.equal(other.nll(x), flow.nll(x))
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other.nll(x), flow.nll(x))


def test_the_density_integrates_to_one() -> None:
    flow = CouplingFlow(2, blocks=2, hidden=8, clamp=0.5, seed=0).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = torch.exp(-2 * flow.nll(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-3)


def test_two_flows_of_one_seed_are_the_same_and_leave_the_global_generators_alone() -> None:
    np.random.seed(5)
    torch.manual_seed(5)
    expected = np.random.rand(), float(torch.rand(()))
    np.random.seed(5)
    torch.manual_seed(5)
    first = CouplingFlow(6, blocks=3, hidden=4, clamp=1, seed=1)
    assert (np.random.rand(), float(torch.rand(()))) == expected
    second = CouplingFlow(6, blocks=3, hidden=4, clamp=1, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def _ring(rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    angle = 2 * math.pi * torch.rand(rows, generator=generator)
    return torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(rows, 2, generator=generator)


def test_maximum_likelihood_beats_a_gaussian_on_a_ring() -> None:
    x = _ring(2000)
    flow = CouplingFlow(2, blocks=6, hidden=32, clamp=1.5, seed=0)
    rows = Rows(x[:1500], torch.arange(1500) >= 1200)
    training = Training(steps=300, batch=256, learning_rate=5e-3, check_every=50)
    maximise_likelihood(flow, rows, training, seed=0, progress=lambda what, done, total: None)
    gaussian = torch.distributions.MultivariateNormal(x[:1200].mean(0), torch.cov(x[:1200].T))
    with torch.no_grad():
        plain = float(-gaussian.log_prob(x[1500:]).mean() / 2)  # type: ignore[no-untyped-call]
        assert float(flow.nll(x[1500:]).mean()) < plain - 0.15


def test_held_out_rows_keep_all_views_of_an_image_together() -> None:
    image = torch.arange(20).repeat(3)
    held_out = held_out_images(image, 0.25, seed=0)
    assert 0 < int(held_out.sum()) < 60
    assert torch.equal(held_out[:20], held_out[20:40])
    assert torch.equal(held_out[:20], held_out[40:])
