"""The gate: the checks that a candidate passes before it replaces the active gauge."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.trace import AdaptationTrace, Check, GateReport
from flowgauge.training.gauge import Gauge, score_by_each
from flowgauge.training.training_set import Crops, add_anomalies
from flowgauge.vision.preprocessing import Crop

Scores = NDArray[np.float64]


class GateSettings(FrozenModel):
    """How much worse than the parent a candidate may be: shares in [0, 1], `shift` in the calibration's deviations.

    `least_sensitivity` holds whatever the parent does: one that alarms on everything sets no standard.
    """

    sensitivity_slack: float = Field(0.05, ge=0)
    least_sensitivity: float = Field(0.2, ge=0, le=1)
    golden_slack: float = Field(0.05, ge=0)
    alarm_slack: float = Field(0.02, ge=0)
    most_rejected: float = Field(0.5, ge=0, le=1)
    most_shift: float = Field(2.0, gt=0)
    anomalies_per_image: int = Field(4, ge=1)


class Recent:
    """The line's most recent buffered images, which did not train, as two gauges see them."""

    def __init__(self, candidate: Gauge, parent: Gauge, crops: Crops, seed: int, copies: int) -> None:
        self.candidate, self.parent = candidate, parent
        preprocessing = candidate.manifest.preprocessing
        self.plain = self.pair(crops)
        # what both find most ordinary is what anomalies are drawn on: real ones would blur the check
        ordinary = np.argsort(self.plain.ranks())[: max(1, round(0.6 * len(crops)))]
        synthetic = [
            add_anomalies(crops[ordinary], seed + copy, cut=preprocessing.blackens).crops for copy in range(copies)
        ]
        self.ordinary = self.plain.of(ordinary)
        self.synthetic = self.pair(np.concatenate(synthetic))

    def pair(self, crops: Crops) -> "_Pair":
        """What the two say of them."""
        own, parents = score_by_each([self.candidate, self.parent], crops)
        return _Pair(own, parents, self.candidate.manifest.threshold.value, self.parent.manifest.threshold.value)


class _Pair:
    """Scores (n,) of the same squares by candidate and parent, and the shares above each one's threshold."""

    def __init__(self, candidate: Scores, parent: Scores, limit: float, parent_limit: float) -> None:
        self.candidate, self.parent = candidate, parent
        self._limits = limit, parent_limit
        self._caught = candidate > limit
        self._parents = parent > parent_limit

    def of(self, rows: NDArray[np.intp]) -> "_Pair":
        """Of some of the squares."""
        return _Pair(self.candidate[rows], self.parent[rows], *self._limits)

    @property
    def alarms(self) -> float:
        return float(self._caught.mean())

    @property
    def parent_alarms(self) -> float:
        return float(self._parents.mean())

    def ranks(self) -> NDArray[np.intp]:
        """(n,): the sums of each image's ranks among the two gauges' scores, so that neither chooses alone."""
        return np.argsort(np.argsort(self.candidate)) + np.argsort(np.argsort(self.parent))

    def paired_error(self) -> float:
        """The standard error of `alarms` - `parent_alarms` on the same images (McNemar)."""
        return float(np.sqrt((self._caught != self._parents).sum()) / len(self._caught))


def check_candidate(
    recent: Recent,
    trace: AdaptationTrace,
    golden_good: Sequence[Crop],
    golden_defect: Sequence[Crop],
    settings: GateSettings,
) -> GateReport:
    """All checks, passed or not: a refusal names every reason."""
    checks = [
        _finite(recent, trace),
        _sensitivity(recent, settings),
        _alarms(recent, settings),
        _rejected(trace, settings),
        _shift(recent, settings),
    ]
    if golden_defect:
        checks.append(_golden_defects(recent, golden_defect, settings))
    if golden_good:
        checks.append(_golden_goods(recent, golden_good))
    return GateReport(accepted=all(check.passed for check in checks), checks=tuple(checks))


