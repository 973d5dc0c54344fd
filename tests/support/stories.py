"""A small seeded story, made of numbers alone: what the report is tested with where no pipeline has to run."""

from datetime import UTC, datetime
from io import BytesIO
from uuid import UUID

import numpy as np
from PIL import Image

from flowgauge.domain.messages import AdaptationRequest, Decision, Reason
from flowgauge.domain.trace import AdaptationReport, AdaptationTrace, Check, GateReport, Round, Step
from flowgauge.reports.story import (
    Adaptation,
    Call,
    Counts,
    Drift,
    GaugeFacts,
    Phase,
    Point,
    RejectedImage,
    Snapshot,
    Story,
    Suspect,
    Swap,
    Truth,
)

AT = datetime(2025, 3, 1, 6, 0, tzinfo=UTC)
PHASES = (("steady", "light as at the fit"), ("brighter", "light up by a third"), ("bright", "light up by two thirds"))
TRAINING, TESTING = 60, 40


def sample_story(accepted: bool = True, seed: int = 0) -> Story:
    """Three phases; the light moves all scores up by 1.5 a phase; with `accepted`, two adaptations take it back."""
    points = _points(np.random.default_rng(seed), accepted)
    adaptations = tuple(_adaptation(number, points, accepted) for number in (1, 2))
    return Story(
        line="tiles",
        source="a sample of numbers",
        seed=seed,
        command="flowgauge demo --seed 0",
        software="flowgauge 0.1.0",
        gauge=GaugeFacts(
            detector="headflow",
            backbone="lite0",
            version="g0",
            fitted_on=160,
            fit_seconds=41.0,
            false_alarm_share=0.02,
        ),
        phases=tuple(Phase(name=name, condition=condition) for name, condition in PHASES),
        points=points,
        drifts=tuple(Drift(index=number * 100 + 30, message="brightness rose by 4 deviations") for number in (1, 2)),
        adaptations=adaptations,
        swaps=tuple(Swap(index=a.index + 1, version=a.report.version) for a in adaptations if accepted),
        snapshots=_snapshots(accepted),
        suspects=tuple(_suspect(a.report.version, image, points) for a in adaptations for image in _rejected(a)),
        rejects=tuple(_reject(point) for point in points if point.adapted.decision is Decision.REJECT)[:12],
        counts=Counts(sent=len(points), verdicts=len(points), missing=0, dead_letters=0),
    )


def tiny_picture(seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).integers(60, 200, size=(24, 24, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def _points(rng: np.random.Generator, accepted: bool) -> tuple[Point, ...]:
    span = TRAINING + TESTING
    return tuple(_point(rng, index, index // span, index % span, accepted) for index in range(span * len(PHASES)))


def _point(rng: np.random.Generator, index: int, phase: int, within: int, accepted: bool) -> Point:
    defect = within % 5 == 4 if within < TRAINING else within % 2 == 1
    base = 1.0 + (rng.gamma(2.0, 1.5) + 2.0 if defect else 0.0) + 0.5 * float(rng.standard_normal())
    version = phase if accepted and within > 35 else max(phase - 1, 0) if accepted else 0
    moved = base + 1.5 * phase
    return Point(
        index=index,
        image_id=f"{PHASES[phase][0]}-{within:03d}",
        phase=phase,
        truth=Truth.DEFECT if defect else Truth.GOOD,
        use_for_training=within < TRAINING,
        adapted=_call(moved - 1.5 * version, f"g{version}"),
        frozen=_call(moved, "g0"),
        standard_score=2 * (moved - 1.5 * version - 1.0),
    )


def _call(score: float, version: str, threshold: float = 2.2) -> Call:
    near = abs(score - threshold) < 0.15
    decision = Decision.REVIEW if near else Decision.REJECT if score > threshold else Decision.PASS
    return Call(score=score, threshold=threshold, decision=decision, version=version)


def _adaptation(number: int, points: tuple[Point, ...], accepted: bool) -> Adaptation:
    index = number * 100 + 35
    buffered = [point for point in points if point.use_for_training and point.index <= index][-60:]
    rejected = tuple(point.image_id for point in buffered if point.adapted.score > 2.4)
    report = AdaptationReport(
        request=AdaptationRequest(
            request_id=UUID(int=number),
            line="tiles",
            reason=Reason.DRIFT,
            requested_at=AT,
            requested_by="drift monitor",
        ),
        line="tiles",
        version=f"g{number}",
        anchor="g0",
        parent=f"g{number - 1}",
        accepted=accepted,
        at=AT,
        seconds=14.2,
        trace=_trace(number, len(buffered), rejected),
        gate=_gate(accepted),
    )
    return Adaptation(index=index, report=report, buffer={point.image_id: point.truth for point in buffered})


def _trace(number: int, buffered: int, rejected: tuple[str, ...]) -> AdaptationTrace:
    rng = np.random.default_rng(number)
    rounds = tuple(
        Round(rule="median", threshold=2.4, kept=buffered - len(rejected), rejected=rejected) for _ in range(2)
    )
    steps = tuple(
        Step(
            round=step // 10,
            step=step % 10,
            train_loss=2.5 * 0.9**step,
            validation_loss=2.6 * 0.91**step,
            det_covariance=float(rng.gamma(2.0, 0.2)) * 0.9**step,
            l2=0.01 + 0.09 * 0.85**step,
        )
        for step in range(20)
    )
    return AdaptationTrace(buffered=buffered, trained=buffered - len(rejected), rounds=rounds, steps=steps)


def _gate(accepted: bool) -> GateReport:
    value, message = (0.94, "94 of 100") if accepted else (0.41, "Only 41 of 100")
    checks = (
        Check(
            name="synthetic_sensitivity",
            value=value,
            limit=0.8,
            passed=accepted,
            message=f"{message} synthetic anomalies are caught.",
        ),
        Check(name="false_alarms", value=0.03, limit=0.08, passed=True, message="No more than the parent's."),
        Check(name="score_shift", value=0.6, limit=None, passed=True, message="Reported only."),
    )
    return GateReport(accepted=accepted, checks=checks)


def _rejected(adaptation: Adaptation) -> tuple[str, ...]:
    return adaptation.report.trace.rounds[-1].rejected


def _suspect(version: str, image: str, points: tuple[Point, ...]) -> Suspect:
    point = next(point for point in points if point.image_id == image)
    return Suspect(adaptation=version, image_id=image, truth=point.truth, round=1, picture=tiny_picture(point.index))


def _reject(point: Point) -> RejectedImage:
    return RejectedImage(
        index=point.index,
        image_id=point.image_id,
        truth=point.truth,
        call=point.adapted,
        picture=tiny_picture(point.index),
        overlay=tiny_picture(point.index + 1),
    )


def _snapshots(accepted: bool) -> tuple[Snapshot, ...]:
    parents = {"g0": None, "g1": "g0", "g2": "g1"} if accepted else {"g0": None}
    return tuple(
        Snapshot(version=version, epoch=epoch, parent=parent, sha256=f"{epoch}a" * 32)
        for epoch, (version, parent) in enumerate(parents.items(), start=1)
    )
