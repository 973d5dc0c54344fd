from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import pytest
import torch
from torch import Tensor

from core.errors import DatasetError, UserError
from core.evaluation.parts import Twins, groups_by_name, groups_of_twins, near_twins
from tests.support.gauges import goods
from tests.support.gauges import settings as small

NAMES = tuple(f"image-{number:02}" for number in range(60))


def surfaces(images: int = 60, seed: int = 0) -> Tensor:
    """(N, C, h, w): a texture that all share, and each image's own."""
    generator = torch.Generator().manual_seed(seed)
    shared, own = (torch.randn(count, 12, 16, 16, generator=generator) for count in (1, images))
    return 3 * shared + own


def found_in(names: Sequence[str], surface: Tensor, train: AbstractSet[str] = frozenset()) -> list[Twins]:
    return near_twins(names, surface, train, lambda what, done, total: None)


def test_planted_twins_are_found_under_another_light_and_nothing_else_is() -> None:
    planted = surfaces()
    for original, copy in ((3, 40), (3, 41), (17, 59)):
        planted[copy] = 1.7 * planted[original] + 0.3 * surfaces(seed=9)[copy]
    found = found_in(NAMES, planted, set(NAMES[:30]))
    assert [twins.names for twins in found] == [("image-03", "image-40", "image-41"), ("image-17", "image-59")]
    assert all(0.5 < twins.likeness < 1 for twins in found)
    assert all(twins.across for twins in found)
    inside = found_in(NAMES, planted, set(NAMES))
    assert not any(twins.across for twins in inside)


def test_independent_images_have_no_twins() -> None:
    assert found_in(NAMES, surfaces()) == []


def test_two_kinds_of_parts_are_no_twins_but_hide_none() -> None:
    kinds = surfaces()
    kinds[30:] += 4 * torch.randn(1, 12, 16, 16, generator=torch.Generator().manual_seed(5))
    kinds[45] = kinds[50]
    assert [twins.names for twins in found_in(NAMES, kinds)] == [("image-45", "image-50")]


def test_of_two_images_nobody_can_say_what_they_share() -> None:
    assert found_in(("a", "b"), surfaces(1).repeat(2, 1, 1, 1)) == []


def test_twins_are_one_part_and_the_others_their_own() -> None:
    planted = surfaces(4)
    planted[3] = planted[1]
    names = NAMES[:4]
    groups = groups_of_twins(names, found_in(names, planted))
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
    from core.fitting import embedder_for

    pictures = goods(range(20))
    embedder = embedder_for(small(), "cpu")
    squares = embedder.preprocessing.squares([*pictures, pictures[4]])
    squares[20] = (squares[20] * 0.8).astype(np.uint8)
    embedding = embedder.embed(squares, lambda what, done, total: None)
    surface = embedder.detector.surface(embedding)
    assert [twins.names for twins in found_in(NAMES[:21], surface)] == [("image-04", "image-20")]
