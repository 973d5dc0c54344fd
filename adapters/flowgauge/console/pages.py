"""The pages: each reads what it shows from the services, and changes nothing."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from flowgauge.console.plant import LARGE, SMALL, Console, jpeg, reduced_to
from flowgauge.console.views import console_of, entered, line_of, rendered, shown
from flowgauge.domain.errors import UnreadableImage, UserError
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.messages import DEAD_LETTERS, Alert, AlertKind, Decision, SnapshotAnnouncement, Verdict
from flowgauge.domain.ports import Record
from flowgauge.domain.trace import AdaptationReport
from flowgauge.processors.adaptation import audit, audits, running
from flowgauge.registry.lines import line_settings
from flowgauge.registry.snapshots import fetch_manifest
from flowgauge.services.changes import latest_changes
from flowgauge.services.golden import image_of
from flowgauge.services.history import history
from flowgauge.services.overview import Proposal, Sample
from flowgauge.services.replay import latest_dead_letters, replayed_at
from flowgauge.services.review import review_queue
from flowgauge.services.trials import all_trials, labelled, trial_of
from flowgauge.vision.decoding import decode

if TYPE_CHECKING:
    from flowgauge.services.threshold import LineEvidence

# of a line's gallery: fewer hide that many parts fail alike, more make the page slow to load
_GALLERY = 24
# of one chart: more points lie on one another and take seconds to draw, fewer hide single ones
_MOST_PASSES = 3_000
# of each partition on one page: each holds an image, so more read hundreds of megabytes
_DEAD_LETTERS = 50
_CHANGES = 200  # on one page: each is an object of its own, so more take seconds to read
_SUSPECTS = 60  # pictures on the page of one adaptation: more take seconds to load, and say no more
DRAWING = Lock()  # matplotlib's style is the whole process's
_MARKS = {
    AlertKind.DRIFT: "drift",
    AlertKind.ADAPTATION_PROPOSED: "adaptation",
    AlertKind.ADAPTATION_ACCEPTED: "adaptation",
    AlertKind.ADAPTATION_REFUSED: "adaptation",
}


def plant(request: Request) -> Response:
    """Every line at a glance."""
    _, person = entered(request)
    return shown(request, "plant.html", person, **_plant(request))


def plant_live(request: Request) -> Response:
    """The part of it that changes."""
    console, _ = entered(request)
    packed = "gzip" in request.headers.get("accept-encoding", "")
    now = console.store.clock.now()
    body = console.plant_live.get(lambda: rendered("plant_live.html", now=now, **_plant(request)), packed)
    headers = {"content-encoding": "gzip", "vary": "accept-encoding"} if packed else {}
    return Response(body, media_type="text/html", headers=headers)


def _plant(request: Request) -> dict[str, Any]:
    console = console_of(request)
    lag: dict[str, int] = {}
    for group in console.lag:
        lag[group.group] = lag.get(group.group, 0) + group.lag
    return {"lines": console.overview.summaries(), "lag": lag, "problems": console.overview.plant_problems()}


def line(request: Request) -> Response:
    """One line: its scores over time, what they were held against, and what stood out."""
    console, person = entered(request)
    name = line_of(request)
    # not among what changes: a buffer is read whole to be counted
    buffered = len(console.store.state.buffer(name))
    return shown(request, "line.html", person, **_about_line(console, name), buffered=buffered)


def line_live(request: Request) -> Response:
    """The part of it that changes."""
    console, person = entered(request)
    return shown(request, "line_live.html", person, **_about_line(console, line_of(request)))


def _about_line(console: Console, name: str) -> dict[str, Any]:
    return {
        "line": name,
        "summary": console.overview.summary(name),
        "gallery": console.overview.flagged(name, _GALLERY),
        "alerts": console.overview.alerts(name)[:10],
        "running": running(console.store.state, name),
    }


def samples(request: Request) -> Response:
    """What the chart of a line draws, as JSON: the last verdicts, or those of a span of the archive."""
    console, _ = entered(request)
    name = line_of(request)
    recent = console.overview.samples(name)
    since, until = (_instant(request, key) for key in ("since", "until"))
    images = len(recent)
    if since is not None and until is not None:
        found = history(console.store.objects, name, since, until, recent, _MOST_PASSES)
        recent, images = found.samples, found.images
    low, high = (recent[0].at, recent[-1].at) if recent else (0.0, 0.0)
    marks = _marks(console.overview.alerts(name), console.overview.gauges(name))
    decisions = list(Decision)

    def drawn(sample: Sample) -> list[Any]:
        rounded = (None if value is None else round(value, 5) for value in sample[1:3])
        light = (round(value, 4) for value in sample[5:8])
        return [round(sample.at, 3), *rounded, decisions.index(sample.decision), str(sample.verdict_id), *light]

    return JSONResponse(
        {
            "images": images,
            "decisions": [decision.value for decision in decisions],
            "samples": [drawn(sample) for sample in recent],
            "marks": [mark for mark in marks if low <= mark["at"] <= high],
        }
    )


def _marks(alerts: Sequence[Alert], gauges: Sequence[SnapshotAnnouncement]) -> list[dict[str, Any]]:
    found = [
        {"at": alert.at.timestamp(), "kind": _MARKS[alert.kind], "text": alert.message}
        for alert in alerts
        if alert.kind in _MARKS
    ]
    return found + [
        {"at": each.at.timestamp(), "kind": "swap", "text": f"Gauge {each.version} becomes active."} for each in gauges
    ]


def verdict(request: Request) -> Response:
    """One verdict: image and heatmap, all fields, and the gauge that made it."""
    console, person = entered(request)
    return shown(request, "verdict.html", person, **about_verdict(console, verdict_of(request)))


def about_verdict(console: Console, found: Verdict) -> dict[str, Any]:
    manifest = None
    if found.gauge_version is not None:
        manifest = _manifest(console, found.line, found.gauge_version)
    size, problem = None, ""
    try:
        picture = decode(image_of(console.store.objects, found), reduced_to(SMALL))
        size = picture.full_size or (picture.pixels.shape[1], picture.pixels.shape[0])
    except (UserError, UnreadableImage) as error:
        problem = str(error)
    item = review_queue(console.store.objects, found.line, [found])
    return {
        "line": found.line,
        "verdict": found,
        "fields": found.model_dump(mode="json", exclude={"regions", "reasons", "statistics", "source"}),
        "manifest": manifest,
        "size": size,
        "problem": problem,
        "golden": item.items[0].golden,
        "part": console.overview.part_of(found.verdict_id),
        "kinds": item.kinds,
        "repeated": None,
    }


def image(request: Request) -> Response:
    """The image of a verdict, as a JPEG: whatever a camera sent, a browser gets pixels and nothing else."""
    console, _ = entered(request)
    found = verdict_of(request)
    if "small" in request.query_params:
        if found.image_uri is None:
            raise HTTPException(404, "The image was not kept.")
        return _picture(lambda: console.thumbnail(found.image_uri or ""))
    return _picture(lambda: jpeg(image_of(console.store.objects, found), LARGE))


def heatmap(request: Request) -> Response:
    console, _ = entered(request)
    uri = verdict_of(request).heatmap_uri
    if uri is None:
        raise HTTPException(404, "Images that pass have no heatmap.")
    small = "small" in request.query_params
    return _picture(lambda: console.thumbnail(uri) if small else console.picture(uri, LARGE))


def review(request: Request) -> Response:
    """The queue of rejects and reviews that an inspector goes through by keyboard."""
    console, person = entered(request)
    name = line_of(request)
    queue = review_queue(console.store.objects, name, console.overview.flagged(name))
    items = [
        {
            "id": str(item.verdict.verdict_id),
            "image": item.verdict.image_id,
            "decision": item.verdict.decision.value,
            "at": item.verdict.event_time.isoformat(),
            "reasons": list(item.verdict.reasons),
            "heatmap": item.verdict.heatmap_uri is not None,
            "label": None if item.golden is None else item.golden.label.value,
            "kind": "" if item.golden is None else item.golden.kind,
        }
        for item in queue.items
    ]
    return shown(request, "review.html", person, line=name, queue=queue, items=items)


def adaptations(request: Request) -> Response:
    """What waits for a person, what waits for a worker, and what is being carried out, on all lines."""
    console, person = entered(request)
    proposals = console.overview.proposals()
    # what stood out lately on a line tells drift from a wave of defects at a glance
    flagged = {line: console.overview.flagged(line, 8) for line in {each.request.line for each in proposals}}
    facts = _decisions(console, proposals, {str(each.request.request_id) for each in proposals})
    return shown(request, "adaptations.html", person, proposals=proposals, flagged=flagged, **facts)


def adaptations_live(request: Request) -> Response:
    """The part of it that changes; a proposal that is looked at stays, for a person may be writing an answer to it."""
    console, person = entered(request)
    facts = _decisions(console, console.overview.proposals(), set(request.query_params.getlist("shown")))
    return shown(request, "adaptations_live.html", person, **facts)


def _decisions(console: Console, proposals: Sequence[Proposal], looked_at: set[str]) -> dict[str, Any]:
    waiting = console.overview.waiting()
    state = console.store.state
    # the requests that a worker may be at; a line that asks for none is not asked for
    at_work = {request.line: found for request in waiting if (found := running(state, request.line)) is not None}
    decided = [
        alert
        for alert in console.overview.alerts()
        if alert.kind in (AlertKind.ADAPTATION_ACCEPTED, AlertKind.ADAPTATION_REFUSED)
    ]
    moved = {str(each.request.request_id) for each in proposals} != looked_at
    return {"requests": waiting, "running": at_work, "decided": decided[:30], "moved": moved}


def adaptations_of_line(request: Request) -> Response:
    """What waits for a person on a line, and all adaptations of it that were decided, the newest first."""
    console, person = entered(request)
    name = line_of(request)
    reports = audits(console.store, name)[::-1]
    return shown(
        request,
        "adaptations_of_line.html",
        person,
        line=name,
        proposals=[each for each in console.overview.proposals() if each.request.line == name],
        reports=reports,
        running=running(console.store.state, name),
    )


def adaptation(request: Request) -> Response:
    """One adaptation: who asked for it, every check of the gate, how its losses went, and the suspects."""
    _, person = entered(request)
    report = _report(request)
    # matplotlib takes a second to load, and only this page draws with it
    from flowgauge.domain.trace import FLOW, HEAD
    from flowgauge.reports.demo import step_charts

    parts = ([step for step in report.trace.steps if step.what == what] for what in (HEAD, FLOW))
    with DRAWING:
        charts = [step_charts(1, part) for part in parts if part]
    suspects = list(report.rejected_uris)[:_SUSPECTS]
    return shown(
        request,
        "adaptation.html",
        person,
        line=report.line,
        report=report,
        charts=charts,
        suspects=suspects,
    )


def suspect(request: Request) -> Response:
    """The picture of an image that an adaptation kept from training."""
    console, _ = entered(request)
    uris = list(_report(request).rejected_uris.values())
    number = int(request.path_params["number"])
    if number >= len(uris):
        raise HTTPException(404, "There is no such suspect.")
    return _picture(lambda: console.thumbnail(uris[number]))


def gauges(request: Request) -> Response:
    """The gauges of a line, the newest announcement first, and what each was made from."""
    console, person = entered(request)
    name = line_of(request)
    announced = console.overview.gauges(name)
    manifests = {version: _manifest(console, name, version) for version in {each.version for each in announced}}
    active = console.overview.summary(name).active
    return shown(request, "gauges.html", person, line=name, announced=announced, manifests=manifests, active=active)


def trials(request: Request) -> Response:
    """What the trial of a line has shown so far, or the one that is asked for, and those that have ended."""
    console, person = entered(request)
    name = line_of(request)
    found, wanted = all_trials(console.store, name), request.query_params.get("trial")
    view = next((each for each in found if wanted in (None, str(each.trial.trial_id))), None)
    labels = None if view is None else labelled(console.store, name, view.trial.trial_id)
    ended = [each for each in found if each.report is not None]
    return shown(request, "trials.html", person, line=name, view=view, labels=labels, ended=ended)


def changed(request: Request) -> Response:
    """The picture of an image that the gauges of a trial decide differently."""
    console, _ = entered(request)
    view = trial_of(console.store, line_of(request), request.path_params["trial_id"])
    found = () if view is None else view.tally.changed
    uris = (each.image_uri for each in found if each.verdict_id == request.path_params["verdict_id"])
    uri = next(uris, None)
    if uri is None:
        raise HTTPException(404, "The trial shows no such image.")
    return _picture(lambda: console.thumbnail(uri))


def threshold(request: Request) -> Response:
    """What the line's threshold costs, and what any other would; where it is set."""
    console, person = entered(request)
    name = line_of(request)
    return shown(request, "threshold.html", person, **about_threshold(console, name, _asked(request)))


