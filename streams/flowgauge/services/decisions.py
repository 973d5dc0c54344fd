"""What came of requests to adapt, as the alerts tell it; and proposals, which a person turns into requests."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from uuid import UUID

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import ADAPTATIONS, ALERTS, AdaptationRequest, Alert, AlertKind
from flowgauge.domain.ports import Log, Record
from flowgauge.runtime.alerts import alert_id, alerts

_PAGE = 1_000

Told = Mapping[UUID, Alert]
"""Alerts by their ids."""


class Decisions:
    """Follows what is told from the moment at which it is made; so make it before the request."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._next = {number: log.end(ALERTS, number) for number in range(log.partitions(ALERTS))}
        self._told: dict[UUID, Alert] = {}

    def of(self, request: AdaptationRequest) -> Alert | None:
        """The decision on `request`, or on the one that took its place; None while there is none."""
        for number, offset in self._next.items():
            for record in _from(self._log, ALERTS, number, offset):
                message = Alert.decode(record.value)
                self._told[message.alert_id] = message
                self._next[number] = record.offset + 1
        return decision(self._told, request.line, request.request_id)

    def instead(self, request: AdaptationRequest) -> UUID | None:
        """The request that took the place of `request`, as far as `of` has read."""
        return _instead(self._told, request.line, request.request_id)


def decision(told: Told, line: str, request_id: UUID) -> Alert | None:
    """The alert by which the request, or the one that took its place, was accepted or refused."""
    for kind in (AlertKind.ADAPTATION_ACCEPTED, AlertKind.ADAPTATION_REFUSED):
        if (found := told.get(alert_id(line, kind, str(request_id)))) is not None:
            return found
    other = _instead(told, line, request_id)
    return None if other is None else decision(told, line, other)


def approved(log: Log, request_id: UUID, by: str, at: datetime) -> AdaptationRequest:
    """The request that was proposed under this id, as the person `by` sends it.

    Raises `UserError` where nothing was proposed under it, and where it was approved before.
    """
    told = {message.alert_id: message for message in alerts(log)}
    proposed = _proposed(told, request_id)
    again = f"Adapt anew with `flowgauge adapt --line {proposed.line}`."
    if (decided := decision(told, proposed.line, request_id)) is not None:
        raise UserError(f"This proposal was approved and decided on {decided.at:%Y-%m-%d %H:%M} UTC.", again)
    if (earlier := _sent(log, request_id)) is not None:
        raise UserError(
            f"{earlier.requested_by} approved this proposal on {earlier.requested_at:%Y-%m-%d %H:%M} UTC.",
            "An adaptation worker carries it out; `flowgauge alerts` tells what comes of it.",
        )
    return proposed.model_copy(update={"requested_by": by, "requested_at": at, "approved": True})


def _proposed(told: Told, request_id: UUID) -> AdaptationRequest:
    for message in told.values():
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


def _instead(told: Told, line: str, request_id: UUID) -> UUID | None:
    left_out = told.get(alert_id(line, AlertKind.ADAPTATION_COALESCED, str(request_id)))
    return None if left_out is None else UUID(left_out.detail["instead"])


def _from(log: Log, topic: str, partition: int, offset: int) -> Iterator[Record]:
    while records := log.read(topic, partition, offset, _PAGE):
        yield from records
        offset = records[-1].offset + 1
