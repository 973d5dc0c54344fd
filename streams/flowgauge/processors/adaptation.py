"""Adaptation: requests in; a new snapshot and its announcement out, or a refusal with its reasons."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from pydantic import Field

from flowgauge.adaptation.contract import (
    Adapt,
    AdaptationInput,
    AdaptationOutcome,
    Progress,
    adaptation_seed,
    adapted_version,
)
from flowgauge.domain.buffer import to_evict, uris_by_name
from flowgauge.domain.errors import (
    AuthenticationFailed,
    DatasetError,
    FlowgaugeError,
    SnapshotCorrupt,
    Unavailable,
    UnreadableImage,
    UserError,
)
from flowgauge.domain.golden import Label
from flowgauge.domain.lines import LineSettings, Policy
from flowgauge.domain.messages import ADAPTATIONS, AdaptationRequest, AlertKind, Expected, Message, SnapshotAnnouncement
from flowgauge.domain.object_keys import adaptation_object
from flowgauge.domain.ports import Buffered, Objects, Outgoing, Record, State
from flowgauge.domain.trace import AdaptationReport
from flowgauge.registry.gauges import Load
from flowgauge.registry.golden_sets import contents, golden_set, hold_out_pictures
from flowgauge.registry.lines import line_settings
from flowgauge.registry.snapshots import (
    SnapshotFiles,
    active_snapshot,
    announcement,
    announcements,
    as_record,
    fetch_snapshot,
    store_snapshot,
)
from flowgauge.registry.trials import begun, trial_reports
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.backend import Store, kept_record
from flowgauge.runtime.processor import Processor, decoded
from flowgauge.vision.preprocessing import Crop

# longer, and a holder that was killed keeps another worker waiting; shorter, and it runs out between two steps of
# progress, which renew it
_LEASE_SECONDS = 300.0

log = logging.getLogger(__name__)


class Adaptation(Processor):
    """Of a line's requests in one batch that are not decided, the newest that a person made or approved is carried out,
    else the newest: they coalesce, and an alert tells of each that was left out.

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

    def parts(self, records: Sequence[Record]) -> Sequence[Sequence[Record]]:
        """Line by line, for an adaptation takes minutes; what was decided before apart, for it may become the gauge
        that the next adaptation starts from.
        """
        of_line: dict[str, list[Record]] = {}
        for record in records:
            of_line.setdefault(record.key, []).append(record)
        found = []
        for line in of_line.values():
            settled = max((number for number, record in enumerate(line, 1) if self._was_decided(record)), default=0)
            found += [part for part in (line[:settled], line[settled:]) if part]
        return found

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        outgoing: list[Outgoing] = []
        of_line: dict[str, list[AdaptationRequest]] = {}
        for _, request in decoded(records, AdaptationRequest, "request to adapt", outgoing):
            of_line.setdefault(request.line, []).append(request)
        for requests in of_line.values():
            outgoing += self._of_line(requests)
        return outgoing

    def _of_line(self, requests: Sequence[AdaptationRequest]) -> list[Outgoing]:
        """What follows from the requests of one line. After a crash some come again that were decided: those before one
        of them were left out for it then, and those after the last are open.
        """
        outgoing: list[Outgoing] = []
        waiting: list[AdaptationRequest] = []
        announced: set[str] = set()
        for request in requests:
            version = adapted_version(request)
            report = audit(self._store, request.line, version)
            if report is None:
                waiting.append(request)
                continue
            outgoing += _left_out(waiting, request)
            waiting = []
            if version not in announced:
                announced.add(version)
                outgoing += self._decided(request, report)
        for chosen in coalesced(waiting):
            outgoing += [*_left_out(waiting, chosen), *self._decided(chosen)]
        return outgoing

    def _was_decided(self, record: Record) -> bool:
        found = decoded([record], AdaptationRequest, "request to adapt", [])
        return any(audit(self._store, request.line, adapted_version(request)) is not None for _, request in found)

    def _decided(self, request: AdaptationRequest, report: AdaptationReport | None = None) -> list[Outgoing]:
        """What follows from a request; `report` is its record where it was decided before."""
        try:
            if report is not None:
                return self._announced(report)
            with self._leased(request) as progress:
                return self._announced(self._carried_out(request, progress))
        except (Unavailable, AuthenticationFailed):
            raise
        except FlowgaugeError as error:
            return [_refused(request, str(error))]
        except Exception as error:
            log.exception("The adaptation of line %s failed.", request.line)
            return [_refused(request, f"It failed with {type(error).__name__}: {error}.")]

    def _carried_out(self, request: AdaptationRequest, progress: Progress) -> AdaptationReport:
        """The record of the adaptation, stored with its snapshot if that was accepted."""
        active = active_snapshot(self._store.log, request.line)
        if active.trial is not None:
            raise UserError(
                f"{active.trial.version} is on trial, and a line has one trial at a time.",
                f"Wait for its end, or end it with `flowgauge trials stop {request.line} {active.trial.short_id}`.",
            )
        began = self._store.clock.now()
        given = self._gathered(request, active, progress)
        outcome = self._adapt(given)
        # another worker may have decided while this one had lost its lease: the first decision stands
        decided = audit(self._store, request.line, given.version)
        if decided is not None:
            return decided
        report = _report(request, given, outcome, began, self._store.clock.now())
        # The snapshot before the record, the record before the announcement: a crash after any of them leaves nothing
        # that is named and not there, and the redelivered request goes on from the record.
        if outcome.accepted:
            files = SnapshotFiles(outcome.manifest, outcome.weights)
            store_snapshot(self._store.objects, request.line, given.version, files)
        self._store.objects.put(adaptation_object(request.line, given.version), report.encode())
        return report

    def _gathered(
        self, request: AdaptationRequest, active: SnapshotAnnouncement, progress: Progress
    ) -> AdaptationInput:
        """The line's gauges, and crops of its buffer and of the hold-out of its golden set.

        Raises `DatasetError` for a buffer that is too small, `GaugeMissing` and `SnapshotInvalid` for a line whose
        gauge or anchor cannot be loaded, and `Unavailable`.
        """
        objects, line = self._store.objects, request.line
        settings = line_settings(objects, line)
        entries = _may_train(self._store, request, settings)
        _require_enough(line, len(entries), settings)
        files = fetch_snapshot(objects, line, active.version)
        anchor = parent = self._load(files.manifest, files.weights)
        version = anchor_version(files.manifest)
        if version != parent.version:
            files = fetch_snapshot(objects, line, version)
            anchor = self._load(files.manifest, files.weights)
        decode = anchor.manifest.preprocessing.decode
        buffered: list[tuple[Buffered, Crop]] = []
        for done, entry in enumerate(entries):
            progress("reading images", done / len(entries))
            # left out: what cannot be read, or whose retention has passed
            with suppress(KeyError, UnreadableImage):
                buffered.append((entry, anchor.crop(decode(objects.get(objects.name(entry.image_uri))))))
        _require_enough(line, len(buffered), settings)
        good, defects = (
            [anchor.crop(picture) for picture in hold_out_pictures(objects, line, label, decode)]
            for label in (Label.GOOD, Label.DEFECT)
        )
        return AdaptationInput(
            line=line,
            version=adapted_version(request),
            at=request.requested_at,
            anchor=anchor,
            parent=parent,
            buffered=buffered,
            golden_good=good,
            golden_defect=defects,
            seed=adaptation_seed(request),
            by_person=request.by_person,
            progress=progress,
        )

    def _announced(self, report: AdaptationReport) -> list[Outgoing]:
        """What follows from a decision that is on record; nothing if it followed before."""
        request, line, version = report.request, report.line, report.version
        if not report.accepted:
            return [_refused(request, " ".join(report.gate.refusals), seconds=report.seconds)]
        named = ((message.version, message.trial) for message in announcements(self._store.log, line))
        if any(version in (active, trial and trial.version) for active, trial in named):
            return []
        # a compacted topic may hold neither any more; the record of a trial that has ended stays
        if any(ended.trial.version == version for ended in trial_reports(self._store, line)):
            return []
        active = active_snapshot(self._store.log, line)
        # the gate compared the candidate with its parent: whatever took the parent's place it was not compared with
        if active.version != report.parent:
            return [_refused(request, f"Meanwhile {active.version} became the line's gauge, which stays.")]
        if active.trial is not None:
            return [_refused(request, f"Meanwhile {active.trial.version} went on trial, which goes on.")]
        sha256 = fetch_snapshot(self._store.objects, line, version).sha256
        settings = line_settings(self._store.objects, line)
        if settings.policy is Policy.SHADOW:
            # on a line that has changed the active gauge alarms too often, which the candidate is to mend
            by, rules = request.requested_by, settings.trial_rules
            announced = begun(self._store, active, version, sha256, by, Expected.FEWER, rules)
            news = f"{line} tries {version} beside its gauge"
        else:
            announced = announcement(self._store, line, version, sha256, report.parent, active)
            news = f"{line} has a new gauge {version}"
        accepted = alert(
            line,
            AlertKind.ADAPTATION_ACCEPTED,
            str(request.request_id),
            report.at,
            f"{news}. {report.trace.sentence}",
            version=version,
            parent=active.version,
            suspects=len(report.rejected_uris),
            seconds=report.seconds,
        )
        return [as_record(announced), accepted]

    @contextmanager
    def _leased(self, request: AdaptationRequest) -> Iterator[Progress]:
        key, state = f"adaptation/{request.line}", self._store.state

        def hold() -> None:
            self._alive()
            if self._stopping():
                raise Unavailable("The runner is stopping.", "The adaptation begins anew at its next start.")
            if not state.lease(key, self._owner, _LEASE_SECONDS):
                raise Unavailable("Another worker adapts this line.", "Nothing is to be done.")

        def step(what: str, share: float) -> None:
            hold()
            now = Running(request=request, what=what, share=share)
            state.put(_running_key(request.line), now.encode(), _LEASE_SECONDS)

        hold()
        try:
            yield step
        finally:
            state.put(_running_key(request.line), b"", _LEASE_SECONDS)
            state.release(key, self._owner)


