"""A few labelled defects: what they move, what they need, and what they are worth on classes that nobody labelled."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from flowgauge.domain.errors import DatasetError, UserError
from flowgauge.evaluation.feature_cache import Embedded
from flowgauge.evaluation.leave_one_class_out import LeftOutClass, LeftOutClasses, gain
from flowgauge.evaluation.splits import Split
from flowgauge.models.adaptable import require_adaptable
from flowgauge.models.detector import TrainingSet, length
from flowgauge.models.multidirectional.detector import Multidirectional
from flowgauge.models.registry import create
from flowgauge.training.fit import FitSettings
from tests.support.detectors import CONFIGS, SHAPE, features, training_set

CHANNELS = sum(SHAPE.channels)


def quiet(what: str, done: int, total: int) -> None:
    """No progress to look at."""


def untrained(**changes: object) -> Multidirectional:
    detector = create("multidirectional", CONFIGS["multidirectional"] | changes, SHAPE)
    assert isinstance(detector, Multidirectional)
    return detector


def trained(given: TrainingSet, **changes: object) -> Multidirectional:
    detector = untrained(**changes)
    detector.learn(given, seed=0, progress=quiet)
    return detector


def marked(images: int, seed: int, stride: int, by: float) -> tuple[torch.Tensor, ...]:
    """Good features, but for some places where the first channel of one stride is off."""
    found = features(images, seed)
    level = found[SHAPE.strides.index(stride)]
    side = level.shape[-1]
    level[:, 0, : side // 4, : side // 4] += by
    return found


@cache
def without_labels() -> Multidirectional:
    return trained(replace(training_set(untrained()), defects={}, kinds=()), episodes=0)


def test_labels_that_may_train_are_asked_for() -> None:
    with pytest.raises(DatasetError, match=r"labelled defects.*flowgauge label"):
        trained(replace(training_set(untrained()), defects={}, kinds=()))


def test_without_episodes_no_label_is_asked_for() -> None:
    assert without_labels().score(features(3, seed=1)).image.shape == (3,)


def test_good_patches_are_standardised_before_anything_is_learned() -> None:
    detector, given = without_labels(), training_set(untrained())
    white = detector.white(given.good, torch.arange(length(given.good))).flatten(0, 1)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(CHANNELS), atol=0.05, rtol=0)
    assert torch.cov(white.T).diagonal().mean() == pytest.approx(1, abs=0.05)


def test_labels_lift_what_is_off_in_the_same_direction_elsewhere() -> None:
    """The unseen defects lie in another place and are weaker; their direction is that of the labelled ones."""
    detector = untrained()
    defects = detector.embed(marked(4, seed=61, stride=8, by=3.0))
    given = training_set(detector).labelled(defects, ["a", "a", "b", "b"])
    knowing = trained(given, episodes=60, learning_rate=0.02)
    good, held_out = features(16, seed=62), [x.flip(-1) for x in marked(16, seed=63, stride=8, by=1.5)]

    def margin(detector: Multidirectional) -> float:
        with torch.inference_mode():
            theirs, ours = detector.score(held_out).image, detector.score(good).image
        return float((theirs.mean() - ours.mean()) / ours.std())

    assert margin(knowing) > 1.5 * margin(without_labels())


def test_good_images_alone_move_the_directions_up_their_likelihood() -> None:
    """The inner level: after labels have stretched everything, good images bring their own variance back towards 1."""
    given = training_set(untrained())
    detector = trained(given, episodes=1, learning_rate=0.2, inner_steps=0)
    stretched = detector.directions.detach().clone()
    longer = trained(given, episodes=1, learning_rate=0.2, inner_steps=20, alpha=0.1)

    def variance(directions: torch.Tensor) -> float:
        return float((detector.white(given.good, torch.arange(8)) @ directions).square().mean())

    assert abs(variance(longer.directions.detach()) - 1) < abs(variance(stretched) - 1)


def test_adapting_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"multidirectional cannot be adapted.*headflow"):
        require_adaptable(without_labels())


KINDS = {"dent": 4, "hole": 8, "spot": 16}
NAMES = (
    [f"train/good/{n}" for n in range(16)]
    + [f"test/good/{n}" for n in range(12)]
    + [f"test/{kind}/{n}" for kind in KINDS for n in range(6)]
)
PARTS = {name: name if "good" in name else name[:-1] + str(int(name[-1]) // 2) for name in NAMES}
SPLIT = Split(
    seed=0,
    train=tuple(NAMES[:16]),
    test_good=tuple(NAMES[16:28]),
    test_defect=tuple(NAMES[28:]),
)


@cache
def classes() -> LeftOutClasses:
    detector = untrained()
    maps = [features(28, seed=5), *(marked(6, seed=70 + s, stride=s, by=2.5) for s in KINDS.values())]
    joined = [torch.cat(level) for level in zip(*maps, strict=True)]
    image = torch.arange(len(NAMES))
    whole = TrainingSet(detector.embed(joined), image, {}, image[:0], torch.zeros(0, *detector.grid))
    settings = FitSettings(detector="multidirectional", config=CONFIGS["multidirectional"])
    return LeftOutClasses(Embedded(tuple(NAMES), SHAPE, whole), SPLIT, PARTS, settings, labels=3)


@cache
def left_out(kind: str) -> LeftOutClass:
    return classes().left_out(kind)


def test_the_class_left_out_trains_nothing_and_no_part_is_on_both_sides() -> None:
    cell = left_out("hole")
    assert len(cell.labelled) == 3
    assert {name.split("/")[1] for name in cell.labelled} == {"dent", "spot"}
    assert len({PARTS[name] for name in cell.labelled}) == 3
    assert {PARTS[name] for name in cell.labelled}.isdisjoint({PARTS[name] for name in cell.names})
    assert [kind for kind in cell.kinds if kind != "good"] == ["hole"] * 6


def test_the_same_split_and_class_give_the_same_cell() -> None:
    assert classes().left_out("hole") == left_out("hole")


def test_the_gain_is_the_mean_over_cells_and_lies_in_its_interval() -> None:
    cells = [left_out(kind) for kind in KINDS]
    found = gain(cells, PARTS)
    singles = {cell.kind: cell.auroc[0] - cell.auroc[1] for cell in cells}
    assert found.by_class == pytest.approx(singles)
    assert found.mean == pytest.approx(np.mean(list(singles.values())))
    assert found.interval[0] <= found.mean <= found.interval[1]


def test_equal_scores_gain_nothing_on_any_resample() -> None:
    cells = [cell.model_copy(update={"without": cell.with_labels}) for cell in map(left_out, KINDS)]
    assert gain(cells, PARTS).interval == (0, 0)


def test_one_class_alone_cannot_be_left_out() -> None:
    alone = SPLIT.model_copy(update={"test_defect": tuple(name for name in SPLIT.test_defect if "dent" in name)})
    with pytest.raises(DatasetError, match="two classes"):
        _ = replace(classes(), split=alone).kinds
