import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowgauge.datachecks.training_images import mutual_scores
from flowgauge.training.thresholds import Scores

IMAGES, CHANNELS, SIDE = 20, 12, 8
APART = np.arange(IMAGES)


def patch_features() -> Tensor:
    """Images of one surface: few kinds of places, each with a little noise of its own."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(5, CHANNELS, generator=generator)
    drawn = kinds[torch.randint(5, (IMAGES, SIDE, SIDE), generator=generator)].permute(0, 3, 1, 2)
    return drawn + 0.05 * torch.randn(drawn.shape, generator=generator)


def marked(features: Tensor, images: list[int], seed: int = 1) -> Tensor:
    """With the same mark on each of `images`."""
    mark = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(seed))
    copy = features.clone()
    copy[images, :, 2:5, 2:5] = mark[:, None, None]
    return copy


def scored(features: Tensor, parts: NDArray[np.intp] = APART, patches: int = SIDE * SIDE) -> Scores:
    return mutual_scores(features, parts, patches=patches, near=0.2, top=0.05, progress=lambda what, done, total: None)


def test_a_mark_that_no_other_image_has_makes_its_image_the_most_suspect() -> None:
    scores = scored(marked(patch_features(), [7]))
    assert scores.argmax() == 7
    assert scores[7] > 3 * np.delete(scores, 7).max()
    assert (scores >= 0).all()
    assert (scores <= 2).all()


def test_marks_on_images_of_one_part_do_not_excuse_each_other() -> None:
    near_duplicates = np.where(np.isin(APART, (3, 4, 5, 6)), 3, APART)
    features = marked(patch_features(), [3, 4, 5, 6])
    together, apart = scored(features, near_duplicates), scored(features)
    assert set(np.argsort(together)[-4:]) == {3, 4, 5, 6}
    assert apart[[3, 4, 5, 6]].max() < together[[3, 4, 5, 6]].min()


def test_what_most_images_share_is_normal_texture() -> None:
    """The limit of the method: a mark that repeats on most parts hides itself."""
    common = list(range(14))
    scores = scored(marked(patch_features(), common))
    assert scores[common].max() < scored(marked(patch_features(), [7]))[7] / 3


def test_light_that_scales_features_changes_nothing() -> None:
    features = marked(patch_features(), [7])
    light = torch.linspace(0.3, 3, IMAGES)[:, None, None, None]
    np.testing.assert_allclose(scored(features * light), scored(features), atol=1e-5)


def test_the_features_stay_as_they_are_and_a_seed_repeats_itself() -> None:
    features = marked(patch_features(), [7])
    before = features.clone()
    np.testing.assert_array_equal(scored(features, patches=10), scored(features, patches=10))
    assert torch.equal(features, before)
