"""What came of requests to adapt, as the alerts tell it; and proposals, which a person turns into requests."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from uuid import UUID

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import ADAPTATIONS, ALERTS, AdaptationRequest, Alert, AlertKind
from flowgauge.domain.ports import Log, Record
from flowgauge.runtime.alerts import alert_id, alerts

_PAGE = 1_000

Decided = Mapping[UUID, Alert]
"""Alerts by their ids."""


class Decisions:
    """Follows what is told from the moment at which it is made; so make it before the request."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._next = {number: log.end(ALERTS, number) for number in range(log.partitions(ALERTS))}
        self._decided: dict[UUID, Alert] = {}

    def of(self, request: AdaptationRequest) -> Alert | None:
        """The decision on `request`, or on the one that took its place; None while there is none."""
        for number, offset in self._next.items():
            for record in _from(self._log, ALERTS, number, offset):
                message = Alert.decode(record.value)
                self._decided[message.alert_id] = message
                self._next[number] = record.offset + 1
        return decision(self._decided, request.line, request.request_id)

    def instead(self, request: AdaptationRequest) -> UUID | None:
        """The request that took the place of `request`, as far as `of` has read."""
        return _instead(self._decided, request.line, request.request_id)


def decision(decided_alerts: Decided, line: str, request_id: UUID) -> Alert | None:
    """The alert by which the request, or the one that took its place, was accepted or refused."""
    for kind in (AlertKind.ADAPTATION_ACCEPTED, AlertKind.ADAPTATION_REFUSED):
        if (found := decided_alerts.get(alert_id(line, kind, str(request_id)))) is not None:
            return found
    other = _instead(decided_alerts, line, request_id)
    return None if other is None else decision(decided_alerts, line, other)


def approved(log: Log, request_id: UUID, by: str, at: datetime) -> AdaptationRequest:
    """The request that was proposed under this id, as the person `by` sends it.

    Raises `UserError` where nothing was proposed under it, and where it was approved before.
    """
    decided_alerts = {message.alert_id: message for message in alerts(log)}
    proposed = _proposed(decided_alerts, request_id)
    again = f"Adapt anew with `flowgauge adapt --line {proposed.line}`."
    if (decided := decision(decided_alerts, proposed.line, request_id)) is not None:
        raise UserError(f"This proposal was approved and decided on {decided.at:%Y-%m-%d %H:%M} UTC.", again)
    if (earlier := _sent(log, request_id)) is not None:
        raise UserError(
            f"{earlier.requested_by} approved this proposal on {earlier.requested_at:%Y-%m-%d %H:%M} UTC.",
            "An adaptation worker carries it out; `flowgauge alerts` tells what comes of it.",
        )
    return proposed.model_copy(update={"requested_by": by, "requested_at": at, "approved": True})


def _proposed(decided_alerts: Decided, request_id: UUID) -> AdaptationRequest:
    for message in decided_alerts.values():
        request = message.detail.get("request", {})
        if message.kind is AlertKind.ADAPTATION_PROPOSED and request.get("request_id") == str(request_id):
            return AdaptationRequest.model_validate(request)
    raise UserError(f"No adaptation is proposed as {request_id}.", "`flowgauge alerts` tells what is, with its id.")


def _sent(log: Log, request_id: UUID) -> AdaptationRequest | None:
    for number in range(log.partitions(ADAPTATIONS)):
        for record in _from(log, ADAPTATIONS, number, 0):
            request = AdaptationRequest.decode(record.value)
            if request.request_id == request_id:
                return request
    return None


def _instead(decided_alerts: Decided, line: str, request_id: UUID) -> UUID | None:
    left_out = decided_alerts.get(alert_id(line, AlertKind.ADAPTATION_COALESCED, str(request_id)))
    return None if left_out is None else UUID(left_out.detail["instead"])


def _from(log: Log, topic: str, partition: int, offset: int) -> Iterator[Record]:
    while records := log.read(topic, partition, offset, _PAGE):
        yield from records
        offset = records[-1].offset + 1
