"""Places of good images that should not teach."""

from dataclasses import replace
from typing import Any

import torch

from flowgauge.models.adaptable import require_adaptable
from flowgauge.models.detector import Detector, Lesson, joined, select
from flowgauge.models.headflow.head import Guide, LessonLoss
from flowgauge.models.registry import create
from flowgauge.models.windows import DOUBTED, Windows
from tests.support.detectors import CONFIGS, SHAPE, features, lesson, small

WORN = 8
"""So many of the 24 images show the same defect and are called good."""


def spoilt(detector: Detector) -> Lesson:
    given = lesson(detector)
    worn = detector.embed(features(WORN, seed=60, defect=True))
    return replace(given, good=joined([select(given.good, torch.arange(24 - WORN)), worn]))


def doubting(given: Lesson) -> Lesson:
    side = given.mask.shape[1]
    doubted = torch.zeros(24, side, side, dtype=torch.bool)
    doubted[24 - WORN :] = given.mask[0] > 0
    return replace(given, doubted=doubted)


def taught_by(given: Lesson) -> Detector:
    detector = create("headflow", CONFIGS["headflow"] | {"pooled_weight": 0}, SHAPE)
    detector.learn(given, seed=0, progress=_quiet)
    return detector.eval()


def _quiet(*_: Any) -> None:
    """No progress to look at."""


def test_an_image_all_of_whose_places_are_doubted_teaches_nothing() -> None:
    detector = require_adaptable(small("headflow"))
    given = lesson(detector)
    side = given.mask.shape[1]
    (guide,) = detector.guides
    assert isinstance(guide, Guide)
    loss = LessonLoss(guide.eval())
    moved = {}
    for doubted in (False, True):
        told = replace(given, doubted=torch.full((24, side, side), doubted))
        windows, share = Windows(told, side, seed=1).of(torch.tensor([3, 24]))
        asked = {name: tensor.clone().requires_grad_() for name, tensor in windows.items()}
        loss(asked, share).backward()
        moved[doubted] = [
            any(tensor.grad is not None and bool(tensor.grad[row].any()) for tensor in asked.values()) for row in (0, 1)
        ]
    assert moved == {False: [True, True], True: [False, True]}


def test_where_no_place_is_doubted_nothing_changes() -> None:
    given = lesson(small("headflow"))
    side = given.mask.shape[1]
    none = replace(given, doubted=torch.zeros(24, side, side, dtype=torch.bool))
    one, other = taught_by(given).state_dict(), taught_by(none).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_windows_tell_doubted_from_painted_and_from_good_places() -> None:
    given = doubting(spoilt(small("headflow")))
    side = given.mask.shape[1]
    windows = Windows(given, side, seed=1)
    _, share = windows.of(torch.tensor([0, 23, 24]))
    assert not share[0].any()
    assert set(share[1].flatten().tolist()) == {0, float(torch.tensor(DOUBTED))}
    assert share[2].max() == 1


def test_doubts_stay_with_their_images() -> None:
    given = doubting(spoilt(small("headflow")))
    left = given.without(torch.arange(20))
    assert left.doubted is not None
    assert left.doubted.flatten(1).any(dim=1).tolist() == [True] * 4
    kept = given.only(torch.tensor([0, 23])).doubted
    assert kept is not None
    assert kept.flatten(1).any(dim=1).tolist() == [False, True]
