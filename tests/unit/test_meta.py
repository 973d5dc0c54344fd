"""Laws of the outer loop, on functions whose gradients are known, and on detectors small enough for a second."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowgauge.adaptation.inner_loop import InnerLoop, Parameters, StepRule, inner_loop
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.domain.errors import SettingsError, SnapshotCorrupt, UserError
from flowgauge.meta import initialization as init_module
from flowgauge.meta.initialization import FEW_IMAGES, MetaInit, default_start, read, shipped, write
from flowgauge.meta.outer_loop import (
    MetaState,
    MetaTraining,
    Order,
    meta_gradient,
    meta_train,
    parameters_of,
    task_gradient,
)
from flowgauge.meta.tasks import MetaLine, draw_task
from flowgauge.models.backbones import BackboneSpec
from flowgauge.models.detector import TrainingSet, length
from flowgauge.models.featureflow.detector import FeatureFlow
from flowgauge.models.headflow.detector import HEAD, HeadFlow
from flowgauge.models.registry import create
from flowgauge.synthetic.procedural import MATERIALS
from flowgauge.training.fit import FitSettings, embedder_for
from tests.support.detectors import CONFIGS, SHAPE, features, mask, small, training_set
from tests.support.inits import init_of

STEPS = InnerLoop(alpha=0.05, steps=3, warm_up=3, l2=L2Rule(lowest=0.4, highest=0.4 + 1e-12))
QUICK = MetaTraining(
    turns=24,
    beta=5e-3,
    head=InnerLoop(alpha=0.05, steps=3, batch=8, warm_up=2),
    flow=InnerLoop(alpha=0.05, steps=3, warm_up=2),
    seed=1,
)


def numbers(seed: int) -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SUPPORT, QUERY = [numbers(seed) for seed in (1, 2, 3)], numbers(4)


def start() -> Parameters:
    return {"body": numbers(7)[:3], "head": numbers(8)[0]}


def loss(parameters: Parameters, batch: Tensor) -> Tensor:
    return (torch.tanh(batch @ parameters["body"]) @ parameters["head"] - batch.sum(dim=1)).square().mean()


class InTurn:
    """The support's batches one after the other, and always the same query."""

    def __init__(self) -> None:
        self._batches = cycle(SUPPORT)

    def train_batch(self) -> Tensor:
        return next(self._batches)

    def validation_batch(self) -> Tensor:
        return QUERY


def by_autograd(order: Order, moving: Sequence[str] = ("body", "head")) -> Parameters:
    """The same gradient by plain autograd, through the steps or around them."""
    init = {name: value.clone().requires_grad_() for name, value in start().items()}
    inner = [init[name] for name in moving]
    crops = [g.square().sum() for batch in SUPPORT for g in torch.autograd.grad(loss(init, batch), inner)]
    unit = (torch.stack(crops).sum() / len(SUPPORT)).sqrt().detach()
    moved = dict(init)
    for batch in SUPPORT:
        gradient = torch.autograd.grad(
            loss(moved, batch), [moved[name] for name in moving], create_graph=order is Order.SECOND
        )
        for name, g in zip(moving, gradient, strict=True):
            moved[name] = moved[name] - STEPS.alpha * (g / unit + 0.4 * (moved[name] - init[name]))
    by = init if order is Order.SECOND else moved
    return dict(zip(init, torch.autograd.grad(loss(moved, QUERY), list(by.values())), strict=True))


@pytest.mark.parametrize("head", [(), ("head",)])
@pytest.mark.parametrize("order", Order)
def test_the_gradient_goes_through_the_steps_or_around_them(order: Order, head: tuple[str, ...]) -> None:
    settings = STEPS.model_copy(update={"moving": head})
    gradient, value, adapted = meta_gradient(loss, start(), InTurn(), settings, order, what="both")
    wanted = by_autograd(order, head or ("body", "head"))
    assert all(torch.allclose(gradient[name], wanted[name], rtol=1e-9) for name in wanted)
    assert value == pytest.approx(float(loss(adapted, QUERY)), rel=1e-12)
    (other,) = (by_autograd(each, head or ("body", "head")) for each in Order if each is not order)
    assert not torch.allclose(gradient["body"], other["body"], rtol=1e-3), "the two orders differ here"