def price(request: Request) -> Response:
    """The part of it that tells one value's price, as a person types it."""
    console, _ = entered(request)
    name = line_of(request)
    return HTMLResponse(rendered("price.html", **_price(console.evidence(name), _asked(request))))


def about_threshold(console: Console, name: str, value: float | None) -> dict[str, Any]:
    # loads what loads a gauge, which takes ten seconds
    from flowgauge.reports.threshold import cheapest_words, price_words, sentences

    found = console.evidence(name)
    points = found.known.shown()
    return _price(found, value) | {
        "found": found,
        "rows": [price_words(found, point) for point in points],
        "active": found.known.threshold.value,
        "is_active": [point.threshold == found.known.threshold.value for point in points],
        "sentences": [found.known.threshold.sentence, *sentences(found)],
        "cheapest": cheapest_words(found, points),
        "wrong": "",
        "typed": {},
    }


def _price(found: "LineEvidence", value: float | None) -> dict[str, Any]:
    """Of the active threshold where no value is asked for."""
    from flowgauge.reports.threshold import price_words, threshold_chart

    point = found.known.at(found.known.threshold.value if value is None else value)
    with DRAWING:
        drawn = threshold_chart(found, point).markup
    return {"line": found.line, "asked": point.threshold, "price": price_words(found, point), "chart": drawn}


