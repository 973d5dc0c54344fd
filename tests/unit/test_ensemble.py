"""Several members of one `headflow`, each trained without one fold of the parts."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from flowgauge.domain.errors import DatasetError, SettingsError
from flowgauge.models.detector import TrainingSet, folds_of_rows, select
from flowgauge.models.headflow.detector import HeadFlow, HeadFlowConfig, ensemble_options
from flowgauge.models.registry import create
from tests.support.detectors import CONFIGS, ENSEMBLE, SHAPE, features, small, training_set


def quiet(what: str, done: int, total: int) -> None:
    """No progress to look at."""


def trained_by(given: TrainingSet, **changes: Any) -> HeadFlow:
    detector = create("headflow", CONFIGS[ENSEMBLE] | changes, SHAPE)
    assert isinstance(detector, HeadFlow)
    detector.learn(given, seed=0, progress=quiet)
    return detector.eval()


def test_a_patch_is_as_anomalous_as_all_members_find_it_on_average_where_all_are_aggregated() -> None:
    detector = trained_by(training_set(small(ENSEMBLE)), aggregate_fraction=1.0)
    embedding = detector.embed(features(4, seed=7))
    with torch.no_grad():
        nll = detector.nll(embedding)
        alone = [detector.flow.nll(member.tokens(embedding).flatten(0, 1)).view(4, -1) for member in detector.ensemble]
        reported = detector.score_embedding(embedding).image - detector.image_scores(torch.zeros_like(nll), embedding)
    patches = torch.stack(alone).mean(dim=0)
    count = max(1, round(detector.config.top * patches.shape[1]))
    torch.testing.assert_close(reported, patches.topk(count, dim=1)[0].mean(dim=1), rtol=1e-4, atol=1e-4)


def test_an_image_as_a_whole_is_as_unlikely_as_the_member_finds_it_that_finds_it_most_so() -> None:
    detector = trained_by(training_set(small(ENSEMBLE)))
    embedding = detector.embed(features(4, seed=7))
    with torch.no_grad():
        reported = detector.image_scores(torch.zeros_like(detector.nll(embedding)), embedding)
        alone = torch.stack([member.whole(embedding) for member in detector.ensemble])
    torch.testing.assert_close(reported, detector.pooled_scale * alone.amax(dim=0))


def test_a_patch_is_as_anomalous_as_those_find_it_that_are_aggregated() -> None:
    detector = trained_by(training_set(small(ENSEMBLE)), aggregate_fraction=0.5, top=1.0)
    embedding = detector.embed(features(4, seed=7))
    with torch.no_grad():
        nll = detector.nll(embedding)
        reported = detector.image_scores(nll, embedding) - detector.image_scores(torch.zeros_like(nll), embedding)
    two_highest = nll.view(4, 3, -1).sort(dim=1)[0][:, 1:]
    torch.testing.assert_close(reported, two_highest.mean(dim=(1, 2)), rtol=1e-4, atol=1e-4)


def test_members_begin_alike_and_end_apart() -> None:
    begun = small(ENSEMBLE)
    assert isinstance(begun, HeadFlow)
    first, *others = (member.head.state_dict() for member in begun.ensemble)
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
    ended = [member.head.leave.weight for member in trained_by(training_set(begun)).ensemble]
    assert all(not torch.equal(ended[0], other) for other in ended[1:])


@pytest.mark.parametrize(
    ("members", "held_out_folds", "trained_by_the_first_fold"),
    [(3, 1, [False, True, True]), (4, 2, [False, True, True, False])],
)
def test_no_member_learns_from_folds_that_it_does_without(
    members: int, held_out_folds: int, trained_by_the_first_fold: list[bool]
) -> None:
    given = training_set(small(ENSEMBLE))
    rows = folds_of_rows(given, members)[0]
    other = replace(given, good=_defective(given, rows), synthetic=_defective_synthetic(given, rows))
    detector, again = (trained_by(images, members=members, held_out_folds=held_out_folds) for images in (given, other))
    changed = [
        any(not torch.equal(a, b) for a, b in zip(old.head.parameters(), new.head.parameters(), strict=True))
        for old, new in zip(detector.ensemble, again.ensemble, strict=True)
    ]
    assert changed == trained_by_the_first_fold


@pytest.mark.parametrize(("members", "held_out_folds"), [(1, 2), (3, 3)])
def test_an_ensemble_that_nothing_is_left_to_train_is_refused(members: int, held_out_folds: int) -> None:
    with pytest.raises(SettingsError, match="nothing is left to train a member"):
        create("headflow", CONFIGS[ENSEMBLE] | {"members": members, "held_out_folds": held_out_folds}, SHAPE)


def test_from_four_members_on_each_does_without_some_two_fifths_and_half_are_aggregated() -> None:
    ensembles = {members: HeadFlowConfig.model_validate(ensemble_options(members)) for members in range(1, 11)}
    assert [(ensembles[few].held_out_folds, ensembles[few].aggregate_fraction) for few in (1, 2, 3)] == [(1, 1)] * 3
    assert all(
        0.3 < ensembles[many].held_out_folds / many <= 0.5 and ensembles[many].aggregate_fraction == 0.5
        for many in range(4, 11)
    )


def _defective(given: TrainingSet, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    defective = {name: tensor.clone() for name, tensor in given.good.items()}
    for tensor in defective.values():
        tensor[rows] += 1
    return defective


def _defective_synthetic(given: TrainingSet, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    defective = {name: tensor.clone() for name, tensor in given.synthetic.items()}
    for tensor in defective.values():
        tensor[torch.isin(given.synthetic_image, given.image[rows])] += 1
    return defective


def test_images_of_one_part_share_a_fold() -> None:
    given = training_set(small(ENSEMBLE)).showing([f"part {number // 3}" for number in range(24)])
    folds = folds_of_rows(given, 3)
    assert sorted(torch.cat(folds).tolist()) == list(range(24))
    shown = [{given.part_of(int(number)) for number in given.image[rows]} for rows in folds]
    assert all(one.isdisjoint(other) for one, other in zip(shown, shown[1:] + shown[:1], strict=True))
    left = given.without(given.image[folds[0]])
    assert {left.part_of(int(number)) for number in left.image} == shown[1] | shown[2]


def test_too_few_parts_for_an_ensemble_are_named() -> None:
    given = training_set(small(ENSEMBLE)).showing([f"part {number % 5}" for number in range(24)])
    with pytest.raises(DatasetError, match="5 parts are too few for 3 members"):
        trained_by(given)


def test_a_selection_of_rows_keeps_their_tokens() -> None:
    detector = trained_by(training_set(small(ENSEMBLE)))
    embedding = detector.embed(features(4, seed=7))
    with torch.no_grad():
        whole, some = detector.tokens(embedding), detector.tokens(select(embedding, torch.tensor([2])))
    torch.testing.assert_close(some[0], whole[2], rtol=1e-4, atol=1e-4)
