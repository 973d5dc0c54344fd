"""Laws of the adaptation's parts, and one whole adaptation on a line whose light has changed."""

import math
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flowgauge.adaptation.adapt import AdaptSettings, LightCorrection, adapt
from flowgauge.adaptation.contract import AdaptationInput, AdaptationOutcome
from flowgauge.adaptation.gate import Change, GateSettings, Recent, check_candidate
from flowgauge.adaptation.inner_loop import (
    InnerLoop,
    StepRule,
    TrainingTokens,
    adapted,
    inner_loop,
    loss_of,
    parameters_of,
)
from flowgauge.adaptation.refine import MemberSettings, RefinementSettings
from flowgauge.adaptation.uncertainty import L2Rule, Uncertainty, Units
from flowgauge.domain.choices import Aspect
from flowgauge.domain.errors import UserError
from flowgauge.domain.ports import Buffered
from flowgauge.meta.outer_loop import Order, meta_gradient
from flowgauge.models.flows.coupling import CouplingFlow
from flowgauge.synthetic.procedural import Condition
from flowgauge.training.gauge import Gauge, score_by_each
from flowgauge.training.outliers import Rejection, suspect
from flowgauge.training.snapshot import load, save
from flowgauge.training.threshold_check import Shift
from flowgauge.training.thresholds import QuartileRule, Rule
from flowgauge.vision.decoding import Picture
from flowgauge.vision.preprocessing import Crop
from tests.support.gauges import AT, SIZE, defects, gauge, goods

DRIFTED = Condition(gain=0.8, contrast=0.85)
CHANGED = Change(Shift(position=1.0, moved=True, alarms=1.0, most_alarms=0.2), by_person=False)
DIMMED, BLURRED = Condition(gain=0.5, noise=0.5), Condition(blur=2.0)
FEW_STEPS = AdaptSettings(
    light=LightCorrection.ALWAYS,
    refinement=RefinementSettings(
        inner_loop=InnerLoop(steps=4),
        members=MemberSettings(inner_loop=MemberSettings().inner_loop.model_copy(update={"steps": 10})),
    ),
)
"""Where it does not matter how much a candidate has learned."""


