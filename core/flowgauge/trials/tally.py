"""What was seen of a trial so far, and what follows from it, by a test that may be looked at after every image.

Each bound says of a share that it is at most p0, for example that the candidate rejects at most p0 of the images. For
every p above p0, the likelihood ratio of p against p0 after k of n images,

    L(p) = (p / p0)^k ((1 - p) / (1 - p0))^(n - k),

is a supermartingale where each image counts with a probability of at most p0, given those before it. Images that come
in waves (a tool breaks, and 20 rejects follow) do not keep to that, though their share may be smaller. The mean of L
over p uniform on (p0, 1), the evidence e, is a supermartingale too. By Ville's inequality e reaches 1 / a at any time
with a probability of at most a (Robbins, Statistical methods related to the law of the iterated logarithm, 1970): a
candidate that keeps the bound is stopped with this probability at most, however long its trial lasts. The bounds of one
trial share `ERROR` equally.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from math import log, log1p
from typing import Self
from uuid import UUID

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy import special

from flowgauge.domain.messages import (
    Decision,
    Expected,
    FrozenModel,
    Instant,
    Line,
    Message,
    Opinion,
    Promotion,
    ShadowVerdict,
    Stage,
    Trial,
)

# images that a report shows: fewer do not tell how the gauges differ, more outgrow the state and nobody looks at them
_EXAMPLES = 40
# share of passes in which a candidate may be slower than the line's `most_slowdown`: less, and a busy machine, or the
# first pass of a gauge, stops good ones; more, and one that is always slow decides more images
_MOST_SLOW = 0.5
_SEVERITY = (Decision.PASS, Decision.REVIEW, Decision.REJECT)
ERROR = 0.05
"""The probability that a trial stops a candidate that keeps all bounds. Smaller, and a bad one decides more images
before it is stopped; larger, and more good ones are stopped."""


@dataclass(frozen=True)
class Bound:
    """That a share is at most `most`, in (0, 1); `count` of `images` were seen. `name` and `message` are for people."""

    name: str
    count: int
    images: int
    most: float
    message: str


def log_evidence(count: ArrayLike, images: ArrayLike, most: float) -> NDArray[np.float64]:
    """log e after `count` of `images`, of shapes that broadcast: the higher, the less the share is at most `most`."""
    k, n = np.asarray(count, np.float64), np.asarray(images, np.float64)
    rest = n - k
    with np.errstate(divide="ignore"):  # far below the bound nothing above it is likely: log 0, no evidence at all
        above = np.log(special.betaincc(k + 1, rest + 1, most))
    mean = above + special.betaln(k + 1, rest + 1) - log1p(-most)
    return np.asarray(mean - k * log(most) - rest * log1p(-most))


def broken(bounds: list[Bound]) -> list[Bound]:
    """Those that do not hold, at the error that the bounds of one trial share."""
    enough = log(len(bounds) / ERROR)
    return [bound for bound in bounds if log_evidence(bound.count, bound.images, bound.most) >= enough]


class Changed(FrozenModel):
    """An image that the two gauges decide differently."""

    verdict_id: UUID = Field(description="of the verdict that counts")
    image_id: str = Field(description="the event's `ce_id`")
    image_uri: str | None = Field(description="where the image lies in the store")
    active: Opinion = Field(description="the active gauge's")
    candidate: Opinion = Field(description="the candidate's")


class Tally(FrozenModel):
    """Counts of images that both gauges have predicted. An alarm is a reject or a review."""

    images: int = Field(0, description="that both gauges predicted")
    decided: int = Field(0, description="that the candidate decided, as canary")
    late: int = Field(0, description="whose verdicts came later than the line's deadline")
    active_alarms: int = Field(0, description="alarms of the active gauge")
    candidate_alarms: int = Field(0, description="alarms of the candidate")
    candidate_alone: int = Field(0, description="images on which the candidate alone alarms")
    active_alone: int = Field(0, description="images on which the active gauge alone alarms")
    disagreements: int = Field(0, description="images with two decisions")
    unexpected: int = Field(0, description="those among them that the trial does not expect")
    passes: int = Field(0, description="times that both gauges predicted images of the line together")
    slow: int = Field(0, description="those in which the candidate took longer than `most_slowdown` allows")
    active_seconds: float = Field(0, description="that the active gauge took for all of them")
    candidate_seconds: float = Field(0, description="the same of the candidate")
    failures: int = Field(0, description="images that the candidate could not predict")
    failure: str = Field("", description="why the first of them failed")
    last_at: Instant | None = Field(None, description="when the last of them was scored")
    changed: tuple[Changed, ...] = Field((), description=f"the last {_EXAMPLES} images with two decisions")

    def with_verdict(self, trial: Trial, seen: ShadowVerdict) -> Self:
        active, candidate = seen.active, seen.candidate
        if candidate is None:
            why = self.failure or seen.failure
            return self.model_copy(update={"failures": self.failures + 1, "failure": why, "last_at": seen.scored_at})
        severity = _SEVERITY.index(candidate.decision) - _SEVERITY.index(active.decision)
        expected = {Expected.FEWER: severity < 0, Expected.MORE: severity > 0}.get(trial.expected, False)
        changed = Changed(
            verdict_id=seen.verdict_id,
            image_id=seen.image_id,
            image_uri=seen.image_uri,
            active=active,
            candidate=candidate,
        )
        return self.model_copy(
            update={
                "images": self.images + 1,
                "decided": self.decided + seen.decided,
                "late": self.late + seen.late,
                "active_alarms": self.active_alarms + active.alarm,
                "candidate_alarms": self.candidate_alarms + candidate.alarm,
                "candidate_alone": self.candidate_alone + (candidate.alarm and not active.alarm),
                "active_alone": self.active_alone + (active.alarm and not candidate.alarm),
                "disagreements": self.disagreements + (severity != 0),
                "unexpected": self.unexpected + (severity != 0 and not expected),
                "passes": self.passes + seen.first,
                "slow": self.slow + (seen.first and candidate.seconds > trial.rules.most_slowdown * active.seconds),
                "active_seconds": self.active_seconds + active.seconds,
                "candidate_seconds": self.candidate_seconds + candidate.seconds,
                "last_at": seen.scored_at,
                "changed": (*self.changed, changed)[-_EXAMPLES:] if severity else self.changed,
            }
        )

    def bounds(self, trial: Trial) -> list[Bound]:
        """What the candidate must keep to. Fewer alarms are no fault where the trial expects them, nor more; then the
        active gauge is no measure of them, and their share among all images is bounded.
        """
        rules, n = trial.rules, self.images
        alone = self.candidate_alone + self.active_alone
        otherwise = {
            Expected.FEWER: "otherwise than the active gauge and not more mildly",
            Expected.MORE: "otherwise than the active gauge and not more severely",
        }.get(trial.expected, "otherwise than the active gauge")
        found = [
            Bound(
                "disagreement",
                self.unexpected,
                n,
                rules.most_disagreement,
                f"it decides {self.unexpected} of {n} images {otherwise}, where {rules.most_disagreement:.0%}"
                " are allowed",
            ),
            Bound(
                "time",
                self.slow,
                self.passes,
                _MOST_SLOW,
                f"in {self.slow} of {self.passes} passes it takes more than {rules.most_slowdown:g} times as long as"
                f" the active gauge, where {_MOST_SLOW:.0%} are allowed",
            ),
        ]
        if trial.expected is not Expected.SAME:
            words = f"it alarms on {self.candidate_alarms} of {n} images, where {rules.most_alarms:.0%} are allowed"
            found.append(Bound("alarms", self.candidate_alarms, n, rules.most_alarms, words))
        # of the images on which one gauge alone alarms, half are either's where both alarm equally often
        if trial.expected is not Expected.MORE:
            words = f"of {alone} images on which one gauge alone alarms, {self.candidate_alone} are its own"
            found.append(Bound("more alarms", self.candidate_alone, alone, 0.5, words))
        if trial.expected is not Expected.FEWER:
            words = f"of {alone} images on which one gauge alone alarms, it passes {self.active_alone}"
            found.append(Bound("fewer alarms", self.active_alone, alone, 0.5, words))
        return found


class NextStep(StrEnum):
    GO_ON = "go on"
    STOP = "stop"
    CANARY = "canary"
    WAIT = "wait"
    PROMOTE = "promote"


def next_step(trial: Trial, tally: Tally) -> tuple[NextStep, str]:
    """What follows from `tally`, and why where the trial is to be stopped."""
    if tally.failures:
        return NextStep.STOP, f"it failed on an image: {tally.failure}"
    if faults := broken(tally.bounds(trial)):
        return NextStep.STOP, "; ".join(fault.message for fault in faults)
    rules = trial.rules
    if trial.stage is Stage.SHADOW:
        long_enough = tally.last_at is not None and tally.last_at - trial.began_at >= timedelta(
            hours=rules.shadow_hours
        )
        if tally.images < rules.shadow_images or not long_enough:
            return NextStep.GO_ON, ""
        if rules.canary_images:
            return NextStep.CANARY, ""
    elif tally.decided < rules.canary_images:
        return NextStep.GO_ON, ""
    return (NextStep.PROMOTE if rules.trial_promotion is Promotion.AUTO else NextStep.WAIT), ""


class Outcome(StrEnum):
    """How a trial ended. `superseded`: a person made another gauge the active one meanwhile."""

    PROMOTED = "promoted"
    STOPPED = "stopped"
    SUPERSEDED = "superseded"


class TrialReport(Message):
    line: Line = Field(description="the line")
    trial: Trial = Field(description="as it was when it ended")
    active: str = Field(description="version of the gauge that was active meanwhile")
    outcome: Outcome = Field(description="`promoted`, `stopped` or `superseded`")
    at: Instant = Field(description="when it ended")
    by: str = Field(description="who ended it, or which worker")
    why: str = Field("", description="why, where it was stopped")
    tally: Tally = Field(description="what was seen of both gauges")


def merged(tallies: Sequence[Tally]) -> Tally:
    """The tally of all images, where a line's lie in several partitions."""
    counted = [name for name, field in Tally.model_fields.items() if field.annotation in (int, float)]
    changed = [each for tally in tallies for each in tally.changed]
    return Tally(
        **{name: sum(getattr(tally, name) for tally in tallies) for name in counted},
        failure=next((tally.failure for tally in tallies if tally.failure), ""),
        last_at=max((tally.last_at for tally in tallies if tally.last_at), default=None),
        changed=tuple(changed[-_EXAMPLES:]),
    )