def test_what_is_no_head_moves_in_the_outer_loop_alone() -> None:
    settings = STEPS.model_copy(update={"moving": ("head",)})
    gradient, _, adapted = meta_gradient(loss, start(), InTurn(), settings, Order.FIRST, what="both")
    assert torch.equal(adapted["body"], start()["body"])
    assert not torch.equal(adapted["head"], start()["head"])
    assert all(value.abs().sum() > 0 for value in gradient.values())


def test_steps_do_not_depend_on_the_units_of_the_loss() -> None:
    plain, _ = inner_loop(start(), loss, InTurn(), STEPS, what="both")
    scaled, _ = inner_loop(start(), lambda parameters, batch: 1000 * loss(parameters, batch), InTurn(), STEPS, what="")
    assert all(torch.allclose(plain[name], scaled[name], rtol=1e-12) for name in plain)
    moved = torch.cat([(plain[name] - start()[name]).flatten() for name in plain]).norm()
    assert 0 < moved <= 3 * 3 * STEPS.alpha


def small_headflow() -> HeadFlow:
    detector = small("headflow")
    assert isinstance(detector, HeadFlow)
    return detector


@cache
def lines() -> tuple[MetaLine, ...]:
    detector = small_headflow()
    return tuple(
        MetaLine(
            name=f"line {number}",
            training_set=training_set(detector, 12),
            defects=detector.embed(features(6, seed=90 + number, defect=True)),
            mask=mask(6, detector),
        )
        for number in range(2)
    )


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 0), (0.2, 2), (0.5, 3)])
def test_a_task_tests_by_what_did_not_train(share: float, wrong: int) -> None:
    line = lines()[0]
    task = draw_task(line, (share,), np.random.default_rng(0))
    assert length(task.support.good) == 6 + wrong, "half of the defects at most"
    assert length(task.query.good) == 6
    assert length(task.query.synthetic) == 3
    rows = {tuple(row) for row in task.query.good["means"].tolist()}
    assert not rows & {tuple(row) for row in task.support.good["means"].tolist()}
    judged = {tuple(row) for row in task.query.synthetic["means"].tolist()}
    assert not judged & {tuple(row) for row in task.support.good["means"].tolist()}
    assert task.support.image.tolist()[-wrong or None :] == sorted(set(task.support.image.tolist()))[-wrong or None :]


def trained(state: MetaState | None = None, until: int | None = None) -> MetaState:
    """To the end, or to the end of turn `until`."""
    detector = small_headflow()
    state = state or MetaState(parameters_of(detector))
    try:
        meta_train(detector, lines(), QUICK, state, lambda now: _stop(len(now.turns) == until))
    except KeyboardInterrupt:
        assert until is not None
    return state


def _stop(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


whole = cache(trained)


def test_the_same_seed_learns_the_same_and_queries_lose_less() -> None:
    again = trained()
    assert all(torch.equal(whole().init[name], again.init[name]) for name in again.init)
    losses = [turn.head_loss for turn in again.turns if turn.head_loss is not None]
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])
    assert np.mean([turn.flow_loss for turn in again.turns[-6:]]) < np.mean(
        [turn.flow_loss for turn in again.turns[:6]]
    )


def test_an_interrupted_run_goes_on_to_the_same_end() -> None:
    part = trained(until=10)
    resumed = trained(MetaState(part.init, part.turns, part.moments))
    assert resumed.turns == whole().turns
    assert all(torch.equal(whole().init[name], resumed.init[name]) for name in resumed.init)


def test_the_detector_lends_its_modules_and_keeps_its_parameters() -> None:
    detector = small_headflow()
    before = parameters_of(detector)
    meta_train(detector, lines(), QUICK.model_copy(update={"turns": 2}), MetaState(before), lambda now: None)
    after = parameters_of(detector)
    assert all(torch.equal(before[name], after[name]) for name in before)


def small_featureflow() -> FeatureFlow:
    detector = small("featureflow")
    assert isinstance(detector, FeatureFlow)
    return detector


