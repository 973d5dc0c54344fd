import numpy as np
import pytest

from flowgauge.domain.errors import DatasetError
from flowgauge.evaluation.replicates import Material, Partition, resplit

Sides = dict[str, set[int]]


def material(good: list[int], defective: list[int], training: int = 0) -> Material:
    """Parts with so many images each; the images of the first `training` good parts only train."""
    sizes = good + defective
    groups = [f"part-{number}" for number, size in enumerate(sizes) for _ in range(size)]
    bad = np.arange(len(groups)) >= sum(good)
    return Material(bad, tuple(groups), np.arange(len(groups)) < sum(good[:training]))


MIXED = material([1, 6, 3, 2, 5, 4] * 12, [1, 4, 6, 2, 3] * 4)
SINGLE = material([1] * 60, [1] * 21)


def sides(split: Partition) -> Sides:
    names = ("train", "choose_good", "choose_defect", "test_good", "test_defect", "idle")
    return {name: set(getattr(split, name).tolist()) for name in names}


@pytest.mark.parametrize("seed", range(8))
def test_no_part_is_on_two_sides(seed: int) -> None:
    split = resplit(MIXED, seed)
    halves = [{*split.choose_good, *split.choose_defect}, {*split.test_good, *split.test_defect}, {*split.train}]
    parts = [{MIXED.groups[number] for number in half} for half in halves]
    assert parts[0] & parts[1] == parts[0] & parts[2] == parts[1] & parts[2] == set()


@pytest.mark.parametrize("data", [MIXED, SINGLE], ids=["parts", "images"])
def test_halves_are_equal_and_every_good_image_has_one_patch(data: Material) -> None:
    split = resplit(data, 3)
    assert len(split.choose_good) == len(split.test_good) == data.good_half
    assert len(split.choose_defect) == len(split.test_defect)
    assert data.half - len(split.choose_defect) <= 3, "parts are dealt evenly"
    placed = [number for name, side in sides(split).items() if "defect" not in name for number in side]
    assert sorted(placed) == np.flatnonzero(~data.defective).tolist()
    assert data.defective[split.choose_defect].all()
    assert data.defective[split.test_defect].all()


def test_without_parts_nothing_is_idle_and_an_odd_defect_stays_out() -> None:
    split = resplit(SINGLE, 0)
    assert (len(split.choose_defect), len(split.choose_good), len(split.train), len(split.idle)) == (10, 10, 40, 0)


def test_the_seed_decides_and_seeds_differ() -> None:
    again, other = sides(resplit(MIXED, 5)), sides(resplit(MIXED, 6))
    assert sides(resplit(MIXED, 5)) == again
    assert all(again[name] != other[name] for name in ("train", "test_good", "test_defect"))


def test_every_image_comes_to_test_in_the_long_run() -> None:
    judged = set().union(*(sides(resplit(SINGLE, seed))["test_defect"] for seed in range(40)))
    assert judged == set(np.flatnonzero(SINGLE.defective).tolist())


def test_good_images_of_a_defective_part_lie_idle() -> None:
    groups = ("mixed", *(f"good-{n}" for n in range(60)), "mixed", *(f"bad-{n}" for n in range(9)))
    data = Material(np.arange(71) >= 61, groups, np.zeros(71, dtype=bool))
    assert all(0 in resplit(data, seed).idle for seed in range(5))


def test_what_only_trains_never_chooses_or_tests() -> None:
    data = material([2] * 60, [1] * 20, training=40)
    split = resplit(data, 1)
    assert set(range(80)) <= set(split.train.tolist())
    assert len(split.choose_good) == len(split.test_good) == 10


def test_half_of_the_good_images_are_kept_to_train() -> None:
    split = resplit(material([1] * 40, [1] * 60), 0)
    assert len(split.test_good) == 10
    assert len(split.test_defect) == 30
    assert len(split.train) == 20


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (material([1] * 60, []), "0 defective images"),
        (material([1] * 60, [10, 10, 10]), "of 3 parts are too few"),
        (material([1] * 6, [1] * 10), "6 good images are too few"),
        (material([1] * 60, [1] * 10, training=58), "--keep-apart"),
        (material([5] * 2 + [1] * 4, [1] * 10), "left to train"),
    ],
)
def test_too_few_images_are_reported(data: Material, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        resplit(data, 0)


def test_the_partition_of_a_seed_stays_what_it_was() -> None:
    """A repeat that is kept in a file is not repeated: the same seed must give the same images for ever."""
    split = resplit(SINGLE, 0)
    assert split.test_good.tolist() == [3, 9, 11, 22, 29, 42, 44, 49, 52, 54]
    assert split.choose_defect.tolist() == [60, 62, 64, 66, 69, 71, 76, 77, 78, 80]
    assert resplit(MIXED, 0).test_good.tolist()[:8] == [21, 42, 59, 60, 61, 62, 127, 128]
