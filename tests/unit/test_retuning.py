"""The inner loop on guides: what moves, what stays, who may teach."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from flowgauge.adaptation import refine as refinement_module
from flowgauge.adaptation.head_adaptation import Lessons, Retuning, retuned
from flowgauge.adaptation.inner_loop import InnerLoop
from flowgauge.adaptation.refine import Division, Evidence, Refined, RefinementSettings, refine
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.domain.trace import GUIDE, Step
from flowgauge.models.adaptable import require_adaptable
from flowgauge.models.detector import Detector, Embedding, Lesson, length, select
from flowgauge.models.headflow import head as guide_module
from flowgauge.models.headflow.detector import HeadFlow
from flowgauge.training.outliers import Rejection, Suspicion, suspect
from tests.support.detectors import PANEL, features, lesson, mask, small, taught

LOOP = InnerLoop(alpha=0.1, steps=12, batch=8, warm_up=4, l2=L2Rule(lowest=0.01, highest=0.5))


@cache
def anchor(name: str = "headflow") -> HeadFlow:
    detector = taught(name)
    assert isinstance(detector, HeadFlow)
    return detector


def shifted() -> Lesson:
    """The line under another light: everything half as strong again."""
    given = lesson(anchor())
    good, painted = (anchor().embed([1.5 * x for x in features(24, seed=70 + d, defect=bool(d))]) for d in (0, 1))
    return replace(given, good=good, painted=painted, mask=mask(24, anchor()))


def lessons() -> Lessons:
    return Lessons.divided(shifted(), torch.arange(4))


def tuned(name: str = "headflow", loop: InnerLoop = LOOP) -> tuple[HeadFlow, list[Step]]:
    return retuned(anchor(name), lessons(), loop, seed=3, round_number=2)


def test_guides_and_the_tokens_scale_move_and_nothing_else() -> None:
    before = {name: tensor.clone() for name, tensor in anchor().state_dict().items()}
    after = tuned()[0].state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {"members.0.guide.leave.weight", "members.0.centre", "members.0.spread"} <= changed
    assert all(name.startswith("members.0.guide.") for name in changed - {"members.0.centre", "members.0.spread"})
    assert not {name for name in changed if ".standardise." in name}
    assert all(torch.equal(tensor, before[name]) for name, tensor in anchor().state_dict().items())


def test_the_loss_falls_and_every_step_is_told() -> None:
    steps = tuned()[1]
    assert [(step.what, step.round, step.step) for step in steps] == [(GUIDE, 2, number) for number in range(12)]
    first, last = ([step.train_loss for step in half] for half in (steps[:4], steps[-4:]))
    assert sum(last) < sum(first)


def test_every_member_of_a_panel_is_tuned() -> None:
    panel, steps = tuned(PANEL)
    assert len(steps) == 3 * 12
    for old, new in zip(anchor(PANEL).panel, panel.panel, strict=True):
        assert not torch.equal(old.guide.leave.weight, new.guide.leave.weight)


def test_the_same_seed_tunes_the_same() -> None:
    again = tuned()[0].state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in tuned()[0].state_dict().items())


def test_another_unit_of_the_loss_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    before, steps = tuned()
    plain = guide_module._loss
    monkeypatch.setattr(guide_module, "_loss", lambda *given: 1000 * plain(*given))
    after, scaled = tuned()
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert [step.l2 for step in scaled] == pytest.approx([step.l2 for step in steps], rel=1e-2)


def test_a_stronger_pull_stays_closer_to_the_anchor() -> None:
    def distance(l2: float) -> float:
        detector = tuned(loop=LOOP.model_copy(update={"l2": L2Rule(lowest=l2, highest=l2 + 1e-9)}))[0]
        pairs = zip(detector.guides[0].parameters(), anchor().guides[0].parameters(), strict=True)
        return sum(float((new - old).square().sum()) for new, old in pairs)

    assert distance(5.0) < 0.5 * distance(0.0)


def test_who_watches_does_not_teach() -> None:
    divided = lessons()
    assert set(divided.watched.image.tolist()) == {0, 1, 2, 3}
    assert set(divided.taught.image.tolist()).isdisjoint({0, 1, 2, 3})
    assert set(divided.taught.painted_image.tolist()).isdisjoint({0, 1, 2, 3})
    assert length(divided.taught.painted) == len(divided.taught.mask) == 20


def test_where_too_few_are_left_all_teach_and_watch() -> None:
    whole = shifted()
    divided = Lessons.divided(whole, torch.tensor([99]))
    assert divided.taught is divided.watched is whole


def test_a_detector_without_guides_stays_as_it_is() -> None:
    rad = require_adaptable(taught("rad"))
    same, steps = retuned(rad, lessons(), LOOP, seed=0, round_number=1)
    assert steps == []
    assert all(torch.equal(tensor, rad.state_dict()[name]) for name, tensor in same.state_dict().items())


def test_small_detectors_have_the_guides_that_they_say() -> None:
    assert [len(require_adaptable(small(name)).guides) for name in ("rad", "headflow", PANEL)] == [0, 1, 3]


def test_what_becomes_suspect_does_not_teach_the_last_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image 5 looks like the others to the anchor, and is rejected in the first round after it."""
    taught_by: list[set[int]] = []

    def watched(detector: Detector, lessons: Lessons, *rest: Any, **more: Any) -> Any:
        taught_by.append(set(lessons.taught.image.tolist()) | set(lessons.watched.painted_image.tolist()))
        return retuned(detector, lessons, *rest, **more)

    def doubting(scores: Any, nll: torch.Tensor, rule: Rejection, k: float) -> Suspicion:
        found = suspect(scores, nll, Rejection(images=False, patches=False), k)
        if taught_by:
            found.kept[5] = False
        return found

    monkeypatch.setattr(refinement_module, "retuned", watched)
    monkeypatch.setattr(refinement_module, "suspect", doubting)
    refined = refined_on(lambda numbers: None, RefinementSettings(rounds=1, retuning=Retuning(inner_loop=LOOP)))
    assert not refined.suspicion.kept[5]
    first, second, last = taught_by
    assert 5 in first | second
    assert 5 not in last