def long_tailed(images: int, seed: int) -> TrainingSet:
    """What no Gaussian fits, alike on all lines, so that there is something to learn from one for another."""
    detector = small_featureflow()
    good = detector.embed([x.pow(5) for x in features(images, seed)])
    return TrainingSet(good, torch.arange(images), {}, torch.arange(0), torch.zeros(0, *detector.grid))


MEMBERS = MetaTraining(
    turns=60,
    beta=5e-3,
    member=InnerLoop(rule=StepRule.ADAM, alpha=0.01, steps=4, batch=128, noise=0.05, warm_up=2),
    contamination=(0.0,),
    seed=1,
)


@cache
def learned_start() -> tuple[dict[str, Tensor], tuple[float, ...]]:
    """What a member starts at, and what the turns lost."""
    detector, defect = small_featureflow(), long_tailed(4, 50)
    given = [long_tailed(12, seed) for seed in range(3)]
    detector.measure_lines([line.good for line in given])
    tasks = [MetaLine(str(n), line, defect.good, mask(4, detector)) for n, line in enumerate(given)]
    state = MetaState(parameters_of(detector))
    meta_train(detector, tasks, MEMBERS, state, lambda now: None)
    assert all(turn.head_loss is None for turn in state.turns)
    return detector.initialization(state.init), tuple(turn.flow_loss for turn in state.turns)


def test_a_member_learns_a_start_from_which_queries_lose_less() -> None:
    _, losses = learned_start()
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.02


def test_a_gradient_through_adams_steps_is_finite_where_parameters_have_none() -> None:
    detector, line = small_featureflow(), long_tailed(12, 0)
    detector.measure_lines([line.good])
    task = draw_task(MetaLine("a", line, long_tailed(4, 50).good, mask(4, detector)), (0.0,), np.random.default_rng(0))
    by_order = {}
    for order in Order:
        settings = MEMBERS.model_copy(update={"order": order})
        by_order[order], _, _ = task_gradient(detector, task, settings, parameters_of(detector), seed=1)
        assert all(gradient.isfinite().all() for gradient in by_order[order].values())
    first, second = by_order.values()
    assert any(not torch.allclose(first[name], second[name], atol=1e-3) for name in first)


def test_a_run_that_diverges_stops_and_keeps_what_was_there_before() -> None:
    detector, line = small_featureflow(), long_tailed(12, 0)
    detector.measure_lines([line.good])
    tasks = [MetaLine("press", line, line.good, mask(12, detector))]
    wild = MEMBERS.model_copy(update={"member": MEMBERS.member.model_copy(update={"alpha": 1e30})})
    state = MetaState(parameters_of(detector))
    before = {name: value.clone() for name, value in state.init.items()}
    with pytest.raises(UserError, match="diverged: turn 1, on press"):
        meta_train(detector, tasks, wild, state, lambda now: None)
    assert not state.turns
    assert all(torch.equal(state.init[name], value) for name, value in before.items())


def test_the_default_detector_explains_a_new_line_better_from_there_in_as_many_steps() -> None:
    line, new = long_tailed(8, 20), long_tailed(8, 21)
    nll = []
    for initialized in (True, False):
        detector = create("featureflow", CONFIGS["featureflow"] | {"training": {"steps": 10}}, SHAPE)
        assert isinstance(detector, FeatureFlow)
        if initialized:
            init_of(learned_start()[0], detector="featureflow").load_into(detector)
        detector.learn(line, seed=0, progress=lambda what, done, total: None)
        nll.append(float(detector.patch_nll(new.good).mean()))
    assert nll[0] < nll[1] - 0.02


def test_a_member_starts_in_axes_of_other_lines_and_whitens_by_its_own_images() -> None:
    detector, line = small_featureflow(), long_tailed(8, 20)
    detector.load_init(learned_start()[0])
    before = [tensor.clone() for tensor in detector.member_flow(1).state_dict().values()]
    detector.align_member(1, line.good, torch.arange(8))
    assert all(torch.equal(a, b) for a, b in zip(before, detector.member_flow(1).state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, detector.member_flow(2).state_dict().values(), strict=True)), (
        "all members start at one flow, permutations included"
    )
    x_ND = detector.member_tokens(1, line.good).flatten(0, 1)
    assert x_ND.mean(dim=0).abs().max() < 1e-3
    assert torch.allclose(x_ND.var(dim=0), torch.ones(x_ND.shape[1]), atol=0.02)


