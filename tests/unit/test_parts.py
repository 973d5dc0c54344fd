import numpy as np
import pytest

from flowgauge.domain.errors import DatasetError, UserError
from flowgauge.evaluation.parts import groups_by_name, groups_of_twins, near_twins
from tests.support.gauges import goods
from tests.support.gauges import settings as small

NAMES = tuple(f"image-{number:02}" for number in range(60))


def surfaces(images: int = 60, seed: int = 0) -> np.ndarray:
    """(N, C, h, w): a texture that all share, and each image's own."""
    rng = np.random.default_rng(seed)
    return np.asarray(3 * rng.standard_normal((1, 12, 16, 16)) + rng.standard_normal((images, 12, 16, 16)))


def test_planted_twins_are_found_under_another_light_and_nothing_else_is() -> None:
    planted = surfaces()
    for original, copy in ((3, 40), (3, 41), (17, 59)):
        planted[copy] = 1.7 * planted[original] + 0.3 * surfaces(seed=9)[copy]
    found = near_twins(NAMES, planted, train=set(NAMES[:30]))
    assert [twins.names for twins in found] == [("image-03", "image-40", "image-41"), ("image-17", "image-59")]
    assert all(0 < twins.distance < 0.5 for twins in found)
    assert all(twins.across for twins in found)
    inside = near_twins(NAMES, planted, train=set(NAMES))
    assert not any(twins.across for twins in inside)


def test_independent_images_have_no_twins() -> None:
    assert near_twins(NAMES, surfaces(), set()) == []


def test_two_kinds_of_parts_are_no_twins_but_hide_none() -> None:
    kinds = surfaces()
    kinds[30:] += 4 * np.random.default_rng(5).standard_normal((1, 12, 16, 16))
    kinds[45] = kinds[50]
    assert [twins.names for twins in near_twins(NAMES, kinds, set())] == [("image-45", "image-50")]


def test_exact_copies_of_one_image_are_twins() -> None:
    assert near_twins(("a", "b"), np.repeat(surfaces(1), 2, axis=0), {"a"})[0].names == ("a", "b")


def test_twins_are_one_part_and_the_others_their_own() -> None:
    planted = surfaces(4)
    planted[3] = planted[1]
    names = NAMES[:4]
    groups = groups_of_twins(names, near_twins(names, planted, set()))
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


def test_a_procedural_lines_parts_are_told_apart_by_real_features() -> None:
    """One copy under another light among twenty parts of one texture."""
    from flowgauge.training.fit import embedder_for

    pictures = goods(range(20))
    embedder = embedder_for(small(), "cpu")
    squares = embedder.preprocessing.squares([*pictures, pictures[4]])
    squares[20] = (squares[20] * 0.8).astype(np.uint8)
    embedding = embedder.embed(squares, lambda what, done, total: None)
    surface = embedder.detector.surface(embedding).float().numpy()
    assert [twins.names for twins in near_twins(NAMES[:21], surface, set())] == [("image-04", "image-20")]