@pytest.fixture
def flow() -> CouplingFlow:
    flow = CouplingFlow(6, blocks=3, hidden=10, clamp=1.2, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return flow


def _tokens(rows: int, seed: int, shift: float = 0) -> torch.Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_first_order_maml_gradients_equal_those_of_a_plain_deep_copy(flow: CouplingFlow) -> None:
    support, query = _tokens(50, 1, 1.0), _tokens(50, 2, 1.0)
    loop = InnerLoop(alpha=0.03, steps=3, l2=L2Rule(lowest=0, highest=1e-12))
    draw = _All(TrainingTokens(support, query))
    functional, value, _ = meta_gradient(loss_of(flow), parameters_of(flow), draw, loop, Order.FIRST, what="flow")

    copy = deepcopy(flow)
    moving = [p for p in copy.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(copy.nll(support).mean(), moving)
    optimiser = torch.optim.SGD(moving, lr=loop.alpha / float(torch.cat([g.flatten() for g in gradient]).norm()))
    for _ in range(loop.steps):
        optimiser.zero_grad()
        copy.nll(support).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    optimiser.zero_grad()
    loss = copy.nll(query).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    plain = {name: p.grad for name, p in copy.named_parameters() if p.requires_grad}
    assert functional.keys() == plain.keys()
    for name, wanted in plain.items():
        torch.testing.assert_close(functional[name], wanted, rtol=1e-9, atol=1e-12)
    assert value == pytest.approx(float(loss.detach()), rel=1e-12)


LOOPS = {"gradient": InnerLoop(batch=128), "adam": InnerLoop(rule=StepRule.ADAM, alpha=1e-2, batch=128, noise=0.05)}


@pytest.mark.parametrize("rule", LOOPS)
def test_the_inner_loop_lowers_the_loss_and_leaves_the_anchor_alone(flow: CouplingFlow, rule: str) -> None:
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    training = TrainingTokens(_tokens(400, 1, 1.5), _tokens(200, 2, 1.5))
    _, steps = adapted(flow, training, LOOPS[rule], seed=0)
    assert steps[-1].validation_loss < steps[0].validation_loss - 0.1
    assert all(torch.equal(tensor, before[name]) for name, tensor in flow.state_dict().items())
    assert all(p.grad is None for p in flow.parameters())


class _Scaled(CouplingFlow):
    """The same flow whose loss is allowed in other units."""

    factor: float = 1.0

    def nll_of(self, z_ND: torch.Tensor, log_det_N: torch.Tensor) -> torch.Tensor:
        return self.factor * super().nll_of(z_ND, log_det_N)


@pytest.mark.parametrize("rule", LOOPS)
def test_another_unit_of_the_loss_changes_no_parameter(flow: CouplingFlow, rule: str) -> None:
    training = TrainingTokens(_tokens(400, 1, 1.5), _tokens(200, 2, 1.5))
    results = []
    for factor in (1.0, 1000.0):
        scaled = _Scaled(6, blocks=3, hidden=10, clamp=1.2, seed=0).double()
        scaled.load_state_dict(flow.state_dict())
        scaled.factor = factor
        results.append(adapted(scaled, training, LOOPS[rule], seed=0))
    (small, small_steps), (large, large_steps) = results
    for name in small:
        torch.testing.assert_close(small[name], large[name], rtol=1e-6, atol=1e-9)
    assert [s.l2 for s in small_steps] == pytest.approx([s.l2 for s in large_steps], rel=1e-6)


@pytest.mark.parametrize("rule", LOOPS)
def test_a_stronger_penalty_stays_closer_to_the_anchor(flow: CouplingFlow, rule: str) -> None:
    training = TrainingTokens(_tokens(400, 1, 1.5), _tokens(200, 2, 1.5))
    distances = []
    for l2 in (0.0, 10.0):
        pulled = LOOPS[rule].model_copy(update={"l2": L2Rule(lowest=l2, highest=l2 + 1e-9)})
        parameters, _ = adapted(flow, training, pulled, seed=0)
        anchor = parameters_of(flow)
        distances.append(sum(float((parameters[name] - anchor[name]).square().sum()) for name in anchor))
    assert distances[1] < 0.3 * distances[0]


def test_adams_steps_are_those_of_torch(flow: CouplingFlow) -> None:
    loop = InnerLoop(rule=StepRule.ADAM, alpha=1e-2, steps=10, batch=64, l2=L2Rule(lowest=0, highest=1e-12))
    tokens = _tokens(64, 1, 1.5)
    whole = TrainingTokens(tokens, tokens)
    found, _ = inner_loop(parameters_of(flow), loss_of(flow), _All(whole), loop, what="flow")
    plain = deepcopy(flow)
    gradient = torch.autograd.grad(plain.nll(tokens).mean(), [p for p in plain.parameters() if p.requires_grad])
    unit = float(torch.cat([g.flatten() for g in gradient]).norm())
    optimiser = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=1e-2, eps=1e-8 * unit)
    for number in range(10):
        done = (number + 1) / 10
        peak = done / 0.3 if done < 0.3 else 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
        optimiser.param_groups[0]["lr"] = 1e-2 * peak
        optimiser.zero_grad()
        plain.nll(tokens).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-6, atol=1e-9)


class _All:
    """Every batch is all tokens."""

    def __init__(self, training: TrainingTokens) -> None:
        self._training_tokens = training

    def train_batch(self) -> torch.Tensor:
        return self._training_tokens.train

    def validation_batch(self) -> torch.Tensor:
        return self._training_tokens.validation


def test_lambda_grows_with_the_determinant_between_its_bounds() -> None:
    rule = L2Rule(lowest=0.1, highest=2)
    values = [rule.l2(determinant) for determinant in (0, 0.1, 1, 10, 1e9)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.1)
    assert values[2] == pytest.approx((0.1 + 2) / 2)
    assert values[-1] == pytest.approx(2)


def test_the_determinant_is_that_of_the_windows_covariance() -> None:
    losses = np.random.default_rng(0).normal(5, 2, (12, 2))
    units = Units(mean=np.array([5.0, 5.0]), deviation=np.array([2.0, 2.0]))
    uncertainty = Uncertainty(units, window=6)
    seen = [uncertainty.observe(train, validation) for train, validation in losses]
    assert seen[:2] == [0, 0]
    assert seen[-1] == pytest.approx(float(np.linalg.det(np.cov((losses[-6:] - 5) / 2, rowvar=False))))


