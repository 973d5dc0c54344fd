"""Laws of an ensemble's adaptation: each member without its fold, and out-of-fold scores that set the scales."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from flowgauge.adaptation import refine as refinement_module
from flowgauge.adaptation.inner_loop import InnerLoop, TrainingTokens, adapted
from flowgauge.adaptation.refine import AdaptationData, Division, MemberSettings, Refined, RefinementSettings, refine
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.models.detector import Embedding, select
from flowgauge.models.featureflow.detector import FeatureFlow
from flowgauge.models.flows.flow import Flow
from flowgauge.training.outliers import Rejection, Suspicion, suspect
from tests.support.detectors import features, trained

IMAGES = 24
CONSTANT_PULL = L2Rule(lowest=0.1, highest=0.1 + 1e-9)
"""The losses of the images that watch set the pull to the anchor otherwise, and reach the member in that way alone."""
SETTINGS = RefinementSettings(
    members=MemberSettings(inner_loop=InnerLoop(steps=6, batch=64, warm_up=2, l2=CONSTANT_PULL)),
    rejection=Rejection(images=False, patches=False),
)


@cache
def anchor() -> FeatureFlow:
    detector = trained("featureflow")
    assert isinstance(detector, FeatureFlow)
    return detector


def brighter(moved: int | None = None) -> Embedding:
    """The line under another light; one image moved further."""
    embedding = anchor().embed([1.5 * x for x in features(IMAGES, seed=70)])
    if moved is not None:
        embedding = {name: tensor.clone() for name, tensor in embedding.items()}
        for tensor in embedding.values():
            tensor[moved] += 2
    return embedding


def refined_on(
    good: Embedding, folds: int = 3, settings: RefinementSettings = SETTINGS, mirrored: tuple[Embedding, ...] = ()
) -> Refined:
    def unasked(numbers: torch.Tensor) -> tuple[Embedding, torch.Tensor]:
        raise AssertionError("no head is tuned")

    return refine(
        anchor(),
        AdaptationData((good,), unasked, mirrored),
        [str(number) for number in range(IMAGES)],
        Division(folds=np.arange(IMAGES) % folds, validation=np.arange(IMAGES) < 3),
        settings,
        default_k=5,
        seed=0,
        progress=lambda what, done, total: None,
    )


def state_of(refined: Refined, member: int) -> dict[str, torch.Tensor]:
    assert isinstance(refined.detector, FeatureFlow)
    return refined.detector.member_flow(member).state_dict()


def test_no_image_reaches_the_member_that_holds_it_out() -> None:
    one, two = refined_on(brighter()), refined_on(brighter(moved=4))
    for member in range(3):
        other = state_of(two, member)
        same = all(torch.equal(tensor, other[name]) for name, tensor in state_of(one, member).items())
        assert same == (member == 4 % 3)


def test_mirrored_views_train_the_members_that_do_not_hold_their_image_out() -> None:
    one, two = (refined_on(brighter(), mirrored=(brighter(moved),)) for moved in (None, 4))
    for member in range(3):
        other = state_of(two, member)
        same = all(torch.equal(tensor, other[name]) for name, tensor in state_of(one, member).items())
        assert same == (member == 4 % 3)


def test_every_view_of_an_image_that_is_kept_trains_and_none_of_one_that_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[int] = []

    def recorded(flow: Flow, training: TrainingTokens, *rest: Any, **more: Any) -> Any:
        trained.append(len(training.train))
        return adapted(flow, training, *rest, **more)

    def rejecting(scores: Any, rule: Rejection, k: float) -> Suspicion:
        found = suspect(scores, rule, k)
        found.kept[4] = False
        return found

    monkeypatch.setattr(refinement_module, "adapted", recorded)
    monkeypatch.setattr(refinement_module, "suspect", rejecting)
    refined_on(brighter(), mirrored=(brighter(), brighter()))
    patches = anchor().grid[0] * anchor().grid[1]
    assert trained == [3 * patches * images for images in (15, 16, 15)], "image 4 is of the second fold"


def test_every_image_has_the_score_and_the_map_of_the_member_that_holds_it_out() -> None:
    good = brighter()
    refined = refined_on(good)
    assert isinstance(refined.detector, FeatureFlow)
    nll_BTK = refined.detector.patch_nll(good)
    members = torch.split(nll_BTK, refined.detector.terms, dim=2)
    for image in range(IMAGES):
        row = torch.tensor([image])
        own = members[image % 3][row]
        alone = float(refined.detector.image_scores(own, select(good, row)))
        assert refined.scores[image] == pytest.approx(alone, abs=1e-3)
        assert torch.allclose(refined.maps[row], refined.detector.maps(own), atol=1e-3)


def test_scales_are_those_of_the_buffers_out_of_fold_scores() -> None:
    assert np.median(refined_on(brighter()).scores) == pytest.approx(0, abs=0.5)


def test_members_without_a_fold_adapt_to_all_images() -> None:
    refined = refined_on(brighter(), folds=2)
    assert np.isfinite(refined.scores).all()
    for member in range(3):
        before = anchor().member_flow(member).state_dict()
        assert any(not torch.equal(tensor, before[name]) for name, tensor in state_of(refined, member).items())


def test_nothing_is_fitted_to_all_images_once_more() -> None:
    steps = refined_on(brighter()).steps
    assert len(steps) == 3 * SETTINGS.members.inner_loop.steps
