from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flowgauge.domain.seeding import seeded
from flowgauge.models.fuse import folded

IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions and a batch normalisation that has seen something, put together by `how`."""

    def __init__(self, how: Callable[["Net", Tensor], Tensor]) -> None:
        super().__init__()
        self.how = how
        with seeded(0):
            self.first, self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 1)
            self.norm = nn.BatchNorm2d(3)
            nn.init.uniform_(self.norm.weight, 0.5, 2)
            nn.init.uniform_(self.norm.bias, -1, 1)
            self.norm(3 * torch.rand(8, 3, 16, 16) + 1)
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.how(self, images)]


def _norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize(
    "how",
    [
        lambda net, x: net.second(net.norm(net.first(x)).relu()),
        lambda net, x: net.norm(net.first(net.norm(net.first(x)))),
        lambda net, x: net.norm(net.first(x)) + net.norm(net.second(x)),
        lambda net, x: net.norm(net.second(x)) + net.first(x),
    ],
    ids=["once", "the same pair twice", "one after two convolutions", "another convolution beside it"],
)
def test_a_normalisation_after_a_convolution_goes_and_the_features_stay(how: Callable[[Net, Tensor], Tensor]) -> None:
    net = Net(how)
    faster = folded(net, IMAGE)
    several_smaller = IMAGE.view(4, 3, 8, 8)
    assert (_norms(net), _norms(faster)) == (1, 0)
    torch.testing.assert_close(faster(several_smaller), net(several_smaller), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        lambda net, x: net.first(net.norm(x)),
        lambda net, x: net.norm(net.first(x).relu()),
        lambda net, x: (conv := net.first(x)) + net.norm(conv),
        lambda net, x: net.norm(net.first(x)) + net.first(x),
        lambda net, x: net.norm(net.first(x)) + net.norm(x),
    ],
    ids=["before", "behind an activation", "output read twice", "convolution twice", "input too"],
)
def test_a_net_that_would_answer_otherwise_is_left_as_it_is(how: Callable[[Net, Tensor], Tensor]) -> None:
    net = Net(how)
    kept = folded(net, IMAGE)
    assert _norms(kept) == 1
    torch.testing.assert_close(kept(IMAGE), net(IMAGE), rtol=0, atol=0)


def test_what_a_normalisation_does_besides_is_kept() -> None:
    class Clipping(nn.BatchNorm2d):
        def __init__(self) -> None:
            super().__init__(3)
            self.act = nn.Hardtanh(-0.1, 0.1)

        def forward(self, x: Tensor) -> Tensor:
            clipped: Tensor = self.act(super().forward(x))
            return clipped

    net = Net(lambda net, x: net.norm(net.first(x)))
    net.norm = Clipping().eval()
    faster = folded(net, IMAGE)
    assert _norms(faster) == 0
    assert faster(IMAGE)[0].abs().max() <= 0.1
