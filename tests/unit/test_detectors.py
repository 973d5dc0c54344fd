"""The conformance suite: what every detector promises."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from flowgauge.domain.errors import SettingsError
from flowgauge.models import registry
from flowgauge.models.detector import Detector, Scores, joined, length, select
from flowgauge.models.rad.detector import Rad, RadConfig
from flowgauge.models.registry import create, offer
from tests.support.detectors import CONFIGS, SHAPE, shown, small, trained, training_set

NAMES = sorted(CONFIGS)


@cache
def _trained(name: str) -> Detector:
    return trained(name)


@pytest.fixture(params=NAMES)
def detector(request: pytest.FixtureRequest) -> Detector:
    return _trained(str(request.param))


def _score(detector: Detector, maps: Sequence[Tensor]) -> Scores:
    with torch.inference_mode():
        return detector.score(maps)


def test_scores_and_maps_have_one_row_per_image(detector: Detector) -> None:
    scores = _score(detector, shown(detector, 5, seed=7))
    assert scores.image.shape == (5,)
    assert scores.maps.shape == (5, *detector.grid)
    assert scores.image.isfinite().all()
    assert scores.maps.isfinite().all()


def test_a_defect_scores_higher_than_every_good_image(detector: Detector) -> None:
    good = _score(detector, shown(detector, 12, seed=8)).image
    bad = _score(detector, shown(detector, 12, seed=9, defect=True)).image
    assert float(bad.min()) > float(good.max())


def test_the_map_is_highest_where_the_defect_is(detector: Detector) -> None:
    maps = _score(detector, shown(detector, 12, seed=9, defect=True)).maps.mean(dim=0)
    side = detector.grid[0]
    inside = maps[side // 4 : side // 2, side // 4 : side // 2].mean()
    assert float(inside) > 1.1 * float(maps.mean())
    assert float(inside) > float(maps[side // 2 :, side // 2 :].mean())


def test_a_score_does_not_depend_on_the_neighbours(detector: Detector) -> None:
    ours, others, extreme = (
        shown(detector, 4, seed=3),
        shown(detector, 4, seed=4),
        shown(detector, 4, seed=5, defect=True),
    )
    beside_some = _score(detector, [torch.cat(pair) for pair in zip(ours, others, strict=True)])
    beside_extreme = _score(detector, [torch.cat(pair) for pair in zip(ours, extreme, strict=True)])
    assert torch.equal(beside_some.image[:4], beside_extreme.image[:4])
    assert torch.equal(beside_some.maps[:4], beside_extreme.maps[:4])


def test_a_score_does_not_depend_on_the_batch(detector: Detector) -> None:
    together = _score(detector, shown(detector, 6, seed=3))
    for row in (0, 5):
        alone = _score(detector, [feature[row : row + 1] for feature in shown(detector, 6, seed=3)])
        torch.testing.assert_close(alone.image[0], together.image[row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.maps[0], together.maps[row], rtol=1e-3, atol=1e-3)


def test_scoring_does_not_change_its_input(detector: Detector) -> None:
    given = shown(detector, 3, seed=3)
    before = [feature.clone() for feature in given]
    _score(detector, given)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_scoring_does_not_change_the_detector(detector: Detector) -> None:
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    _score(detector, shown(detector, 3, seed=3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_learning_does_not_change_the_training_set(name: str) -> None:
    detector = small(name)
    given = training_set(detector)
    before = {key: tensor.clone() for key, tensor in (given.good | {"mask": given.mask}).items()}
    detector.learn(given, seed=0, progress=lambda what, done, total: None)
    assert all(torch.equal(tensor, before[key]) for key, tensor in (given.good | {"mask": given.mask}).items())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_training_set_and_seed_make_the_same_detector(name: str) -> None:
    again = trained(name)
    assert all(torch.equal(tensor, _trained(name).state_dict()[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_makes_another_detector(name: str) -> None:
    other = trained(name, seed=1)
    assert any(not torch.equal(tensor, _trained(name).state_dict()[key]) for key, tensor in other.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_is_its_state(name: str) -> None:
    copy = small(name).eval()
    copy.load_state_dict(_trained(name).state_dict())
    ours, theirs = _score(copy, shown(copy, 4, seed=2)), _score(_trained(name), shown(copy, 4, seed=2))
    assert torch.equal(ours.image, theirs.image)
    assert torch.equal(ours.maps, theirs.maps)


@pytest.mark.parametrize("name", NAMES)
def test_training_mode_gives_the_same_type_and_shape(name: str) -> None:
    detector = small(name)
    detector.load_state_dict(_trained(name).state_dict())
    scores = detector.train().score(shown(detector, 3, seed=2))
    assert isinstance(scores, Scores)
    assert scores.image.shape == (3,)
    assert scores.maps.shape == (3, *detector.grid)


def test_an_embedding_keeps_images_apart(detector: Detector) -> None:
    whole = detector.embed(shown(detector, 4, seed=1))
    parts = [detector.embed([feature[i : i + 1] for feature in shown(detector, 4, seed=1)]) for i in range(4)]
    for name, tensor in joined(parts).items():
        torch.testing.assert_close(tensor, whole[name], rtol=2e-3, atol=2e-3)
    assert length(select(whole, torch.tensor([2, 0]))) == 2


def test_scores_from_an_embedding_are_those_from_features(detector: Detector) -> None:
    direct = _score(detector, shown(detector, 4, seed=1))
    with torch.inference_mode():
        embedded = detector.score_embedding(detector.embed(shown(detector, 4, seed=1)))
    torch.testing.assert_close(embedded.image, direct.image, rtol=2e-2, atol=2e-2)


def test_every_view_that_scores_also_trains(detector: Detector) -> None:
    assert set(detector.views) <= set(detector.training_views(100))


def test_progress_is_reported() -> None:
    reported: list[tuple[str, int, int]] = []
    detector = small("rad")
    detector.learn(training_set(detector), seed=0, progress=lambda *step: reported.append(step))
    assert reported
    assert all(0 < done <= total for _, done, total in reported)


def test_an_unknown_detector_is_named_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no detector 'nobodys'.*headflow"):
        create("nobodys", {}, SHAPE)


def test_a_wrong_option_of_a_detector_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"blocks should be greater .*\. `--set help`") as refused:
        create("rad", CONFIGS["rad"] | {"blocks": 0}, SHAPE)
    assert "pydantic" not in str(refused.value)


@pytest.mark.parametrize("name", ["featureflow", "rad", "headflow"])
def test_one_nested_option_leaves_its_neighbours_as_the_detector_has_them(name: str) -> None:
    own = create(name, {}, SHAPE).config.model_dump()["training"]
    changed = create(name, {"training": {"noise": 0.25}}, SHAPE).config.model_dump()["training"]
    assert own["noise"] != 0.25
    assert changed == own | {"noise": 0.25}


def test_a_detector_from_elsewhere_can_be_offered() -> None:
    class Elsewhere(Rad):
        name = "elsewhere"

    for _ in range(2):
        offer(Elsewhere, RadConfig)
    assert isinstance(create("elsewhere", CONFIGS["rad"], SHAPE), Elsewhere)


def test_a_name_that_is_taken_is_refused() -> None:
    class Impostor(Rad):
        name = "headflow"

    before = dict(registry.DETECTORS)
    with pytest.raises(ValueError, match="headflow is the name of another"):
        offer(Impostor, RadConfig)
    assert before == registry.DETECTORS


def test_the_default_rad_has_the_papers_size() -> None:
    wide = create("rad", {}, type(SHAPE)(channels=(24, 40, 112), strides=(4, 8, 16), size=256))
    assert isinstance(wide, Rad)
    trainable = sum(p.numel() for p in wide.flow.parameters() if p.requires_grad)
    assert 12.5e6 < trainable < 13.5e6
    assert len(wide.flow.sequence) == 8
