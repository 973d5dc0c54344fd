"""Adaptations that a person asks for: a request of their own or a proposal that they approve, and what came of it, as
the alerts tell it.
"""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import takewhile
from uuid import UUID, uuid4

from pydantic import ValidationError

from flowgauge.domain.alert_kinds import DECIDED
from flowgauge.domain.errors import Unavailable, UserError
from flowgauge.domain.messages import ADAPTATIONS, ALERTS, AdaptationRequest, Alert, AlertKind, Reason
from flowgauge.domain.object_keys import line_name
from flowgauge.domain.ports import Log, Record
from flowgauge.processors.adaptation import request_adaptation
from flowgauge.registry.snapshots import active_snapshot
from flowgauge.runtime.alerts import alert, alert_id
from flowgauge.runtime.backend import Store, newest_first, records_from
from flowgauge.runtime.processor import decoded
from flowgauge.services.changes import recorded
from flowgauge.services.exclusive import exclusive

# between two looks at the alerts: with less the brokers are asked more often than anything is decided, with more a
# person waits longer than the adaptation takes
_POLL_SECONDS = 0.2

# between the clocks of the worker that dates a proposal and of those that date the records after it: with less, a
# decision on it may be passed over; with more, more alerts are read that are older than it
_CLOCKS_DIFFER = timedelta(hours=1)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_OF_ADAPTATIONS = tuple(kind.value.encode() for kind in (*DECIDED, AlertKind.ADAPTATION_PROPOSED))

Decided = Mapping[UUID, Alert]
"""Alerts by their ids."""


class Decisions:
    """Follows what is decided from the moment at which it is made; so make it before the request."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._next = {number: log.end(ALERTS, number) for number in range(log.partitions(ALERTS))}
        self._decided: dict[UUID, Alert] = {}

    def of(self, request: AdaptationRequest) -> Alert | None:
        """The decision on `request`, or on the one that took its place; None while there is none."""
        for number, offset in self._next.items():
            # a foreign record hides none of ours
            for record, message in decoded(records_from(self._log, ALERTS, number, offset), Alert, "alert", []):
                self._decided[message.alert_id] = message
                self._next[number] = record.offset + 1
        return decision(self._decided, request.line, request.request_id)

    def awaited(self, request: AdaptationRequest, timeout: float) -> Alert:
        """The same, as soon as there is one. Raises `Unavailable` when there is none within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (decided := self.of(request)) is None:
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"Nothing was decided on line {request.line} within {timeout:g} s; the request stays.",
                    "Is an adaptation worker alive? `flowgauge worker adaptation` starts one, and --timeout waits"
                    " longer.",
                )
            time.sleep(_POLL_SECONDS)
        return decided

    def instead(self, request: AdaptationRequest) -> UUID | None:
        """The request that took the place of `request`, as far as `of` has read."""
        return _instead(self._decided, request.line, request.request_id)


def send(store: Store, request: AdaptationRequest) -> Decisions:
    """Leave `request` to whoever runs on the store.

    Raises `GaugeMissing` for a line without a gauge to adapt, and as `approved` does where somebody answered meanwhile
    the proposal that it approves.
    """
    active_snapshot(store.log, request.line)
    decisions = Decisions(store.log)
    action = "approve" if request.approved else "adapt"
    target, after = str(request.request_id), {"reason": request.reason.value}
    with exclusive(store.state, _answering(request.request_id)):
        if request.approved:  # and nobody has answered since
            approved(store.log, request.request_id, request.requested_by, request.requested_at)
        with recorded(store, request.requested_by, action, request.line, target, None, after):
            request_adaptation(store, request)
    return decisions


def requested(line: str, by: str, at: datetime) -> AdaptationRequest:
    """A request of the person `by`, whatever the line's policy. Raises `InvalidName`."""
    return AdaptationRequest(
        request_id=uuid4(), line=line_name(line), reason=Reason.PERSON, requested_at=at, requested_by=by
    )


