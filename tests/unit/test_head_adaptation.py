"""The inner loop on heads: what moves, what stays, who may train."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from flowgauge.adaptation import refine as refinement_module
from flowgauge.adaptation.head_adaptation import HeadAdaptation, HeadData, with_adapted_heads
from flowgauge.adaptation.inner_loop import InnerLoop
from flowgauge.adaptation.refine import AdaptationData, Division, Refined, RefinementSettings, refine
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.domain.trace import HEAD, Step
from flowgauge.models.adaptable import require_adaptable
from flowgauge.models.detector import Detector, Embedding, TrainingSet, length, select
from flowgauge.models.headflow.detector import HeadFlow
from flowgauge.models.headflow.head import HeadObjective
from flowgauge.training.outliers import Rejection, Suspicion, suspect
from tests.support.detectors import ENSEMBLE, features, mask, small, trained, training_set

LOOP = InnerLoop(alpha=0.1, steps=12, batch=8, warm_up=4, l2=L2Rule(lowest=0.01, highest=0.5))


@cache
def anchor(name: str = "headflow") -> HeadFlow:
    detector = trained(name)
    assert isinstance(detector, HeadFlow)
    return detector


def shifted() -> TrainingSet:
    """The line under another light: everything half as strong again."""
    given = training_set(anchor())
    good, synthetic = (anchor().embed([1.5 * x for x in features(24, seed=70 + d, defect=bool(d))]) for d in (0, 1))
    return replace(given, good=good, synthetic=synthetic, mask=mask(24, anchor()))


def data() -> HeadData:
    return HeadData.divided(shifted(), torch.arange(4))


def tuned(name: str = "headflow", loop: InnerLoop = LOOP) -> tuple[HeadFlow, list[Step]]:
    return with_adapted_heads(anchor(name), data(), loop, seed=3, round_number=2)


def test_heads_and_the_tokens_scale_move_and_nothing_else() -> None:
    before = {name: tensor.clone() for name, tensor in anchor().state_dict().items()}
    after = tuned()[0].state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {"members.0.head.leave.weight", "members.0.centre", "members.0.spread"} <= changed
    assert all(name.startswith("members.0.head.") for name in changed - {"members.0.centre", "members.0.spread"})
    assert not {name for name in changed if ".standardise." in name}
    assert all(torch.equal(tensor, before[name]) for name, tensor in anchor().state_dict().items())


def test_the_loss_falls_and_every_step_is_reported() -> None:
    steps = tuned()[1]
    assert [(step.what, step.round, step.step) for step in steps] == [(HEAD, 2, number) for number in range(12)]
    first, last = ([step.train_loss for step in half] for half in (steps[:4], steps[-4:]))
    assert sum(last) < sum(first)


def test_every_member_of_an_ensemble_is_tuned() -> None:
    ensemble, steps = tuned(ENSEMBLE)
    assert len(steps) == 3 * 12
    for old, new in zip(anchor(ENSEMBLE).ensemble, ensemble.ensemble, strict=True):
        assert not torch.equal(old.head.leave.weight, new.head.leave.weight)


def test_the_same_seed_tunes_the_same() -> None:
    again = tuned()[0].state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in tuned()[0].state_dict().items())


def test_another_unit_of_the_loss_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    before, steps = tuned()
    plain = HeadObjective.forward
    monkeypatch.setattr(HeadObjective, "forward", lambda *given: 1000 * plain(*given))
    after, scaled = tuned()
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert [step.l2 for step in scaled] == pytest.approx([step.l2 for step in steps], rel=1e-2)


def test_a_stronger_pull_stays_closer_to_the_anchor() -> None:
    def distance(l2: float) -> float:
        detector = tuned(loop=LOOP.model_copy(update={"l2": L2Rule(lowest=l2, highest=l2 + 1e-9)}))[0]
        pairs = zip(detector.heads[0].parameters(), anchor().heads[0].parameters(), strict=True)
        return sum(float((new - old).square().sum()) for new, old in pairs)

    assert distance(5.0) < 0.5 * distance(0.0)


def test_who_watches_does_not_train() -> None:
    divided = data()
    assert set(divided.validation.image.tolist()) == {0, 1, 2, 3}
    assert set(divided.train.image.tolist()).isdisjoint({0, 1, 2, 3})
    assert set(divided.train.synthetic_image.tolist()).isdisjoint({0, 1, 2, 3})
    assert length(divided.train.synthetic) == len(divided.train.mask) == 20


def test_where_too_few_are_left_all_train_and_watch() -> None:
    whole = shifted()
    divided = HeadData.divided(whole, torch.tensor([99]))
    assert divided.train is divided.validation is whole


def test_a_detector_without_heads_stays_as_it_is() -> None:
    rad = require_adaptable(trained("rad"))
    same, steps = with_adapted_heads(rad, data(), LOOP, seed=0, round_number=1)
    assert steps == []
    assert all(torch.equal(tensor, rad.state_dict()[name]) for name, tensor in same.state_dict().items())


def test_small_detectors_have_the_heads_that_they_say() -> None:
    assert [len(require_adaptable(small(name)).heads) for name in ("rad", "headflow", ENSEMBLE)] == [0, 1, 3]


def test_what_becomes_suspect_does_not_train_the_last_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image 5 looks like the others to the anchor, and is rejected in the first round after it."""
    trained_by: list[set[int]] = []

    def watched(detector: Detector, data: HeadData, *rest: Any, **more: Any) -> Any:
        trained_by.append(set(data.train.image.tolist()) | set(data.validation.synthetic_image.tolist()))
        return with_adapted_heads(detector, data, *rest, **more)

    def rejecting(scores: Any, rule: Rejection, k: float) -> Suspicion:
        found = suspect(scores, Rejection(images=False), k)
        if trained_by:
            found.kept[5] = False
        return found

    monkeypatch.setattr(refinement_module, "with_adapted_heads", watched)
    monkeypatch.setattr(refinement_module, "suspect", rejecting)
    refined = refined_on(
        lambda numbers: None, RefinementSettings(rounds=1, head_adaptation=HeadAdaptation(inner_loop=LOOP))
    )
    assert not refined.suspicion.kept[5]
    first, second, last = trained_by
    assert 5 in first | second
    assert 5 not in last


