"""Occasions to adapt a line: what becomes a request, or a proposal to a person."""

from dataclasses import dataclass
from datetime import datetime
from uuid import NAMESPACE_URL, UUID, uuid5

from flowgauge.domain.messages import ADAPTATIONS, AdaptationRequest, AlertKind, Reason, Verdict
from flowgauge.domain.ports import Outgoing
from flowgauge.runtime.alerts import alert

_OBSERVER = "observing"


@dataclass(frozen=True)
class Trigger:
    """Why `line` should be adapted. `mark` tells two occasions of one reason apart, so whoever notices one, and however
    often, makes the same request. `defects`: it may be a wave of defects, which must not be learned.
    """

    line: str
    reason: Reason
    mark: str
    at: datetime
    why: str
    defects: bool = False
    since: datetime | None = None

    @property
    def request(self) -> AdaptationRequest:
        return AdaptationRequest(
            request_id=_request_id(self),
            line=self.line,
            reason=self.reason,
            requested_at=self.at,
            requested_by=_OBSERVER,
            since=self.since,
        )

    def requested(self) -> Outgoing:
        return Outgoing(ADAPTATIONS, self.line, self.request.encode())

    def proposed(self) -> Outgoing:
        """The alert that asks a person. Its detail holds the request, for whoever approves it."""
        request = self.request
        doubt = " This looks like a wave of defects, which must not be learned." if self.defects else ""
        remedy = f"If the line is as it should be, run `flowgauge adapt --approve {request.request_id}`."
        return alert(
            self.line,
            AlertKind.ADAPTATION_PROPOSED,
            str(request.request_id),
            self.at,
            f"{self.line}: {self.why}.{doubt} {remedy}",
            defects=self.defects,
            why=self.why,
            request=request.model_dump(mode="json"),
        )


def seen_in(
    verdict: Verdict, reason: Reason, why: str, defects: bool = False, since: datetime | None = None
) -> Trigger:
    """What one verdict brought to light."""
    return Trigger(verdict.line, reason, str(verdict.verdict_id), verdict.scored_at, why, defects, since)


def punctuated(line: str, tick: datetime) -> Trigger:
    """A tick of the line's schedule."""
    return Trigger(line, Reason.SCHEDULE, tick.isoformat(), tick, f"its schedule names {tick:%Y-%m-%d %H:%M} UTC")


def _request_id(trigger: Trigger) -> UUID:
    return uuid5(NAMESPACE_URL, f"adaptation:{trigger.line}:{trigger.reason}:{trigger.mark}")