def test_losses_that_scatter_more_are_more_uncertain() -> None:
    rng = np.random.default_rng(0)
    units = Units(mean=np.zeros(2), deviation=np.ones(2))
    determinants = []
    for spread in (0.1, 1.0):
        uncertainty = Uncertainty(units, window=8)
        determinants.append([uncertainty.observe(*(spread * rng.normal(size=2))) for _ in range(8)][-1])
    assert determinants[0] < determinants[1]


def _scores() -> NDArray[np.float64]:
    """Forty images, the first six of which stand out."""
    scores = np.random.default_rng(0).normal(size=40)
    scores[:6] += 12
    return scores


def test_images_that_stand_out_are_suspects() -> None:
    suspicion = suspect(_scores(), Rejection(), default_k=8)
    assert np.flatnonzero(~suspicion.kept).tolist() == [0, 1, 2, 3, 4, 5]


def test_without_rejection_everything_trains() -> None:
    assert suspect(_scores(), Rejection(images=False), default_k=8).kept.all()


@pytest.mark.parametrize("rule", [Rule.IQR, Rule.ONE_SIDED])
def test_both_rules_reject_images(rule: QuartileRule) -> None:
    suspicion = suspect(_scores(), Rejection(rule=rule, k=6), default_k=1)
    assert not suspicion.kept[:6].any()


def _buffered(pictures: list[Picture], anchor: Gauge) -> list[tuple[Buffered, Crop]]:
    return [
        (
            Buffered(f"image-{i}", f"uri-{i}", picture.sha256, AT + timedelta(seconds=i), None, "pass", ""),
            anchor.crop(picture),
        )
        for i, picture in enumerate(pictures)
    ]


def _dirty_buffer() -> list[Picture]:
    """A tenth defects, spread over the buffer."""
    pictures = goods(range(100, 145), DRIFTED)
    for index, picture in zip((3, 12, 21, 30, 42), defects(range(200, 205), DRIFTED), strict=True):
        pictures.insert(index, picture)
    return pictures


DEFECTIVE = {"image-3", "image-12", "image-21", "image-30", "image-42"}


def _given(detector: str = "featureflow") -> AdaptationInput:
    return AdaptationInput(
        line="press-3",
        version="adapted-1",
        at=AT,
        anchor=gauge(detector),
        parent=gauge(detector),
        buffered=_buffered(_dirty_buffer(), gauge(detector)),
        golden_good=[gauge(detector).crop(picture) for picture in goods(range(300, 304))],
        golden_defect=[gauge(detector).crop(picture) for picture in defects(range(300, 306), DRIFTED)],
        seed=7,
        by_person=False,
        progress=lambda what, share: None,
    )


@cache
def _outcome(detector: str = "featureflow") -> AdaptationOutcome:
    in_full = AdaptSettings(light=LightCorrection.ALWAYS)
    return adapt(_given(detector), FEW_STEPS if detector in {"rad", "csflow"} else in_full)


@pytest.fixture(params=["featureflow", "headflow", "rad", "csflow"])
def outcome(request: pytest.FixtureRequest) -> Iterator[AdaptationOutcome]:
    before = save(gauge(str(request.param)))
    yield _outcome(str(request.param))
    assert save(gauge(str(request.param))) == before, "the anchor was touched"


def test_a_candidate_is_a_gauge_with_its_history(outcome: AdaptationOutcome) -> None:
    facts = load(outcome.manifest, outcome.weights).manifest
    assert (facts.version, facts.anchor, facts.parent) == ("adapted-1", facts.parent, facts.anchor)
    assert facts.adaptation == outcome.trace
    assert facts.gate == outcome.gate
    assert facts.backbone == gauge().manifest.backbone


def _changed(detector: str) -> set[str]:
    """The names of the tensors that the adaptation changed."""
    anchor, outcome = gauge(detector).detector.state_dict(), _outcome(detector)
    candidate = load(outcome.manifest, outcome.weights).detector.state_dict()
    return {name for name, tensor in candidate.items() if not torch.equal(tensor, anchor[name])}


