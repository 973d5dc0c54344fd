"""Loss amplification, the autoencoder, and the detector that reads pixels."""

import math

import pytest
import torch

from flowgauge.cli.model import Model
from flowgauge.domain.errors import SettingsError, UserError
from flowgauge.models.adaptable import require_adaptable
from flowgauge.models.backbones import PIXELS_SPEC, load_backbone
from flowgauge.models.lamp.detector import Lamp
from flowgauge.models.lamp.reconstruction import (
    Autoencoder,
    BaseLoss,
    Optimiser,
    Reconstructing,
    absolute,
    amplified,
    dissimilarity,
    fit_reconstruction,
    squared,
)
from flowgauge.models.registry import create
from tests.support.detectors import CONFIGS, PIXELS, SHAPE, stripes, trained


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(2, 3, 8, 8, generator=generator).double() * 2 - 1 for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("base", BaseLoss)
def test_amplified_is_the_papers_equation_one_after_its_scaling(base: BaseLoss) -> None:
    y, reconstruction = pair()
    plain = base.function(y, reconstruction)
    expected = -(1 - plain / plain.max() * (1 - 1e-3)).log()
    torch.testing.assert_close(amplified(base.function)(y, reconstruction), expected)


@pytest.mark.parametrize("base", BaseLoss)
def test_an_amplified_loss_is_finite_and_no_less_than_the_scaled_one(base: BaseLoss) -> None:
    y, reconstruction = pair()
    plain, steep = base.function(y, reconstruction), amplified(base.function)(y, reconstruction)
    assert steep.isfinite().all()
    assert (steep >= plain / plain.max() * (1 - 1e-3) - 1e-12).all()
    assert float(steep.max()) == pytest.approx(-math.log(1e-3))


def test_a_negative_is_not_like_its_image() -> None:
    y, _ = pair()
    assert float(dissimilarity(y, -y).mean()) > 0.5


def test_the_slope_grows_with_the_error() -> None:
    """d/dL' of -log(1 - L') is 1 / (1 - L'): the paper's steeper gradient."""
    y = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    reconstruction = torch.tensor([[[[0.1, 0.5, 1.0]]]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(amplified(absolute)(y, reconstruction).sum(), reconstruction)
    expected = 0.999 / (1 - 0.999 * reconstruction.detach())
    torch.testing.assert_close(gradient, expected)


def test_a_perfect_reconstruction_costs_nothing() -> None:
    y, _ = pair()
    for loss in (absolute, squared, dissimilarity, amplified(squared), amplified(dissimilarity)):
        torch.testing.assert_close(loss(y, y), torch.zeros_like(y), atol=1e-9, rtol=0)


def test_dissimilarity_does_not_mind_a_little_light_but_minds_structure() -> None:
    y = stripes(1, 0, defect=False).double()
    noise = 0.35 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).double()
    assert float(dissimilarity(y, y + 0.05).mean()) < 0.05
    assert float(dissimilarity(y, noise).mean()) > 0.35
    assert float(dissimilarity(y, noise).max()) <= 1


@pytest.mark.parametrize(("layers", "side"), [(2, 8), (4, 8), (6, 32)])
def test_the_autoencoder_gives_back_the_shape_and_narrows_between(layers: int, side: int) -> None:
    net = Autoencoder(3, layers=layers, width=4, kernel=3).eval()
    x = torch.zeros(2, 3, side, side)
    assert net(x).shape == x.shape
    narrow = side // 2 ** (layers // 2)
    assert net.encoder(x).shape == (2, 4 * 2 ** ((layers - 1) // 2), narrow, narrow)


@pytest.mark.parametrize("optimiser", Optimiser)
@pytest.mark.parametrize("steep", [False, True])
def test_every_optimiser_lowers_the_error_of_either_loss(optimiser: Optimiser, steep: bool) -> None:
    images = stripes(24, 0, defect=False)
    settings = Reconstructing(amplified=steep, optimiser=optimiser, learning_rate=5e-3, steps=60, batch=8)
    torch.manual_seed(0)
    net = Autoencoder(3, layers=4, width=4, kernel=3).eval()
    with torch.no_grad():
        before = float(squared(images, net(images)).mean())
    fit_reconstruction(net, images, settings, seed=0, progress=lambda what, done, total: None)
    with torch.no_grad():
        assert float(squared(images, net(images)).mean()) < 0.9 * before
    assert not net.training


def test_patches_are_put_together_as_they_were_cut() -> None:
    detector = create("lamp", CONFIGS["lamp"], PIXELS)
    assert isinstance(detector, Lamp)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    parts = detector._cut(images)
    assert parts.shape == (12, 3, 32, 32)
    torch.testing.assert_close(parts[1], images[0, :, :32, 32:])
    torch.testing.assert_close(detector._together(parts, 3), images)


def test_the_score_is_the_mean_squared_error_whatever_trained() -> None:
    detector = trained("lamp")
    assert isinstance(detector, Lamp)
    images = stripes(4, 3, defect=True)
    with torch.inference_mode():
        found = detector.score((images,))
        reconstruction = detector._together(detector.net(detector._cut(images.half().float())), 4)
    torch.testing.assert_close(found.image, squared(images.half().float(), reconstruction).mean(dim=(1, 2, 3)))
    torch.testing.assert_close(found.maps.mean(dim=(1, 2)), found.image)


def test_it_reads_pixels_and_nothing_else() -> None:
    backbone = load_backbone(PIXELS_SPEC)
    images = torch.rand(2, 3, 64, 64)
    (seen,) = backbone(images)
    assert torch.equal(seen, images)
    with pytest.raises(SettingsError, match="reads pixels"):
        create("lamp", {}, SHAPE)
    with pytest.raises(SettingsError, match="multiple of 8"):
        create("lamp", {"patches": 16}, PIXELS)
    with pytest.raises(SettingsError, match="reads pixels"):
        Model(detector="lamp", backbone="resnet18").settings()
    assert Model(detector="lamp").settings().backbone == PIXELS_SPEC


def test_adapting_it_is_refused() -> None:
    with pytest.raises(UserError, match="lamp cannot be adapted"):
        require_adaptable(trained("lamp"))