def test_where_all_that_would_watch_are_suspect_those_that_train_watch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def rejecting(scores: Any, rule: Rejection, k: float) -> Suspicion:
        found = suspect(scores, Rejection(images=False), k)
        found.kept[:3] = False
        return found

    monkeypatch.setattr(refinement_module, "suspect", rejecting)
    refined = refined_on(lambda numbers: None, RefinementSettings(rounds=1, head_adaptation=None))
    last = [step for step in refined.steps if step.round == len(refined.rounds)]
    assert last
    assert all(math.isfinite(step.validation_loss) for step in last)


def refined_on(asked: Callable[[torch.Tensor], object], settings: RefinementSettings) -> Refined:
    given = shifted()

    def synthetic(numbers: torch.Tensor) -> tuple[Embedding, torch.Tensor]:
        asked(numbers)
        return select(given.synthetic, numbers), given.mask[numbers]

    return refine(
        anchor(),
        AdaptationData((given.good,), synthetic),
        [str(number) for number in range(24)],
        Division(folds=np.arange(24) % 2, validation=np.arange(24) < 3),
        settings,
        default_k=5,
        seed=0,
        progress=lambda what, done, total: None,
    )


def test_a_large_buffer_trains_by_some_of_its_images() -> None:
    asked: list[torch.Tensor] = []
    settings = RefinementSettings(rounds=1, head_adaptation=HeadAdaptation(images=10, synthetic=4, inner_loop=LOOP))
    refined = refined_on(asked.append, settings)
    (numbers,) = asked
    assert len(numbers) == 4
    assert len(set(numbers.tolist())) == 4
    reported = {(step.round, step.what) for step in refined.steps}
    assert {(number, HEAD) for number in (1, 2, 3)} <= reported