def test_an_adapted_featureflow_realigns_its_whitening_and_measures_its_scales_anew() -> None:
    changed = _changed("featureflow")
    flows = {name for name in changed if name.startswith("flow.")}
    assert {name.split(".")[2] for name in flows} == {str(flow) for flow in range(6)}, "all members adapt"
    whitening = {name for name in changed if name.startswith("whiten.")}
    assert len(whitening) == 2 * 6
    assert changed - flows - whitening == {"location", "scale", "centre", "spread"}


def test_only_heads_flow_and_what_stands_in_statistics_change() -> None:
    changed = _changed("headflow")
    learned = {name for name in changed if name.startswith(("flow.", "members.0.head."))}
    assert {name.partition(".")[0] for name in learned} == {"flow", "members"}
    assert not {name for name in learned if ".standardise." in name}
    assert changed - learned == {"members.0.pooled.centre", "members.0.centre", "members.0.spread"}


@pytest.mark.parametrize("detector", ["featureflow", "headflow"])
def test_drifted_good_parts_come_to_lie_deeper_below_the_threshold(detector: str) -> None:
    fresh = goods(range(400, 416), DRIFTED)
    anchor, outcome = gauge(detector), _outcome(detector)
    candidate = load(outcome.manifest, outcome.weights)
    before = np.mean([j.score - anchor.manifest.threshold.value for j in anchor.predict(fresh)])
    after = np.mean([j.score - candidate.manifest.threshold.value for j in candidate.predict(fresh)])
    assert after < before


def test_defects_still_stand_out_after_the_adaptation() -> None:
    candidate = load(_outcome().manifest, _outcome().weights)
    good = [j.score for j in candidate.predict(goods(range(400, 416), DRIFTED))]
    bad = [j.score for j in candidate.predict(defects(range(400, 416), DRIFTED))]
    assert sum(b > g for b in bad for g in good) / 256 > 0.75


def test_where_the_light_alone_has_changed_it_is_corrected_and_nothing_else_adapted() -> None:
    anchor, buffered = gauge(), _buffered(goods(range(100, 150), DIMMED), gauge())
    outcome = adapt(replace(_given(), buffered=buffered, golden_good=(), golden_defect=()))
    candidate = load(outcome.manifest, outcome.weights)
    facts, fresh = candidate.manifest, goods(range(400, 416), DIMMED)
    assert (outcome.trace.light_alone, outcome.trace.steps) == (True, ())
    assert outcome.accepted, outcome.gate.refusals
    assert facts.threshold == anchor.manifest.threshold
    (probes,) = score_by_each([candidate], candidate.probes)
    assert probes.max() < facts.threshold.value, "the images that show what an engine rounds are of the changed line"
    kept = candidate.detector.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in anchor.detector.state_dict().items())
    as_fitted, dimmed, corrected = (
        np.median([p.score for p in each.predict(pictures)])
        for each, pictures in ((anchor, goods(range(400, 416))), (anchor, fresh), (candidate, fresh))
    )
    assert abs(corrected - as_fitted) < 0.2 * (dimmed - as_fitted)
    first_light = goods(range(400, 416))
    back, before = (each.predict(first_light) for each in (candidate, anchor))
    assert [(p.score, p.decision) for p in back] == [(p.score, p.decision) for p in before], "the light has come back"


def test_of_a_large_buffer_a_sample_decides_and_every_image_is_scored_that_may_train() -> None:
    pictures = goods(range(100, 240), DIMMED)
    numbers = range(3, 140, 17)
    for number, picture in zip(numbers, defects(range(200, 200 + len(numbers)), DIMMED), strict=True):
        pictures[number] = picture
    buffered = _buffered(pictures, gauge())
    outcome = adapt(replace(_given(), buffered=buffered, golden_good=(), golden_defect=()))
    assert outcome.trace.light_alone
    scores = load(outcome.manifest, outcome.weights).predict(pictures)
    limit = outcome.trace.rounds[0].threshold
    above = {entry.image_id for (entry, _), found in zip(buffered, scores, strict=True) if found.score > limit}
    rejected = set(outcome.trace.rounds[0].rejected)
    assert rejected <= above, "each is rejected for its own score"
    assert len(rejected & {f"image-{number}" for number in numbers}) >= 5