def _asked(request: Request) -> float | None:
    """Raises 400 for what is no number."""
    text = request.query_params.get("value", "").strip()
    from flowgauge.services.threshold import finite

    try:
        return finite(float(text)) if text else None
    except ValueError as error:  # a UserError is one too
        raise HTTPException(400, "A threshold is a finite number, such as 2.1.") from error


def comparison(request: Request) -> Response:
    """Where two gauges of a line are chosen, to be compared on the same images."""
    console, person = entered(request)
    return shown(request, "comparison.html", person, **about_comparison(console, line_of(request)))


def about_comparison(console: Console, name: str) -> dict[str, Any]:
    """The newest gauge and the one before it are chosen."""
    versions = list(dict.fromkeys(each.version for each in console.overview.gauges(name)))
    chosen = [*reversed(versions[:2])]
    return {"line": name, "versions": versions, "chosen": chosen, "facts": None, "wrong": ""}


def settings(request: Request) -> Response:
    """The settings of a line, each with what it means."""
    console, person = entered(request)
    name = line_of(request)
    return shown(request, "settings.html", person, **about_settings(console, name))


def about_settings(console: Console, name: str) -> dict[str, Any]:
    values = line_settings(console.store.objects, name).model_dump(mode="json", exclude={"schema_version"})
    described = {
        key: (field.description, field.default) for key, field in LineSettings.model_fields.items() if key in values
    }
    return {"line": name, "values": values, "shown": values, "described": described, "wrong": ""}


