"""Places of good images that should not train."""

from dataclasses import replace
from typing import Any

import torch

from flowgauge.models.adaptable import require_adaptable
from flowgauge.models.detector import Detector, TrainingSet, joined, select
from flowgauge.models.headflow.head import Head, HeadObjective
from flowgauge.models.registry import create
from flowgauge.models.windows import UNCLEAR, Windows
from tests.support.detectors import CONFIGS, SHAPE, features, small, training_set

WORN = 8
"""So many of the 24 images show the same defect and are called good."""


def spoilt(detector: Detector) -> TrainingSet:
    given = training_set(detector)
    worn = detector.embed(features(WORN, seed=60, defect=True))
    return replace(given, good=joined([select(given.good, torch.arange(24 - WORN)), worn]))


def doubting(given: TrainingSet) -> TrainingSet:
    side = given.mask.shape[1]
    unclear = torch.zeros(24, side, side, dtype=torch.bool)
    unclear[24 - WORN :] = given.mask[0] > 0
    return replace(given, unclear=unclear)


def trained_by(given: TrainingSet) -> Detector:
    detector = create("headflow", CONFIGS["headflow"] | {"pooled_weight": 0}, SHAPE)
    detector.learn(given, seed=0, progress=_quiet)
    return detector.eval()


def _quiet(*_: Any) -> None:
    """No progress to look at."""


def test_an_image_all_of_whose_patches_are_unclear_trains_nothing() -> None:
    detector = require_adaptable(small("headflow"))
    given = training_set(detector)
    side = given.mask.shape[1]
    (head,) = detector.heads
    assert isinstance(head, Head)
    loss = HeadObjective(head.eval())
    moved = {}
    for unclear in (False, True):
        reported = replace(given, unclear=torch.full((24, side, side), unclear))
        windows, share = Windows(reported, side, seed=1).of(torch.tensor([3, 24]))
        asked = {name: tensor.clone().requires_grad_() for name, tensor in windows.items()}
        loss(asked, share).backward()
        moved[unclear] = [
            any(tensor.grad is not None and bool(tensor.grad[row].any()) for tensor in asked.values()) for row in (0, 1)
        ]
    assert moved == {False: [True, True], True: [False, True]}


def test_where_no_patch_is_unclear_nothing_changes() -> None:
    given = training_set(small("headflow"))
    side = given.mask.shape[1]
    none = replace(given, unclear=torch.zeros(24, side, side, dtype=torch.bool))
    one, other = trained_by(given).state_dict(), trained_by(none).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_windows_tell_unclear_from_synthetic_and_from_good_patches() -> None:
    given = doubting(spoilt(small("headflow")))
    side = given.mask.shape[1]
    windows = Windows(given, side, seed=1)
    _, share = windows.of(torch.tensor([0, 23, 24]))
    assert not share[0].any()
    assert set(share[1].flatten().tolist()) == {0, float(torch.tensor(UNCLEAR))}
    assert share[2].max() == 1


def test_unclear_marks_stay_with_their_images() -> None:
    given = doubting(spoilt(small("headflow")))
    left = given.without(torch.arange(20))
    assert left.unclear is not None
    assert left.unclear.flatten(1).any(dim=1).tolist() == [True] * 4
    kept = given.only(torch.tensor([0, 23])).unclear
    assert kept is not None
    assert kept.flatten(1).any(dim=1).tolist() == [False, True]