def test_what_is_no_change_of_the_light_is_adapted_to() -> None:
    buffered = _buffered(goods(range(100, 150), BLURRED), gauge())
    trace = adapt(replace(_given(), buffered=buffered), FEW_STEPS.model_copy(update={"light": LightCorrection.FIRST}))
    assert not trace.trace.light_alone
    assert trace.trace.steps


def test_gauges_behind_different_corrections_score_one_picture_together_as_each_does_alone() -> None:
    anchor, outcome = gauge(), adapt(_given())
    both = [anchor, load(outcome.manifest, outcome.weights)]
    pictures = goods(range(400, 403), DRIFTED)
    together = anchor.predict_each([(each, picture) for picture in pictures for each in both])
    alone = [each.predict([picture])[0] for picture in pictures for each in both]
    assert [p.score for p in together] == pytest.approx([p.score for p in alone], rel=1e-4)


def test_the_trace_tells_losses_uncertainty_and_rejections(outcome: AdaptationOutcome) -> None:
    trace = outcome.trace
    assert trace.buffered == 50
    assert trace.trained == trace.rounds[-1].kept
    assert trace.rounds[-1].kept + len(trace.rounds[-1].rejected) == 40
    assert all(step.l2 > 0 and step.det_covariance >= 0 for step in trace.steps)
    assert {step.round for step in trace.steps} >= {1}


def test_defects_are_rejected_more_often_than_good_parts() -> None:
    rejected = set(_outcome().trace.rounds[-1].rejected)
    of_defects = len(rejected & DEFECTIVE) / 4  # at least one of the five is the gate's
    of_goods = len(rejected - DEFECTIVE) / 36
    assert of_defects > of_goods