def _finite(recent: Recent, trace: AdaptationTrace) -> Check:
    losses = [loss for step in trace.steps for loss in (step.train_loss, step.validation_loss)]
    broken = sum(not math.isfinite(value) for value in (*losses, *recent.plain.candidate, *recent.synthetic.candidate))
    return Check(
        name="finite losses and scores",
        value=float(broken),
        limit=0.0,
        passed=broken == 0,
        message=f"{broken} losses or scores are not finite numbers",
    )


def _sensitivity(recent: Recent, settings: GateSettings) -> Check:
    """Informedness on synthetic anomalies (Youden's J: the share of those caught, less that of plain images).

    Both gauges see the same paintings, so what chance does to the difference is its paired standard error.
    """
    own = recent.synthetic.alarms - recent.ordinary.alarms
    parents = recent.synthetic.parent_alarms - recent.ordinary.parent_alarms
    limit = max(parents - settings.sensitivity_slack - recent.synthetic.paired_error(), settings.least_sensitivity)
    return Check(
        name="sensitivity to synthetic anomalies",
        value=own,
        limit=limit,
        passed=own >= limit,
        message=f"it catches {recent.synthetic.alarms:.0%} of the synthetic anomalies on recent parts and"
        f" {recent.ordinary.alarms:.0%} of the same parts unpainted, the active gauge"
        f" {recent.synthetic.parent_alarms:.0%} and {recent.ordinary.parent_alarms:.0%}",
    )


def _alarms(recent: Recent, settings: GateSettings) -> Check:
    limit = recent.plain.parent_alarms + settings.alarm_slack
    return Check(
        name="alarms on recent images",
        value=recent.plain.alarms,
        limit=limit,
        passed=recent.plain.alarms <= limit,
        message=f"it alarms on {recent.plain.alarms:.0%} of the recent images that did not train, the active gauge"
        f" on {recent.plain.parent_alarms:.0%}",
    )


def _rejected(trace: AdaptationTrace, settings: GateSettings) -> Check:
    share = len(trace.rounds[-1].rejected) / (trace.rounds[-1].kept + len(trace.rounds[-1].rejected))
    return Check(
        name="share of the buffer rejected",
        value=share,
        limit=settings.most_rejected,
        passed=share <= settings.most_rejected,
        message=f"{share:.0%} of the buffered images were rejected as suspects",
    )


def _shift(recent: Recent, settings: GateSettings) -> Check:
    """Where recent scores lie on the candidate's own scale: far from 0, its calibration is not of this line."""
    shift = abs(recent.candidate.manifest.calibration.standardise(float(np.median(recent.plain.candidate))))
    return Check(
        name="shift of recent scores",
        value=shift,
        limit=settings.most_shift,
        passed=shift <= settings.most_shift,
        message=f"recent scores lie {shift:.1f} deviations from where its calibration puts them",
    )


def _golden_defects(recent: Recent, golden: Sequence[Crop], settings: GateSettings) -> Check:
    seen = _golden(recent, golden)
    limit = seen.parent_alarms - settings.golden_slack
    return Check(
        name="golden set's defects caught",
        value=seen.alarms,
        limit=limit,
        passed=seen.alarms >= limit,
        message=f"it catches {seen.alarms:.0%} of the golden set's defects, the active gauge {seen.parent_alarms:.0%}",
    )


def _golden_goods(recent: Recent, golden: Sequence[Crop]) -> Check:
    """Only reported: the golden set's good images may predate the drift."""
    seen = _golden(recent, golden)
    return Check(
        name="alarms on the golden set's good images",
        value=seen.alarms,
        limit=None,
        passed=True,
        message=f"it alarms on {seen.alarms:.0%} of the golden set's good images, the active gauge"
        f" on {seen.parent_alarms:.0%}",
    )


def _golden(recent: Recent, golden: Sequence[Crop]) -> _Pair:
    return recent.pair(np.stack([crop.pixels for crop in golden]))
