"""What an adaptation did, step by step: the audit trail, kept in the manifest and under `adaptations/`."""

from pydantic import AwareDatetime, Field

from flowgauge.domain.messages import AdaptationRequest, FrozenModel, Message


class Round(FrozenModel):
    """One round of refinement: images that score at or below `threshold` may train; `rejected` are the others'
    ids, or the URIs of those that share an id."""

    rule: str
    threshold: float
    kept: int
    rejected: tuple[str, ...]


HEAD, FLOW = "head", "flow"


class Step(FrozenModel):
    """One step of the inner loop on the parameters of `what`. Lower losses are better: the flow's are mean negative
    log-likelihoods per dimension, the head's cross-entropies of anomalous patches. `round` of the refinement; the
    head's are numbered by who watched: one fold after the other, and at last those that watch the fit to all.

    `det_covariance` is det Sigma of the standardised (train, validation) losses, `l2` the lambda that it gave.
    """

    what: str = FLOW
    round: int
    step: int
    train_loss: float
    validation_loss: float
    det_covariance: float
    l2: float


class Check(FrozenModel):
    """One question of the gate. `limit` is what `value` was held against, None where it is only reported."""

    name: str
    value: float
    limit: float | None
    passed: bool
    message: str


class GateReport(FrozenModel):
    accepted: bool
    checks: tuple[Check, ...]

    @property
    def refusals(self) -> tuple[str, ...]:
        return tuple(check.message for check in self.checks if not check.passed)


class AdaptationTrace(FrozenModel):
    """`light_alone`: correcting the light was enough, and nothing else was adapted."""

    buffered: int
    trained: int
    light_alone: bool = False
    rounds: tuple[Round, ...]
    steps: tuple[Step, ...]

    @property
    def sentence(self) -> str:
        """What the candidate is made of, for people."""
        if self.light_alone:
            return "Images are corrected for a change of light; nothing else was adapted."
        return f"{self.trained} of {self.buffered} buffered images trained it."


class AdaptationReport(Message):
    """The audit record `adaptations/<line>/<version>.json`: written for accepted and refused candidates alike.

    `buffered` are the ids of the images that were offered, oldest first, or the URIs of those that share an id;
    `rejected_uris` says where those lie that were kept from training.
    """

    request: AdaptationRequest
    line: str
    version: str
    anchor: str
    parent: str
    accepted: bool
    at: AwareDatetime
    seconds: float
    trace: AdaptationTrace
    gate: GateReport
    buffered: tuple[str, ...] = ()
    rejected_uris: dict[str, str] = Field(default_factory=dict)
