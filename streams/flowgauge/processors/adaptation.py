"""Adaptation: requests in; a new snapshot and its announcement out, or a refusal with its reasons."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from flowgauge.adaptation.contract import Adapt, AdaptationInput, AdaptationOutcome, Progress, adapted_version
from flowgauge.domain.dead_letters import dead_lettered
from flowgauge.domain.errors import AuthenticationFailed, FlowgaugeError, Unavailable
from flowgauge.domain.messages import ADAPTATIONS, AdaptationRequest, AlertKind, SnapshotAnnouncement
from flowgauge.domain.object_keys import adaptation_object
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.domain.trace import AdaptationReport
from flowgauge.processors.adaptation_input import gathered
from flowgauge.registry.gauges import Load
from flowgauge.registry.snapshots import (
    SnapshotFiles,
    active_snapshot,
    announcement,
    announcements,
    fetch_snapshot,
    store_snapshot,
)
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.backend import Store
from flowgauge.runtime.processor import Processor

_LEASE_SECONDS = 300.0  # what a holder that was killed keeps another worker waiting; progress renews it

log = logging.getLogger(__name__)


class Adaptation(Processor):
    """Of a line's requests in one batch, the newest that a person made or approved is carried out, else the newest:
    they coalesce, and an alert tells of each that was left out.

    The candidate's version comes from the request, so a redelivered request makes the same snapshot, and what was
    decided is not decided again. `owner` names this worker in the lease that saves double work; correctness does not
    rest on it. An adaptation that fails, for whatever reason but a store that is away, is refused like any other: the
    gauge stays, and scoring goes on. Once `stopping` is true, the one under way is given up and comes again. `alive` is
    told of every step forward.
    """

    name = "adaptation"
    inputs = (ADAPTATIONS,)

    def __init__(
        self,
        store: Store,
        load: Load,
        adapt: Adapt,
        owner: str,
        stopping: Callable[[], bool] = lambda: False,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._load = load
        self._adapt = adapt
        self._owner = owner
        self._stopping = stopping
        self._alive = alive

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        requests, dead_letters = _requests(records)
        chosen = coalesced(requests)
        decided = [outgoing for request in chosen for outgoing in self._decided(request)]
        return [*dead_letters, *self._left_out(requests, chosen), *decided]

    def _left_out(
        self, requests: Sequence[AdaptationRequest], chosen: Sequence[AdaptationRequest]
    ) -> Iterator[Outgoing]:
        instead = {request.line: request for request in chosen}
        for request in requests:
            other = instead[request.line]
            decided = audit(self._store, request.line, adapted_version(request)) is not None
            if request.request_id != other.request_id and not decided:
                yield _coalesced(request, other)

    def _decided(self, request: AdaptationRequest) -> list[Outgoing]:
        report = audit(self._store, request.line, adapted_version(request))
        if report is not None:
            return self._announced(report)
        with self._leased(request.line) as progress:
            try:
                return self._carried_out(request, progress)
            except (Unavailable, AuthenticationFailed):
                raise
            except FlowgaugeError as error:
                return [_refused(request, str(error))]
            except Exception as error:
                log.exception("The adaptation of line %s failed.", request.line)
                return [_refused(request, f"It failed with {type(error).__name__}: {error}.")]

    def _carried_out(self, request: AdaptationRequest, progress: Progress) -> list[Outgoing]:
        active = active_snapshot(self._store.log, request.line)
        began = self._store.clock.now()
        given = gathered(self._store, self._load, request, active, progress)
        outcome = self._adapt(given)
        decided = audit(self._store, request.line, given.version)
        if decided is not None:  # by another worker, while this one had lost its lease
            return self._announced(decided)
        report = self._report(request, given, outcome, began)
        if outcome.accepted:
            files = SnapshotFiles(outcome.manifest, outcome.weights)
            store_snapshot(self._store.objects, request.line, given.version, files)
        self._store.objects.put(adaptation_object(request.line, given.version), report.encode())
        return self._announced(report)

    def _report(
        self, request: AdaptationRequest, given: AdaptationInput, outcome: AdaptationOutcome, began: datetime
    ) -> AdaptationReport:
        at = self._store.clock.now()
        rejected = {image_id for round_ in outcome.trace.rounds for image_id in round_.rejected}
        return AdaptationReport(
            request=request,
            line=request.line,
            version=given.version,
            anchor=given.anchor.version,
            parent=given.parent.version,
            accepted=outcome.accepted,
            at=at,
            seconds=(at - began).total_seconds(),
            trace=outcome.trace,
            gate=outcome.gate,
            buffered=tuple(entry.image_id for entry, _ in given.buffered),
            rejected_uris={
                entry.image_id: entry.image_uri for entry, _ in given.buffered if entry.image_id in rejected
            },
        )

    def _announced(self, report: AdaptationReport) -> list[Outgoing]:
        """What follows from a decision that is on record; nothing if it followed before."""
        if not report.accepted:
            return [_refused(report.request, " ".join(report.gate.refusals), seconds=report.seconds)]
        if any(message.version == report.version for message in announcements(self._store.log, report.line)):
            return []
        active = active_snapshot(self._store.log, report.line)
        if active.version != report.parent:
            return [_refused(report.request, f"Meanwhile {active.version} became the line's gauge, which stays.")]
        files = fetch_snapshot(self._store.objects, report.line, report.version)
        return [announcement(self._store, report.line, report.version, files, report.parent), _accepted(report, active)]

    @contextmanager
    def _leased(self, line: str) -> Iterator[Progress]:
        key = f"adaptation/{line}"
        self._hold(key)
        try:
            yield lambda what, share: self._hold(key)
        finally:
            self._store.state.release(key, self._owner)

    def _hold(self, key: str) -> None:
        self._alive()
        if self._stopping():
            raise Unavailable("The runner is stopping.", "The adaptation begins anew at its next start.")
        if not self._store.state.lease(key, self._owner, _LEASE_SECONDS):
            raise Unavailable("Another worker adapts this line.", "Nothing is to be done.")


def _requests(records: Sequence[Record]) -> tuple[list[AdaptationRequest], list[Outgoing]]:
    """Those that can be read, and the dead letters of the others."""
    requests: list[AdaptationRequest] = []
    dead_letters: list[Outgoing] = []
    for record in records:
        try:
            requests.append(AdaptationRequest.decode(record.value))
        except ValidationError as error:
            dead_letters.append(dead_lettered(record, f"This is no request to adapt: {error.errors()[0]['msg']}."))
    return requests, dead_letters


def coalesced(requests: Sequence[AdaptationRequest]) -> list[AdaptationRequest]:
    """One request per line, in the order of the lines' first requests."""
    chosen: dict[str, AdaptationRequest] = {}
    for request in requests:
        earlier = chosen.get(request.line)
        if earlier is None or request.by_person or not earlier.by_person:
            chosen[request.line] = request
    return list(chosen.values())


