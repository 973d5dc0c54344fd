"""What an adaptation is given and what it hands back, whoever runs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from flowgauge.domain.messages import AdaptationRequest
from flowgauge.domain.ports import Buffered
from flowgauge.domain.trace import AdaptationTrace, GateReport
from flowgauge.models.prediction import Predictor
from flowgauge.vision.preprocessing import Crop

Progress = Callable[[str, float], None]
"""Told what is being done and the share of it that is done, in [0, 1]; called often enough to renew a lease by."""


@dataclass(frozen=True)
class AdaptationInput:
    """`buffered` are the line's images that may train, oldest capture first. `anchor` is where the candidate starts and
    what it is held to; `parent` is the active gauge; they are the same object right after a `fit`. `golden_*` are the
    half of the golden set that tests. All are crops by the anchor: a buffer of a large camera's pictures would not fit
    into memory. The candidate's version is `version`, made `at` that time by its manifest (the request's own, so that a
    redelivered one makes the same bytes), and all chance comes from `seed`. Where no person asks for a candidate,
    `by_person` False, it is accepted only if the line has changed.
    """

    line: str
    version: str
    at: datetime
    anchor: Predictor
    parent: Predictor
    buffered: Sequence[tuple[Buffered, Crop]]
    golden_good: Sequence[Crop]
    golden_defect: Sequence[Crop]
    seed: int
    by_person: bool
    progress: Progress


@dataclass(frozen=True)
class AdaptationOutcome:
    """A candidate as it would be stored, what made it, and what the gate said of it."""

    manifest: bytes
    weights: bytes
    trace: AdaptationTrace
    gate: GateReport

    @property
    def accepted(self) -> bool:
        return self.gate.accepted


class Adapt(Protocol):
    def __call__(self, given: AdaptationInput) -> AdaptationOutcome:
        """Same input, same outcome; neither gauge of `given` is touched.

        Raises `FlowgaugeError` where no candidate can be made.
        """


def adapted_version(request: AdaptationRequest) -> str:
    """The candidate's version: a redelivered request makes the same one."""
    return f"adapted-{request.request_id.hex[:12]}"


def adaptation_seed(request: AdaptationRequest) -> int:
    """In [0, 2**31), from the request's id."""
    return request.request_id.int % 2**31