def test_every_step_of_an_adaptation_shows_that_it_gets_on() -> None:
    given, shown = _given(), list[tuple[str, float]]()
    made = adapt(replace(given, progress=lambda what, share: shown.append((what, share))), FEW_STEPS)
    counts = Counter(what for what, _ in shown)
    steps = Counter(f"adapting the flow, {number} of 2" for number in (1, 2) for _ in range(len(made.trace.steps) // 2))
    assert steps.total() == len(made.trace.steps) > 0
    assert {what: count for what, count in counts.items() if what.startswith("adapting")} == steps
    last = max(number for number, (what, _) in enumerate(shown) if what.startswith("adapting"))
    before, after = (sum(each == ("scoring images", 0.0) for each in part) for part in (shown[:last], shown[last:]))
    assert before == 2, "the buffer by the anchor, as it is and corrected"
    assert after >= 4, "the gate: what was held back, its synthetic copies, and both halves of the golden set"
    assert all(0 <= share <= 1 for _, share in shown)


def test_the_same_request_makes_the_same_candidate() -> None:
    first, again = adapt(_given(), FEW_STEPS), adapt(_given(), FEW_STEPS)
    assert (again.manifest, again.weights) == (first.manifest, first.weights)


def test_a_candidate_comes_from_anchor_and_buffer_whatever_is_in_use() -> None:
    """So what twenty adaptations in a row forget is what one forgets."""
    adapted_before = load(_outcome().manifest, _outcome().weights)
    one, other = (adapt(replace(_given(), parent=parent), FEW_STEPS) for parent in (gauge(), adapted_before))
    assert one.weights == other.weights


def test_an_adapted_gauge_keeps_the_promise_that_a_person_set_since_the_fit() -> None:
    fitted = gauge().manifest.threshold
    promises = []
    for limit in (fitted, fitted.repromised(0.2), fitted.placed_at(fitted.at(0.1)), fitted.moved_to(fitted.value + 1)):
        facts = gauge().manifest.model_copy(update={"version": "threshold-1", "threshold": limit})
        parent = Gauge(facts, gauge().backbone, gauge().detector, gauge().probes)
        made = adapt(replace(_given(), parent=parent), FEW_STEPS)
        adapted = load(made.manifest, made.weights).manifest.threshold
        assert adapted.promised == limit.promised
        promises.append((adapted.promised, adapted.value))
    assert promises[0] == promises[3], "a threshold that followed the line keeps the fit's promise"
    assert promises[1][1] < promises[2][1] < promises[0][1], "what promises more false alarms lies lower"


def test_the_gate_answers_every_question(outcome: AdaptationOutcome) -> None:
    names = [check.name for check in outcome.gate.checks]
    assert names == [
        "change of the line",
        "correction of the light",
        "finite losses and scores",
        "sensitivity to synthetic anomalies",
        "alarms on recent images",
        "share of the buffer rejected",
        "shift of recent scores",
        "golden set's defects caught",
        "alarms on the golden set's good images",
    ]
    assert outcome.gate.checks[-1].limit is None


@pytest.mark.parametrize(
    ("strict", "name"),
    [
        ({"most_rejected": 0.0}, "share of the buffer rejected"),
        ({"most_shift": 1e-9}, "shift of recent scores"),
    ],
)
def test_a_candidate_that_fails_a_check_is_refused_with_the_reason(strict: dict[str, float], name: str) -> None:
    outcome = adapt(_given(), FEW_STEPS.model_copy(update={"gate": GateSettings(**strict)}))
    failed = [check.name for check in outcome.gate.checks if not check.passed]
    assert name in failed
    assert not outcome.accepted
    assert len(outcome.gate.refusals) == len(failed)


def test_a_line_that_has_not_changed_is_adapted_only_for_a_person() -> None:
    """A tenth of its buffer is defective, as of the buffer that has drifted."""
    pictures = goods(range(100, 145))
    pictures[3::10] = defects(range(203, 208))
    unchanged = replace(_given(), buffered=_buffered(pictures, gauge()))
    unasked, asked = (adapt(replace(unchanged, by_person=by_person), FEW_STEPS).gate for by_person in (False, True))
    (refused,), (allowed,) = ([c for c in gate.checks if c.name == "change of the line"] for gate in (unasked, asked))
    assert (refused.passed, unasked.accepted) == (False, False)
    assert "scores the line as before" in refused.message
    assert (allowed.passed, allowed.limit, allowed.value) == (True, None, refused.value)
    assert _outcome().gate.checks[0].passed, "of the line that has drifted"


def test_a_candidate_that_accepts_everything_is_refused() -> None:
    """What a poisoned buffer would do: a threshold above every defect."""
    anchor = gauge()
    blunt = deepcopy(anchor)
    limit = anchor.manifest.threshold.model_copy(update={"value": 1e6, "low": 1e6, "high": 1e6})
    blunt.manifest = anchor.manifest.model_copy(update={"threshold": limit})
    recent = Recent(blunt, anchor, anchor.manifest.preprocessing.crops(goods(range(500, 512))), seed=0, copies=2)
    shown = [anchor.crop(picture) for picture in defects(range(500, 506))]
    report = check_candidate(recent, _outcome().trace, CHANGED, [], shown, GateSettings())
    failed = {check.name for check in report.checks if not check.passed}
    assert failed >= {"sensitivity to synthetic anomalies", "golden set's defects caught"}


def test_a_buffer_too_small_to_split_is_refused() -> None:
    with pytest.raises(UserError, match="too few"):
        adapt(replace(_given(), buffered=_buffered(goods(range(100, 104)), gauge())))


def test_images_without_an_object_neither_train_nor_test() -> None:
    anchor = deepcopy(gauge())
    embedding = {"aspect": Aspect.MASKED_CROP, "window": SIZE}
    anchor.manifest = anchor.manifest.model_copy(
        update={"preprocessing": anchor.manifest.preprocessing.model_copy(update=embedding)}
    )
    whole = np.ones((SIZE, SIZE), dtype=bool)
    pictures = [picture.cut_out(whole & (i % 4 != 0)) for i, picture in enumerate(_dirty_buffer())]
    given = replace(_given(), anchor=anchor, parent=anchor, buffered=_buffered(pictures, anchor))
    shown = replace(given, buffered=[item for i, item in enumerate(given.buffered) if i % 4 != 0])
    outcome, of_shown = adapt(given, FEW_STEPS), adapt(shown, FEW_STEPS)
    assert outcome.weights == of_shown.weights
    assert outcome.gate.checks == of_shown.gate.checks
