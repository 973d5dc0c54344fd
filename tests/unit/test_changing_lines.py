"""The benchmarks of adaptation: a line that is followed while it changes, and one that is poisoned."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import count

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flowgauge.adaptation import adapt as adaptation
from flowgauge.adaptation.adapt import AdaptSettings
from flowgauge.adaptation.contract import Adapt, AdaptationInput, AdaptationOutcome
from flowgauge.adaptation.refine import MemberSettings, RefinementSettings
from flowgauge.domain.trace import Check, GateReport
from flowgauge.evaluation.ablations import ADAPTATIONS, Ablation
from flowgauge.evaluation.drift import (
    BUFFERED,
    CONTAMINATION,
    ChangingLine,
    DriftPhase,
    DriftReplay,
    ObservedImage,
    PoisonedRun,
    PoisoningOutcome,
    Reading,
    Way,
    poisoned,
    summaries,
)
from flowgauge.synthetic.procedural import NOMINAL, Change, Condition, ProceduralLine
from flowgauge.training.fit import fit
from flowgauge.training.gauge import Gauge, score_by_each
from flowgauge.training.snapshot import load
from flowgauge.training.thresholds import Rule
from flowgauge.vision.decoding import Picture
from tests.support.gauges import AT, SIZE, defects, gauge, goods, settings

DRIFTED = Condition(gain=0.7, contrast=0.8)

_LOOP = MemberSettings().inner_loop.model_copy(update={"steps": 10})
_SETTINGS = AdaptSettings(refinement=RefinementSettings(members=MemberSettings(inner_loop=_LOOP)))
adapt: Adapt = partial(adaptation.adapt, settings=_SETTINGS)
"""In few steps: what is read of a candidate matters here, and not how much it learned."""


def scores(gauges: Sequence[Gauge], pictures: Sequence[Picture]) -> list[NDArray[np.float64]]:
    return score_by_each(gauges, gauges[0].manifest.preprocessing.crops(pictures))


def refitted(pictures: Sequence[Picture], parts: Sequence[str], seed: int) -> Gauge:
    chosen = settings().model_copy(update={"refine": 1})
    return fit(pictures, line="press-3", settings=chosen, at=AT, groups=parts, seed=seed)


def deciding(accepted: bool) -> Adapt:
    """Adapts, and lets the gate say what is asked for."""

    def adapted(given: AdaptationInput) -> AdaptationOutcome:
        outcome = adapt(given)
        no = Check(name="a whim", value=1, limit=0, passed=accepted, message="it is not liked")
        return replace(outcome, gate=GateReport(accepted=accepted, checks=(no,)))

    return adapted


def replay(adapts: Adapt = adapt) -> DriftReplay:
    ticks = count()
    return DriftReplay(adapts, refitted, lambda: float(next(ticks)), AT, seed=5)


def sightings(pictures: list[Picture]) -> list[ObservedImage]:
    return [ObservedImage(f"image-{number}", f"part-{number // 2}", picture) for number, picture in enumerate(pictures)]


@cache
def phase(condition: Condition, first: int) -> DriftPhase:
    pictures = goods(range(first, first + 28), condition)
    for rank in (3, 11, 19, 26):
        pictures[rank] = defects(range(first + rank, first + rank + 1), condition)[0]
    return DriftPhase(
        name=f"gain {condition.gain:g}",
        buffer=sightings(pictures),
        test_good=goods(range(first + 40, first + 52), condition),
        test_defect=defects(range(first + 40, first + 52), condition),
    )


@cache
def readings() -> tuple[Reading, ...]:
    return tuple(replay(deciding(True)).follow(gauge(), [phase(DRIFTED, 2000)]))


def figures(reading: Reading) -> tuple[float, float, float | None]:
    return reading.false_alarms, reading.misses, reading.image_auroc


def test_a_phase_is_read_in_every_way() -> None:
    assert [(reading.phase, reading.way) for reading in readings()] == [("gain 0.7", way) for way in Way]
    assert all(0 <= r.false_alarms <= 1 and 0 <= r.misses <= 1 for r in readings())


def test_only_what_was_made_took_time_and_only_candidates_met_the_gate() -> None:
    made = {Way.ADAPTED, Way.REFITTED}
    assert all((reading.seconds == 1.0) == (reading.way in made) for reading in readings())
    assert all((reading.refusals is not None) == (reading.way is Way.ADAPTED) for reading in readings())


def test_the_frozen_reading_is_the_first_gauges() -> None:
    limit, shown = gauge().manifest.threshold.value, phase(DRIFTED, 2000)
    frozen = readings()[0]
    assert frozen.false_alarms == pytest.approx(float((scores([gauge()], shown.test_good)[0] > limit).mean()))
    assert frozen.misses == pytest.approx(float((scores([gauge()], shown.test_defect)[0] <= limit).mean()))


def test_every_gauge_is_tested_on_the_images_of_the_first_phase_too() -> None:
    first, last = phase(NOMINAL, 3000), phase(DRIFTED, 2000)
    found = list(replace(replay(deciding(True)), refit=None).follow(gauge(), [first, last]))
    assert [figures(r) for r in found[:3]] == [(r.first_false_alarms, r.misses, r.first_image_auroc) for r in found[:3]]
    frozen, candidate, in_use = found[3:]
    assert frozen.first_image_auroc == found[0].image_auroc
    assert frozen.first_false_alarms == found[0].false_alarms
    assert candidate.first_image_auroc == in_use.first_image_auroc
    outcome = replay().adapted(gauge(), gauge(), last.buffer, 2)
    again = load(outcome.manifest, outcome.weights)
    good, bad = (scores([again], images)[0] for images in (first.test_good, first.test_defect))
    assert candidate.first_image_auroc == pytest.approx(float((bad[:, None] > good).mean()), abs=1e-6)


def test_only_what_was_adapted_has_a_variant() -> None:
    adapted = {Way.ADAPTED, Way.IN_USE}
    assert all((reading.variant is Ablation.FULL) == (reading.way in adapted) for reading in readings())


def test_what_was_read_before_is_not_read_again() -> None:
    again = replace(replay(deciding(True)), frozen=False, refit=None)
    assert [reading.way for reading in again.follow(gauge(), [phase(DRIFTED, 2000)])] == [Way.ADAPTED, Way.IN_USE]


def test_in_use_is_what_the_gate_let_through() -> None:
    frozen, candidate, in_use, _ = readings()
    assert figures(in_use) == figures(candidate)
    assert candidate.refusals == ()
    refusing = replace(replay(deciding(False)), refit=None)
    frozen, candidate, in_use = refusing.follow(gauge(), [phase(DRIFTED, 2000)])
    assert figures(in_use) == figures(frozen) != figures(candidate)
    assert candidate.refusals == ("it is not liked",)


def reading(seed: int, alarms: float, refusals: tuple[str, ...] | None, variant: Ablation = Ablation.FULL) -> Reading:
    return Reading(
        seed=seed,
        phase="late",
        way=Way.ADAPTED,
        variant=variant,
        false_alarms=alarms,
        misses=0.5,
        image_auroc=None,
        first_false_alarms=0.0,
        first_image_auroc=None,
        seconds=2.0,
        refusals=refusals,
    )


def test_summaries_are_means_over_seeds_and_count_refusals() -> None:
    (found,) = summaries([reading(0, 0.1, ("too blunt",)), reading(1, 0.3, ())])
    assert (found.seeds, found.misses, found.refused) == ((0, 1), 0.5, 1)
    assert found.false_alarms == pytest.approx(0.2)
    assert found.false_alarms_std == pytest.approx(0.02**0.5)
    assert found.image_auroc is None
    assert summaries([reading(0, 0.1, ())])[0].false_alarms_std is None


def test_variants_have_summaries_of_their_own() -> None:
    both = [reading(seed, 0.1 * seed, (), variant) for seed in (1, 2) for variant in (Ablation.REPLAY, Ablation.IQR)]
    assert [(s.variant, s.seeds) for s in summaries(both)] == [(Ablation.REPLAY, (1, 2)), (Ablation.IQR, (1, 2))]


def changing(recurring: bool = False) -> ChangingLine:
    return ChangingLine(ProceduralLine("brushed-metal", seed=1, size=SIZE), Change.CONTRAST, recurring)


def test_a_fifth_of_a_buffer_is_defective_and_no_part_is_shown_twice() -> None:
    phases = list(changing().phases())
    assert [p.name for p in phases] == ["contrast 0", "contrast 0.35", "contrast 0.7", "contrast 1"]
    shown = [observed.part for p in phases for observed in p.buffer]
    assert len(set(shown)) == len(shown) == len(phases) * BUFFERED
    line, first = changing().line, int(phases[0].buffer[0].image_id)
    good = {digest(line.good(first + number).pixels) for number in range(BUFFERED)}
    untouched = sum(digest(observed.picture.pixels) in good for observed in phases[0].buffer)
    assert untouched == round((1 - CONTAMINATION) * BUFFERED)


def digest(pixels: np.ndarray) -> bytes:
    return pixels.tobytes()


def test_a_recurring_defect_is_one_mark_in_one_patch() -> None:
    line = changing().line
    masks = [mask for index in (1, 2, 3) if (mask := line.marked(index, "scratch").mask) is not None]
    assert len(masks) == 3
    assert masks[0].any()
    assert all(np.array_equal(masks[0], mask) for mask in masks[1:])
    with pytest.raises(ValueError, match="no defect"):
        line.marked(1, "dent of a kind that there is not")


@pytest.mark.parametrize("change", list(Change))
def test_a_change_grows_from_nominal(change: Change) -> None:
    assert Condition.changed(change, 0) == NOMINAL
    line = ProceduralLine("brushed-metal", seed=1, size=SIZE)
    plain, little, much = (
        line.good(3, Condition.changed(change, amount)).pixels.astype(float) for amount in (0, 0.5, 1)
    )
    assert 0 < np.abs(little - plain).mean() < np.abs(much - plain).mean()
    with pytest.raises(ValueError, match="between 0"):
        Condition.changed(change, 1.1)


def test_poisoned_shares_rise_to_the_highest() -> None:
    runs = list(changing().poisoned_runs(3, 0.4))
    assert [poisoned_run.share for poisoned_run in runs] == pytest.approx([0, 0.2, 0.4])


@cache
def aftermaths() -> tuple[PoisoningOutcome, ...]:
    runs = [replace(poisoned_run, buffer=poisoned_run.buffer[:40]) for poisoned_run in changing().poisoned_runs(2, 0.3)]
    return tuple(poisoned(replay(), gauge(), runs))


def test_poisoning_is_reported_beside_the_first_gauge() -> None:
    assert [after.round for after in aftermaths()] == [1, 2]
    assert [after.share for after in aftermaths()] == pytest.approx([0, 0.3])
    poisoned_run: PoisonedRun = list(changing().poisoned_runs(2, 0.3))[1]
    limit = gauge().manifest.threshold.value
    assert aftermaths()[1].first_caught == pytest.approx(
        float((scores([gauge()], poisoned_run.poisoned)[0] > limit).mean())
    )


def test_a_refused_candidate_leaves_the_gauge_in_use() -> None:
    poisoned_run = next(iter(changing().poisoned_runs(2, 0.3)))
    (after,) = poisoned(replay(deciding(False)), gauge(), [replace(poisoned_run, buffer=poisoned_run.buffer[:40])])
    assert (after.caught, after.others_caught) == (after.first_caught, after.first_others_caught)
    assert after.refusals == ("it is not liked",)


@pytest.mark.parametrize("ablation", list(ADAPTATIONS))
def test_every_ingredient_can_be_left_out(ablation: Ablation) -> None:
    settings = ADAPTATIONS[ablation].refinement
    assert (settings.head_adaptation is None) == (ablation is Ablation.NO_HEAD)
    assert settings.rejection.images == (ablation is not Ablation.NO_REJECTION)
    assert (settings.rejection.rule is Rule.IQR) == (ablation is Ablation.IQR)
    tuned = [settings.head_adaptation.inner_loop] if settings.head_adaptation else []
    loops = [settings.inner_loop, settings.members.inner_loop, *tuned]
    assert all((loop.l2.l2(1e9) < 1e-9) == (ablation is Ablation.NO_L2) for loop in loops)


def test_without_its_head_an_adaptation_moves_the_flow_alone() -> None:
    outcome = replay(partial(adaptation.adapt, settings=ADAPTATIONS[Ablation.NO_HEAD])).adapted(
        gauge("headflow"), gauge("headflow"), phase(DRIFTED, 2000).buffer, 1
    )
    before, after = (
        gauge("headflow").detector.state_dict(),
        load(outcome.manifest, outcome.weights).detector.state_dict(),
    )
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {name for name in changed if not name.startswith("flow.")} == {"members.0.pooled.centre"}


def test_what_is_replayed_trains_as_the_oldest() -> None:
    seen: list[AdaptationInput] = []

    def adapts(given: AdaptationInput) -> AdaptationOutcome:
        seen.append(given)
        return adapt(given)

    shown = phase(DRIFTED, 2000).buffer
    old = [ObservedImage(f"old-{number}", f"old-{number}", picture) for number, picture in enumerate(goods(range(8)))]
    replace(replay(adapts), replayed=old).adapted(gauge(), gauge(), shown, 1)
    ids = [entry.image_id for entry, _ in seen[0].buffered]
    assert ids == [observed.image_id for observed in (*old, *shown)]
    times = [entry.captured_at for entry, _ in seen[0].buffered]
    assert times == sorted(times)