def test_where_all_that_would_watch_are_suspect_those_that_teach_watch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubting(scores: Any, nll: torch.Tensor, rule: Rejection, k: float) -> Suspicion:
        found = suspect(scores, nll, Rejection(images=False, patches=False), k)
        found.kept[:3] = False
        found.patches[:3] = False
        return found

    monkeypatch.setattr(refinement_module, "suspect", doubting)
    refined = refined_on(lambda numbers: None, RefinementSettings(rounds=1, retuning=None))
    last = [step for step in refined.steps if step.round == len(refined.rounds)]
    assert last
    assert all(math.isfinite(step.validation_loss) for step in last)


def refined_on(asked: Callable[[torch.Tensor], object], settings: RefinementSettings) -> Refined:
    given = shifted()

    def painted(numbers: torch.Tensor) -> tuple[Embedding, torch.Tensor]:
        asked(numbers)
        return select(given.painted, numbers), given.mask[numbers]

    return refine(
        anchor(),
        Evidence((given.good,), painted),
        [str(number) for number in range(24)],
        Division(folds=np.arange(24) % 2, watching=np.arange(24) < 3),
        settings,
        default_k=5,
        seed=0,
        progress=lambda what, done, total: None,
    )


def test_a_large_buffer_teaches_by_some_of_its_images() -> None:
    asked: list[torch.Tensor] = []
    settings = RefinementSettings(rounds=1, retuning=Retuning(images=10, painted=4, inner_loop=LOOP))
    refined = refined_on(asked.append, settings)
    (numbers,) = asked
    assert len(numbers) == 4
    assert len(set(numbers.tolist())) == 4
    told = {(step.round, step.what) for step in refined.steps}
    assert {(number, GUIDE) for number in (1, 2, 3)} <= told