def approved(log: Log, request_id: UUID, by: str, at: datetime) -> AdaptationRequest:
    """The request that was proposed under this id, as the person `by` sends it.

    Raises `UserError` where nothing was proposed under it, and where it was approved before.
    """
    proposal, since, known = _proposal(log, request_id)
    if proposal is None:
        raise UserError(f"No adaptation is proposed as {request_id}.", "`flowgauge alerts` tells what is, with its id.")
    proposed = AdaptationRequest.model_validate(proposal.detail["request"])
    if (decided := decision(known, proposed.line, request_id)) is not None:
        refuser = decided.detail.get("refused_by")
        answer = "approved and decided" if refuser is None else f"refused by {refuser}"
        raise UserError(
            f"This proposal was {answer} on {decided.at:%Y-%m-%d %H:%M} UTC.",
            f"Adapt anew with `flowgauge adapt --line {proposed.line}`.",
        )
    # approved and sent, but not decided yet
    for record in takewhile(lambda record: record.at >= since, _newest_of_all(log, ADAPTATIONS)):
        try:
            earlier = AdaptationRequest.decode(record.value)
        except ValidationError:
            continue  # the worker makes a dead letter of it
        if earlier.request_id == request_id:
            raise UserError(
                f"{earlier.requested_by} approved this proposal on {earlier.requested_at:%Y-%m-%d %H:%M} UTC.",
                "An adaptation worker carries it out; `flowgauge alerts` tells what comes of it.",
            )
    return proposed.model_copy(update={"requested_by": by, "requested_at": at, "approved": True})


def _proposal(log: Log, request_id: UUID) -> tuple[Alert | None, datetime, Decided]:
    """The proposal of that request, before when no record can be about it, and what was decided since. Read back to
    then and no further: a plant's alerts of a month are millions.
    """
    proposal, since, known = None, _LONG_AGO, dict[UUID, Alert]()
    for record in _newest_of_all(log, ALERTS):
        if record.at < since:
            break
        # to decode all others would take far longer
        if not any(kind in record.value for kind in _OF_ADAPTATIONS):
            continue
        try:
            message = Alert.decode(record.value)
        except ValidationError:
            continue  # a foreign record hides none of ours
        known.setdefault(message.alert_id, message)
        if message.kind is AlertKind.ADAPTATION_PROPOSED:
            request = message.detail.get("request", {})
            if request.get("request_id") == str(request_id):
                proposal, since = message, min(message.at, record.at) - _CLOCKS_DIFFER
    return proposal, since, known


def _newest_of_all(log: Log, topic: str) -> Iterator[Record]:
    partitions = [newest_first(log, topic, number) for number in range(log.partitions(topic))]
    return merge(*partitions, key=lambda record: record.at, reverse=True)


def refuse(store: Store, request_id: UUID, by: str, why: str) -> AdaptationRequest:
    """Say no to what was proposed under this id: the line keeps its gauge, and nobody can approve it any more.

    Raises `UserError` where nothing was proposed under it, and where it was decided or approved before.
    """
    trigger = str(request_id)
    with exclusive(store.state, _answering(request_id)):
        at = store.clock.now()
        request = approved(store.log, request_id, by, at)
        message = f"{request.line} keeps its gauge: {by} refused the proposal. {why}".strip()
        refused = alert(request.line, AlertKind.ADAPTATION_REFUSED, trigger, at, message, why=why, refused_by=by)
        after = {"reason": request.reason.value, "why": why}
        with recorded(store, by, "refuse", request.line, trigger, None, after):
            store.log.append([refused])
    return request


def _answering(request_id: UUID) -> str:
    return f"answering/{request_id}"


def decision(known: Decided, line: str, request_id: UUID) -> Alert | None:
    """The alert by which the request, or the one that took its place, was accepted or refused."""
    for kind in (AlertKind.ADAPTATION_ACCEPTED, AlertKind.ADAPTATION_REFUSED):
        if (found := known.get(alert_id(line, kind, str(request_id)))) is not None:
            return found
    other = _instead(known, line, request_id)
    return None if other is None else decision(known, line, other)


def _instead(known: Decided, line: str, request_id: UUID) -> UUID | None:
    left_out = known.get(alert_id(line, AlertKind.ADAPTATION_COALESCED, str(request_id)))
    return None if left_out is None else UUID(left_out.detail["instead"])