def audit(store: Store, line: str, version: str) -> AdaptationReport | None:
    """The record of an adaptation that was decided; None for any other version."""
    try:
        return AdaptationReport.decode(store.objects.get(adaptation_object(line, version)))
    except KeyError:
        return None


def audits(store: Store, line: str) -> list[AdaptationReport]:
    """All adaptations of `line` that were decided, in order of time."""
    names = store.objects.names(f"adaptations/{line}/")
    return sorted((AdaptationReport.decode(store.objects.get(name)) for name in names), key=lambda report: report.at)


def request_adaptation(store: Store, request: AdaptationRequest) -> None:
    """Ask for an adaptation; a runner of the store carries it out."""
    store.log.append([Outgoing(ADAPTATIONS, request.line, request.encode())])


def _accepted(report: AdaptationReport, active: SnapshotAnnouncement) -> Outgoing:
    trace = report.trace
    images = f"{trace.trained} of {trace.buffered} buffered images"
    message = f"{report.line} has a new gauge {report.version}: {images} trained it."
    detail: dict[str, Any] = {
        "version": report.version,
        "parent": active.version,
        "suspects": len(report.rejected_uris),
        "seconds": report.seconds,
    }
    trigger = str(report.request.request_id)
    return alert(report.line, AlertKind.ADAPTATION_ACCEPTED, trigger, report.at, message, **detail)


def _refused(request: AdaptationRequest, why: str, **detail: Any) -> Outgoing:
    message = f"{request.line} keeps its gauge, the adaptation was refused. {why}"
    trigger = str(request.request_id)
    return alert(request.line, AlertKind.ADAPTATION_REFUSED, trigger, request.requested_at, message, why=why, **detail)


def _coalesced(request: AdaptationRequest, other: AdaptationRequest) -> Outgoing:
    message = f"{request.line}: of several requests to adapt, that of {other.requested_by} is carried out alone."
    return alert(
        request.line,
        AlertKind.ADAPTATION_COALESCED,
        str(request.request_id),
        request.requested_at,
        message,
        instead=str(other.request_id),
    )