def dead_letters(request: Request) -> Response:
    """The last messages that could not be processed, each with its reason."""
    console, person = entered(request)
    found = latest_dead_letters(console.store.log, _DEAD_LETTERS)
    replayed = {(each.partition, each.offset): replayed_at(console.store.state, each) for each in found}
    return shown(request, "dead_letters.html", person, letters=found, replayed=replayed)


def dead_letter_preview(request: Request) -> Response:
    console, _ = entered(request)
    letter = dead_letter(console, int(request.path_params["partition"]), int(request.path_params["offset"]))
    answer = _picture(lambda: jpeg(letter.value, LARGE))
    # of a topic that is made anew another one lies there
    answer.headers["cache-control"] = "no-store"
    return answer


def dead_letter(console: Console, partition: int, offset: int) -> Record:
    """Raises 404 where there is none."""
    log = console.store.log
    if 0 <= partition < log.partitions(DEAD_LETTERS) and 0 <= offset < log.end(DEAD_LETTERS, partition):
        for record in log.read(DEAD_LETTERS, partition, offset, 1):
            if record.offset == offset:
                return record
    raise HTTPException(404, "There is no such dead letter.")


def changes(request: Request) -> Response:
    """What people have changed, the newest first."""
    console, person = entered(request)
    return shown(request, "changes.html", person, changes=latest_changes(console.store, _CHANGES))


