import numpy as np
import pytest

from flowgauge.domain.errors import DatasetError, UserError
from flowgauge.evaluation.parts import duplicate_groups, groups_by_name, near_duplicates_of
from tests.support.gauges import goods
from tests.support.gauges import settings as small

NAMES = tuple(f"image-{number:02}" for number in range(60))


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
    assert near_duplicates_of(("a", "b"), np.repeat(surfaces(1), 2, axis=0), {"a"})[0].names == ("a", "b")


def test_near_duplicates_are_one_part_and_the_others_their_own() -> None:
    planted = surfaces(4)
    planted[3] = planted[1]
    names = NAMES[:4]
    groups = duplicate_groups(names, near_duplicates_of(names, planted, set()))
    assert groups == {name: name for name in names[:3]} | {"image-03": "image-01"}


def test_the_part_is_what_the_pattern_finds() -> None:
    names = ["test/crack/exp1_num_17.jpg", "train/good/exp6_num_17.jpg", "train/good/exp1_num_4.jpg"]
    assert list(groups_by_name(names, r"num_(\d+)").values()) == ["17", "17", "4"]
    assert list(groups_by_name(names, r"num_\d+").values()) == ["num_17", "num_17", "num_4"]
    assert list(groups_by_name(names, r"/(\w)\w+/exp\d_num_(\d+)").values()) == ["c|17", "g|17", "g|4"]


def test_a_pattern_that_is_none_or_finds_nothing_is_a_mistake() -> None:
    with pytest.raises(UserError, match="no regular expression"):
        groups_by_name(["a"], "(")
    with pytest.raises(DatasetError, match="finds nothing in 2 names, b among them"):
        groups_by_name(["a1", "b", "c"], r"\d")


def test_a_procedural_lines_parts_are_reported_apart_by_real_features() -> None:
    """One copy under another light among twenty parts of one texture."""
    from flowgauge.training.fit import embedder_for

    pictures = goods(range(20))
    embedder = embedder_for(small(), "cpu")
    crops = embedder.preprocessing.crops([*pictures, pictures[4]])
    crops[20] = (crops[20] * 0.8).astype(np.uint8)
    embedding = embedder.embed(crops, lambda what, done, total: None)
    patch_features = embedder.detector.patch_features(embedding).float().numpy()
    assert [near_duplicates.names for near_duplicates in near_duplicates_of(NAMES[:21], patch_features, set())] == [
        ("image-04", "image-20")
    ]
