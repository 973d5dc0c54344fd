"""The gate: the checks that a candidate passes before it replaces the active gauge."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import Progress, silent
from flowgauge.domain.trace import AdaptationTrace, Check, GateReport
from flowgauge.training.gauge import Gauge, score_by_each
from flowgauge.training.threshold_check import EXPECTED, Shift
from flowgauge.training.training_set import Crops, add_anomalies
from flowgauge.vision.flat_field import FlatField
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
    """The line's most recent buffered images, which did not train, as candidate and parent score them."""

    def __init__(
        self, candidate: Gauge, parent: Gauge, crops: Crops, seed: int, copies: int, progress: Progress = silent
    ) -> None:
        self.candidate, self.parent = candidate, parent
        self._progress = progress
        preprocessing = candidate.manifest.preprocessing
        self.plain = self.pair(crops)
        # what both find most ordinary is what anomalies are drawn on: real ones would blur the check
        ordinary = np.argsort(self.plain.ranks())[: max(1, round(0.6 * len(crops)))]
        synthetic = [
            add_anomalies(crops[ordinary], seed + copy, cut=preprocessing.blackens)[0] for copy in range(copies)
        ]
        self.ordinary = self.plain.of(ordinary)
        self.synthetic = self.pair(np.concatenate(synthetic))

    def pair(self, crops: Crops) -> "_Pair":
        """Their scores of `crops` (n, S, S, 3)."""
        own, parents = score_by_each([self.candidate, self.parent], crops, self._progress)
        return _Pair(own, parents, self.candidate.manifest.threshold.value, self.parent.manifest.threshold.value)


@dataclass(frozen=True)
class Change:
    """Of the line, by the parent's scores of the buffered images; `by_person`: a person has asked for the candidate."""

    shift: Shift
    by_person: bool

    def check(self) -> Check:
        """Where nothing has changed, adapting costs accuracy: scales and threshold then come from a few dozen images
        alone (decision 32). A person may want it all the same.
        """
        found, (least, most) = self.shift, (f"{share:.0%}" for share in EXPECTED)
        words = (
            f"the active gauge alarms on {found.alarms:.0%} of the buffered images, where up to {found.most_alarms:.0%}"
            f" are expected of an unchanged line, and their lower quartile lies above {found.position:.0%} of its"
            f" calibration scores, where {least} to {most} are"
        )
        if not found.changed:
            words = f"the active gauge scores the line as before: {words}, give or take what chance does"
        return Check(
            name="change of the line",
            value=found.alarms,
            limit=None if self.by_person else found.most_alarms,
            passed=self.by_person or found.changed,
            message=words,
        )


class _Pair:
    """Scores (n,) of the same crops by candidate and parent, and the shares above each one's threshold."""

    def __init__(self, candidate: Scores, parent: Scores, limit: float, parent_limit: float) -> None:
        self.candidate, self.parent = candidate, parent
        self._limits = limit, parent_limit
        self._caught = candidate > limit
        self._parents = parent > parent_limit

    def of(self, rows: NDArray[np.intp]) -> "_Pair":
        """Of some of the crops."""
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
    change: Change,
    golden_good: Sequence[Crop],
    golden_defect: Sequence[Crop],
    settings: GateSettings,
) -> GateReport:
    """All checks, passed or not: a refusal names every reason."""
    plain, ordinary, synthetic = recent.plain, recent.ordinary, recent.synthetic
    losses = [loss for step in trace.steps for loss in (step.train_loss, step.validation_loss)]
    broken = sum(not math.isfinite(value) for value in (*losses, *plain.candidate, *synthetic.candidate))
    # Informedness on synthetic anomalies (Youden's J): the share of them above the threshold, less that of the same
    # images without. Both gauges score the same images, so chance enters by the paired standard error alone.
    informedness = synthetic.alarms - ordinary.alarms
    parents_informedness = synthetic.parent_alarms - ordinary.parent_alarms
    lenient = parents_informedness - settings.sensitivity_slack - synthetic.paired_error()
    last = trace.rounds[-1]
    rejected = len(last.rejected) / (last.kept + len(last.rejected))
    # where recent scores lie on the candidate's own scale: far from 0, its calibration is not of this line
    shift = abs(recent.candidate.manifest.calibration.standardise(float(np.median(plain.candidate))))
    checks = [
        change.check(),
        _light(recent.candidate.manifest.flat_field, trace.light_alone),
        _at_most("finite losses and scores", float(broken), 0.0, f"{broken} losses or scores are not finite numbers"),
        _at_least(
            "sensitivity to synthetic anomalies",
            informedness,
            max(lenient, settings.least_sensitivity),
            f"it catches {synthetic.alarms:.0%} of the synthetic anomalies on recent parts and {ordinary.alarms:.0%} of"
            f" the same parts without, the active gauge {synthetic.parent_alarms:.0%} and {ordinary.parent_alarms:.0%}",
        ),
        _at_most(
            "alarms on recent images",
            plain.alarms,
            plain.parent_alarms + settings.alarm_slack,
            f"it alarms on {plain.alarms:.0%} of the recent images that did not train, the active gauge on"
            f" {plain.parent_alarms:.0%}",
        ),
        _at_most(
            "share of the buffer rejected",
            rejected,
            settings.most_rejected,
            f"{rejected:.0%} of the buffered images were rejected as suspects",
        ),
        _at_most(
            "shift of recent scores",
            shift,
            settings.most_shift,
            f"recent scores lie {shift:.1f} deviations from where its calibration puts them",
        ),
    ]
    if golden_defect:
        seen = recent.pair(np.stack([crop.pixels for crop in golden_defect]))
        words = f"it catches {seen.alarms:.0%} of the golden set's defects, the active gauge {seen.parent_alarms:.0%}"
        limit = seen.parent_alarms - settings.golden_slack
        checks.append(_at_least("golden set's defects caught", seen.alarms, limit, words))
    if golden_good:
        seen = recent.pair(np.stack([crop.pixels for crop in golden_good]))
        words = f"it alarms on {seen.alarms:.0%} of the golden set's good images, the active gauge on"
        words = f"{words} {seen.parent_alarms:.0%}"
        # reported and no more: the golden set's good images may predate the drift
        name = "alarms on the golden set's good images"
        checks.append(Check(name=name, value=seen.alarms, limit=None, passed=True, message=words))
    return GateReport(accepted=all(check.passed for check in checks), checks=tuple(checks))


def _light(flat_field: FlatField | None, alone: bool) -> Check:
    """Reported and no more: what it is worth, the other checks say."""
    if flat_field is None:
        gains, words = np.ones(1), "images are not corrected: the first gauge would score them hardly otherwise"
    else:
        gains = np.array(flat_field.gain)
        words = (
            "images are corrected for a change of light, but for those under the light of the fit, by gains of"
            f" {gains.min():.2f} to {gains.max():.2f}"
        )
    if alone:
        words = f"{words}: so corrected, the first gauge scores the line as before, and nothing else was adapted"
    return Check(name="correction of the light", value=float(gains.mean()), limit=None, passed=True, message=words)


def _at_most(name: str, value: float, limit: float, message: str) -> Check:
    return Check(name=name, value=value, limit=limit, passed=value <= limit, message=message)


def _at_least(name: str, value: float, limit: float, message: str) -> Check:
    return Check(name=name, value=value, limit=limit, passed=value >= limit, message=message)