def sign_in(request: Request) -> Response:
    console = console_of(request)
    person = console.access.person(request)
    if person is not None:
        return RedirectResponse("/", 303)
    return shown(request, "sign_in.html", None, to=request.query_params.get("to", "/"), wrong="")


def verdict_of(request: Request) -> Verdict:
    """The verdict of the path, which the archive is searched for at the `day` of the query, where there is one. Raises
    404 where there is none.
    """
    verdict_id: UUID = request.path_params["verdict_id"]
    day = request.query_params.get("day", "")
    try:
        of = date.fromisoformat(day) if day else None
    except ValueError as error:
        raise HTTPException(400, "A day is written as 2026-11-28.") from error
    try:
        return console_of(request).verdict(verdict_id, of)
    except UserError as error:
        raise HTTPException(404, str(error)) from error


def _report(request: Request) -> AdaptationReport:
    found = audit(console_of(request).store, line_of(request), str(request.path_params["version"]))
    if found is None:
        raise HTTPException(404, "No adaptation of that version was decided.")
    return found


def _manifest(console: Console, name: str, version: str) -> Mapping[str, Any] | None:
    """Of a stored gauge, without the libraries that load one; None for one that is gone or cannot be read."""
    try:
        found: dict[str, Any] = json.loads(fetch_manifest(console.store.objects, name, version))
    except (UserError, ValueError):
        return None
    return found


def _instant(request: Request, key: str) -> datetime | None:
    text = request.query_params.get(key, "")
    try:
        at = datetime.fromisoformat(text) if text else None
    except ValueError as error:
        raise HTTPException(400, f"{key} is no time: write 2026-11-28T06:00.") from error
    if at is None:
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    # beyond these, arithmetic on days leaves the calendar
    return min(max(at, datetime(2, 1, 1, tzinfo=UTC)), datetime(9999, 1, 1, tzinfo=UTC))


def _picture(make: Callable[[], bytes]) -> Response:
    """A JPEG that the browser may keep. Raises 404 where there is none, and 415 for what cannot be decoded."""
    try:
        data = make()
    except KeyError as error:
        raise HTTPException(404, "The image is no longer stored.") from error
    except UserError as error:
        raise HTTPException(404, str(error)) from error
    except UnreadableImage as error:
        raise HTTPException(415, str(error)) from error
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400, immutable"})
