"""Laws of the outer loop, on functions whose gradients are known, and on a headflow small enough for a second."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowgauge.adaptation.inner_loop import InnerLoop, Parameters, inner_loop
from flowgauge.adaptation.uncertainty import L2Rule
from flowgauge.domain.errors import SettingsError, SnapshotCorrupt
from flowgauge.meta import initialization as init_module
from flowgauge.meta.initialization import MetaInit, read, shipped, write
from flowgauge.meta.outer_loop import MetaState, MetaTraining, Order, meta_gradient, meta_train, parameters_of
from flowgauge.meta.tasks import MetaLine, draw_task
from flowgauge.models.backbones import BackboneSpec
from flowgauge.models.detector import length
from flowgauge.models.headflow.detector import HEAD, HeadFlow, HeadFlowConfig
from flowgauge.synthetic.procedural import MATERIALS
from flowgauge.training.fit import FitSettings, embedder_for
from tests.support.detectors import features, mask, small, training_set
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
    losses = [turn.head_loss for turn in again.turns]
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
    with pytest.raises(SettingsError, match="another headflow than this rad"):
        init().load_into(small("rad"))
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


def test_the_parameters_that_come_with_the_package_are_those_of_headflow() -> None:
    init = shipped()
    embedder = embedder_for(FitSettings(detector="headflow"), "cpu")
    init.require_backbone(embedder.backbone.spec)
    init.load_into(embedder.detector)
    assert isinstance(embedder.detector, HeadFlow)
    begun = parameters_of(embedder.detector)
    assert all(torch.equal(begun[n], value) for n, value in init.parameters.items() if n.startswith(HEAD))
    assert HeadFlowConfig.model_validate(init.card.config) == embedder.detector.config
    assert {line.split()[0] for line in init.card.lines} == set(MATERIALS), "learned on procedural lines alone"
    assert (Path(init_module.__file__).parent / init_module.FILE).stat().st_size < 10 * 2**20


def test_a_file_that_was_not_released_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init_module, "SHA256", "0" * 64)
    shipped.cache_clear()
    with pytest.raises(SnapshotCorrupt, match="Install flowgauge again"):
        shipped()
    shipped.cache_clear()