def test_a_start_of_flows_of_another_shape_is_refused() -> None:
    parameters = learned_start()[0]
    for others in ({"dimensions": 4}, {"hidden": 8}):
        detector = create("featureflow", CONFIGS["featureflow"] | others, SHAPE)
        with pytest.raises(SettingsError, match="flows of another shape"):
            init_of(parameters, detector="featureflow").load_into(detector)
    with pytest.raises(SettingsError, match="for headflow, not for featureflow"):
        init().load_into(small_featureflow())


def init() -> MetaInit:
    return init_of(whole().init, backbone_sha256="ab")


def test_parameters_survive_the_file_and_a_detector_begins_there(tmp_path: Path) -> None:
    write(init(), tmp_path / "init.safetensors")
    found = read(tmp_path / "init.safetensors")
    assert found.card == init().card
    detector = small_headflow()
    found.load_into(detector)
    begun = parameters_of(detector)
    assert all(torch.equal(begun[n], value) for n, value in whole().init.items() if n.startswith(HEAD))
    assert begun.keys() == found.parameters.keys() == whole().init.keys()


def test_parameters_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="for headflow, not for rad"):
        init().load_into(small("rad"))
    with pytest.raises(SettingsError, match="for featureflow, not for headflow"):
        init_of(learned_start()[0], detector="featureflow").load_into(small_headflow())
    with pytest.raises(SettingsError, match="meta-train"):
        init().require_backbone(BackboneSpec(sha256="cd"))
    init().require_backbone(BackboneSpec(sha256="ab"))
    wide = replace(init(), parameters={**whole().init, "head.scale": torch.ones(3)})
    with pytest.raises(SettingsError, match="another"):
        wide.load_into(small_headflow())
    (tmp_path / "a.safetensors").write_bytes(b"something")
    for name in ("a.safetensors", "missing.safetensors"):
        with pytest.raises(SettingsError, match="holds no meta-learned parameters"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", init_module.RELEASED)
def test_parameters_come_with_the_package_and_fit_the_detector_as_it_is_by_default(name: str) -> None:
    init, embedder = shipped(name), embedder_for(FitSettings(detector=name), "cpu")
    assert embedder.detector.name == name
    init.require_backbone(embedder.backbone.spec)
    before = {key: tensor.clone() for key, tensor in embedder.detector.state_dict().items()}
    init.load_into(embedder.detector)
    assert any(not torch.equal(tensor, before[key]) for key, tensor in embedder.detector.state_dict().items())
    assert type(embedder.detector.config).model_validate(init.card.config) == embedder.detector.config
    assert {line.split()[0] for line in init.card.lines} == set(MATERIALS), "learned on procedural lines alone"


def test_the_detectors_whose_parameters_are_shipped_are_named_to_those_who_ask_for_another() -> None:
    with pytest.raises(SettingsError, match=r"rad come with the package.*one of: featureflow, headflow"):
        shipped("rad")


def test_a_file_that_was_not_released_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(init_module.RELEASED, "headflow", "0" * 64)
    shipped.cache_clear()
    with pytest.raises(SnapshotCorrupt, match="Install flowgauge again"):
        shipped("headflow")
    shipped.cache_clear()


def test_few_images_start_at_what_was_learned_where_features_and_flows_are_the_same() -> None:
    embedder = embedder_for(FitSettings(), "cpu")
    lite, shape = embedder.backbone.spec, embedder.backbone.shape(64)
    found = shipped("featureflow")
    assert default_start(embedder.detector, lite, FEW_IMAGES) is found
    assert default_start(embedder.detector, lite, FEW_IMAGES + 1) is None
    assert default_start(create("featureflow", {"members": 5, "top": 0.1}, shape), lite, 8) is found
    assert default_start(create("headflow", {}, shape), lite, 8) is None
    assert default_start(create("featureflow", {"blocks": 3}, shape), lite, 8) is None
    assert default_start(create("featureflow", {"clamp": 1.0}, shape), lite, 8) is None
    for other in ({"sha256": "0" * 64}, {"layers": (1, 2)}):
        assert default_start(embedder.detector, lite.model_copy(update=other), 8) is None