def _left_out(requests: Sequence[AdaptationRequest], other: AdaptationRequest) -> Iterator[Outgoing]:
    """An alert for each request that another one of its line took the place of."""
    for request in requests:
        if request.request_id != other.request_id:
            line, kind, trigger = request.line, AlertKind.ADAPTATION_COALESCED, str(request.request_id)
            why = f"{line}: of several requests to adapt, that of {other.requested_by} is carried out alone."
            yield alert(line, kind, trigger, request.requested_at, why, instead=str(other.request_id))


class Running(Message):
    """An adaptation that is being carried out."""

    request: AdaptationRequest = Field(description="who asked for it, and why")
    what: str = Field(description="the step that it is at, in words")
    share: float = Field(description="of that step, in [0, 1]")


def running(state: State, line: str) -> Running | None:
    """What is being adapted on `line` now; None where nothing is, or nothing has been heard of it for five minutes."""
    stored = state.get(_running_key(line))
    return Running.decode(stored) if stored else None


def _running_key(line: str) -> str:
    return f"adapting/{line}"


def coalesced(requests: Sequence[AdaptationRequest]) -> list[AdaptationRequest]:
    """One request per line, in the order of the lines' first requests."""
    chosen: dict[str, AdaptationRequest] = {}
    for request in requests:
        earlier = chosen.get(request.line)
        if earlier is None or request.by_person or not earlier.by_person:
            chosen[request.line] = request
    return list(chosen.values())


