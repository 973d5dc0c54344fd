"""Which mirror images and turns of a line's good images look alike."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.training.fit import FitSettings, embedder_for
from flowgauge.training.symmetry import PatchFeatures, symmetries
from flowgauge.vision.augmentation import View
from flowgauge.vision.preprocessing import Preprocessing

SIDE, PATCH = 32, 4
LEFT_RIGHT, TOP_BOTTOM, HALF_TURN = View(flip=True), View(turns=2, flip=True), View(turns=2)
QUARTER_TURN = View(turns=1)


def pixels_of_patches(images_NHW: Tensor) -> PatchFeatures:
    def features(view: View, numbers: NDArray[np.intp]) -> Tensor:
        moved = view.move(images_NHW[torch.from_numpy(numbers)])[:, None]
        columns = F.unfold(moved, PATCH, stride=PATCH)
        return columns.view(*columns.shape[:2], SIDE // PATCH, SIDE // PATCH)

    return features


def textures(images: int, slope: tuple[float, float], seed: int = 0) -> Tensor:
    """Waves of random phase that run along `slope`, skewed as a saw's teeth are, with noise."""
    generator = torch.Generator().manual_seed(seed)
    y_HW, x_HW = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    phase_N = 8 * torch.rand(images, generator=generator)
    teeth_NHW = torch.remainder(slope[0] * y_HW + slope[1] * x_HW + phase_N[:, None, None], 8)
    return teeth_NHW + 0.5 * torch.randn(images, SIDE, SIDE, generator=generator)


def noise(images: int, seed: int = 0) -> Tensor:
    return torch.randn(images, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def each_its_own(images_NHW: Tensor) -> list[str]:
    return [str(number) for number in range(len(images_NHW))]


@pytest.mark.parametrize(
    ("slope", "expected"),
    [
        ((0.0, 1.0), (TOP_BOTTOM,)),
        ((1.0, 0.0), (LEFT_RIGHT,)),
        ((1.0, 1.0), ()),
    ],
)
def test_only_views_that_keep_a_texture_as_it_is_are_symmetries(
    slope: tuple[float, float], expected: tuple[View, ...]
) -> None:
    """Teeth that rise to the right fall to the right in the mirror, and are the same upside down."""
    images = textures(40, slope)
    candidates = (LEFT_RIGHT, TOP_BOTTOM, HALF_TURN, QUARTER_TURN)
    assert symmetries(candidates, pixels_of_patches(images), each_its_own(images)) == expected


def test_noise_has_every_symmetry_that_is_asked_for() -> None:
    images = noise(40)
    candidates = (QUARTER_TURN, HALF_TURN)
    assert symmetries(candidates, pixels_of_patches(images), each_its_own(images)) == candidates


def test_images_of_one_part_are_not_compared_with_each_other() -> None:
    """Every part was photographed four times: its own images would be nearer than any mirror image."""
    parts = noise(12)
    images = (parts[None] + 0.1 * noise(48).view(4, 12, SIDE, SIDE)).flatten(0, 1)
    features = pixels_of_patches(images)
    assert symmetries((HALF_TURN,), features, [str(number % 12) for number in range(48)]) == (HALF_TURN,)
    assert symmetries((HALF_TURN,), features, each_its_own(images)) == ()


def test_one_part_alone_shows_no_symmetry() -> None:
    images = noise(10)
    assert symmetries((HALF_TURN,), pixels_of_patches(images), ["the same"] * 10) == ()


@pytest.mark.parametrize(("light", "views"), [(0.0, 4), (120.0, 2)])
def test_a_fit_is_given_the_symmetric_views_beside_the_plain_ones(light: float, views: int) -> None:
    """130 images, so many that without a symmetry the plain ones train alone; light that falls from the left leaves
    the mirror image top to bottom.
    """
    embedder = embedder_for(FitSettings(preprocessing=Preprocessing(size=64)), "cpu")
    rng = np.random.default_rng(0)
    grain = rng.normal(110, 15, (130, 64, 64, 1)) - light * np.linspace(0, 1, 64)[:, None]
    crops = grain.clip(0, 255).astype(np.uint8).repeat(3, axis=3)
    given = embedder.training_set(crops, seed=0, progress=lambda what, done, total: None)
    assert given.image.tolist() == list(range(130)) * views
    plain = embedder.embed(crops, lambda what, done, total: None)
    assert all(torch.equal(given.plain().good[name], plain[name]) for name in plain)
