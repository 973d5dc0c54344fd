"""Near duplicates on features that a test plants, and on a procedural line's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowgauge.evaluation.near_duplicates import Pair, duplicate_groups, near_duplicates, near_duplicates_of, parts_of
from flowgauge.training.fit import embedder_for
from tests.support.gauges import goods
from tests.support.gauges import settings as small

NAMES = tuple(f"image-{number:02}" for number in range(60))


def features(images: int, seed: int = 0) -> Tensor:
    """Unrelated images: (N, 24, 16, 16) around a mean that all share, of length 1 at each place."""
    generator = torch.Generator().manual_seed(seed)
    shared = 3 * torch.randn(1, 24, 16, 16, generator=generator)
    return F.normalize(
        shared + F.interpolate(torch.randn(images, 24, 8, 8, generator=generator), scale_factor=2), dim=1
    )


def found(rows: Tensor) -> set[tuple[int, int]]:
    return {(pair.first, pair.second) for pair in near_duplicates(rows)}


def test_unrelated_images_have_no_near_duplicates() -> None:
    assert [found(features(60, seed)) for seed in range(4)] == [set()] * 4


def test_images_that_share_what_is_their_own_are_near_duplicates() -> None:
    rows = features(60)
    noise = 0.1 * torch.randn(rows[:2].shape, generator=torch.Generator().manual_seed(9))
    rows[[50, 51]] = F.normalize(rows[[3, 7]] + noise, dim=1)
    assert found(rows) == {(3, 50), (7, 51)}


def test_images_that_differ_from_the_rest_in_one_way_are_a_cluster_and_no_near_duplicates() -> None:
    """As when a third of the images were turned."""
    rows, turned = features(60), torch.randn(1, 24, 16, 16, generator=torch.Generator().manual_seed(5))
    rows[40:] = F.normalize(rows[40:] + 0.6 * F.avg_pool2d(turned, 5, 1, 2) * 5, dim=1)
    assert found(rows) == set()


def test_what_is_so_all_over_two_images_makes_no_near_duplicates() -> None:
    """As when both are out of focus, or lit alike."""
    rows, haze = features(60), torch.randn(24, 1, 1, generator=torch.Generator().manual_seed(5))
    rows[[10, 20]] = F.normalize(rows[[10, 20]] + 0.1 * haze, dim=1)
    assert found(rows) == set()


def test_two_images_have_no_near_duplicates() -> None:
    assert near_duplicates(features(2)) == []


def test_near_duplicates_are_found_across_the_blocks_in_which_they_are_sought() -> None:
    rows = features(600)
    rows[599] = rows[1]
    rows[300] = rows[299]
    assert found(rows) == {(1, 599), (299, 300)}


def test_near_duplicates_of_near_duplicates_show_one_part() -> None:
    parts = parts_of([Pair(0, 3, 0.9), Pair(3, 4, 0.8)], 6)
    assert parts[0] == parts[3] == parts[4]
    assert len(set(parts.tolist())) == 4


def surfaces(images: int = 60, seed: int = 0) -> np.ndarray:
    """(N, C, h, w): a texture that all share, and each image's own."""
    rng = np.random.default_rng(seed)
    return np.asarray(3 * rng.standard_normal((1, 12, 16, 16)) + rng.standard_normal((images, 12, 16, 16)))


def test_planted_near_duplicates_are_found_under_another_light_and_nothing_else_is() -> None:
    planted = surfaces()
    for original, copy in ((3, 40), (3, 41), (17, 59)):
        planted[copy] = 1.7 * planted[original] + 0.3 * surfaces(seed=9)[copy]
    found = near_duplicates_of(NAMES, planted, train=set(NAMES[:30]))
    assert [near_duplicates.names for near_duplicates in found] == [
        ("image-03", "image-40", "image-41"),
        ("image-17", "image-59"),
    ]
    assert all(0 < near_duplicates.distance < 0.5 for near_duplicates in found)
    assert all(near_duplicates.across for near_duplicates in found)
    inside = near_duplicates_of(NAMES, planted, train=set(NAMES))
    assert not any(near_duplicates.across for near_duplicates in inside)


def test_independent_images_have_no_near_duplicates() -> None:
    assert near_duplicates_of(NAMES, surfaces(), set()) == []


def test_two_kinds_of_parts_are_no_near_duplicates_but_hide_none() -> None:
    kinds = surfaces()
    kinds[30:] += 4 * np.random.default_rng(5).standard_normal((1, 12, 16, 16))
    kinds[45] = kinds[50]
    assert [near_duplicates.names for near_duplicates in near_duplicates_of(NAMES, kinds, set())] == [
        ("image-45", "image-50")
    ]


def test_exact_copies_of_one_image_are_near_duplicates() -> None:
    planted = surfaces(8)
    planted[[2, 5, 7]] = planted[2]
    (found,) = near_duplicates_of(NAMES[:8], planted, {NAMES[2]})
    assert found.names == (NAMES[2], NAMES[5], NAMES[7])
    assert found.distance == pytest.approx(0, abs=1e-5)


def test_near_duplicates_are_one_part_and_the_others_their_own() -> None:
    planted = surfaces(4)
    planted[3] = planted[1]
    names = NAMES[:4]
    groups = duplicate_groups(names, near_duplicates_of(names, planted, set()))
    assert groups == {name: name for name in names[:3]} | {"image-03": "image-01"}


def test_a_procedural_lines_parts_are_reported_apart_by_real_features() -> None:
    """One copy under another light among twenty parts of one texture."""
    pictures = goods(range(20))
    embedder = embedder_for(small(), "cpu")
    crops = embedder.preprocessing.crops([*pictures, pictures[4]])
    crops[20] = (crops[20] * 0.8).astype(np.uint8)
    embedding = embedder.embed(crops, lambda what, done, total: None)
    patch_features = embedder.detector.patch_features(embedding).float().numpy()
    assert [near_duplicates.names for near_duplicates in near_duplicates_of(NAMES[:21], patch_features, set())] == [
        ("image-04", "image-20")
    ]