def anchor_version(manifest: bytes) -> str:
    """The version that a person fitted, out of any snapshot's manifest."""
    try:
        return str(json.loads(manifest)["anchor"])
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotCorrupt("The manifest names no anchor.", "Fit the line again.") from error


def audit(store: Store, line: str, version: str) -> AdaptationReport | None:
    """The record of an adaptation that was decided; None for any other version."""
    return kept_record(store.objects, adaptation_object(line, version), AdaptationReport)


def audits(store: Store, line: str) -> list[AdaptationReport]:
    """All adaptations of `line` that were decided, in order of time."""
    names = store.objects.names(f"adaptations/{line}/")
    found = (kept_record(store.objects, name, AdaptationReport) for name in names)
    return sorted((report for report in found if report is not None), key=lambda report: report.at)


def request_adaptation(store: Store, request: AdaptationRequest) -> None:
    """Ask for an adaptation; a runner of the store carries it out."""
    store.log.append([Outgoing(ADAPTATIONS, request.line, request.encode())])


def _may_train(store: Store, request: AdaptationRequest, settings: LineSettings) -> list[Buffered]:
    """The buffer without what is too old, and what people have labelled."""
    buffer = store.state.buffer(request.line)
    entries = [entry for entry in buffer if request.since is None or entry.captured_at >= request.since]
    barred = set(to_evict(entries, settings, store.clock.now()))
    # a labelled image tests the candidate, or is a defect: either way it must not train
    labelled = _labelled(store.objects, request.line)
    return [entry for entry in entries if entry.image_uri not in barred and entry.image_sha256 not in labelled]


def _labelled(objects: Objects, line: str) -> set[str]:
    """The SHA-256 of each golden image; looked for anew where one got another label meanwhile, lest it trains."""
    golden = list(golden_set(objects, line))
    read = [hashlib.sha256(data).hexdigest() for _, data in contents(objects, golden)]
    return set(read) if len(read) == len(golden) else _labelled(objects, line)


def _require_enough(line: str, images: int, settings: LineSettings) -> None:
    lacking = settings.buffer_minimum - images
    if lacking > 0:
        raise DatasetError(
            f"The buffer of {line} holds {images} images that may train, {lacking} too few.",
            "Let more images pass, or lower buffer_minimum.",
        )


def _report(
    request: AdaptationRequest, given: AdaptationInput, outcome: AdaptationOutcome, began: datetime, at: datetime
) -> AdaptationReport:
    rejected = {name for round_ in outcome.trace.rounds for name in round_.rejected}
    uris = uris_by_name([entry for entry, _ in given.buffered])
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
        buffered=tuple(uris),
        rejected_uris={name: uri for name, uri in uris.items() if name in rejected},
    )


def _refused(request: AdaptationRequest, why: str, **detail: Any) -> Outgoing:
    message = f"{request.line} keeps its gauge, the adaptation was refused. {why}"
    trigger = str(request.request_id)
    return alert(request.line, AlertKind.ADAPTATION_REFUSED, trigger, request.requested_at, message, why=why, **detail)
