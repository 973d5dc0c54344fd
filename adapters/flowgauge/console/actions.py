"""What people change: each checks the role, calls the service that the command line calls too, and leaves a record."""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from flowgauge.console import pages
from flowgauge.console.plant import Console
from flowgauge.console.users import Role
from flowgauge.console.views import console_of, day_of, entered, line_of, shown, wants_json
from flowgauge.domain.errors import SettingsError, UserError
from flowgauge.domain.golden import Label
from flowgauge.domain.messages import Expected
from flowgauge.registry.golden_sets import Golden
from flowgauge.services import trials
from flowgauge.services.decisions import approved, requested, send
from flowgauge.services.decisions import refuse as refuse_proposal
from flowgauge.services.golden import label_verdict, unlabel
from flowgauge.services.replay import replay as send_again
from flowgauge.services.settings import change_settings

# of a line's newest images that a page compares two gauges on: more keep whoever waits longer than ten seconds, and
# `flowgauge snapshots compare` takes as many as one likes
_COMPARED = 150


def sign_in(request: Request) -> Response:
    """Raises 429 with how long to wait for who has failed too often."""
    access, form = console_of(request).access, _form(request)
    name, to = form.get("name", "")[:200], _own_path(form.get("to", "/"))
    address = _guesser(request.client.host if request.client else "")
    # a name from one address: whoever guesses from elsewhere locks out nobody but himself
    keys = (f"address {address}", f"name {name} at {address}")
    wait = access.guessing.attempt(*keys)
    if wait > 0:
        raise HTTPException(429, f"Too many attempts: wait {wait:.0f} s.", {"retry-after": str(int(wait) + 1)})
    if access.users is None or not access.users.verify(name, form.get("password", "")[:1_000]):
        return shown(request, "sign_in.html", None, 401, to=to, wrong="Name or password is wrong.")
    access.guessing.succeeded(*keys)
    answer = RedirectResponse(to, 303)
    access.sign_in(name, answer)
    return answer


def sign_out(request: Request) -> Response:
    console, _ = entered(request)
    answer = RedirectResponse("/sign-in", 303)
    console.access.sign_out(request, answer)
    return answer


def approve(request: Request) -> Response:
    """Yes to an adaptation that was proposed; a worker carries it out."""
    console, person = entered(request, Role.ENGINEER)
    store = console.store
    send(store, approved(store.log, request.path_params["request_id"], person.name, store.clock.now()))
    console.refresh()
    return RedirectResponse("/adaptations", 303)


def refuse(request: Request) -> Response:
    """No to an adaptation that was proposed, and why."""
    console, person = entered(request, Role.ENGINEER)
    request_id, why = request.path_params["request_id"], _form(request).get("why", "").strip()[:500]
    refuse_proposal(console.store, request_id, person.name, why)
    console.refresh()
    return RedirectResponse("/adaptations", 303)


def adapt(request: Request) -> Response:
    """Ask for an adaptation, whatever the line's policy; a worker carries it out."""
    console, person = entered(request, Role.ENGINEER)
    send(console.store, requested(line_of(request), person.name, console.store.clock.now()))
    console.refresh()
    return RedirectResponse("/adaptations", 303)


def predict(request: Request) -> Response:
    """A verdict again: with its own gauge, which has to give the stored score, or with the active one."""
    console, person = entered(request)
    found = pages.verdict_of(request)
    own = _form(request).get("gauge") != "active"
    repeated = console.predictions.own(found) if own else console.predictions.active(found)
    facts = pages.about_verdict(console, found) | {"repeated": repeated}
    return shown(request, "verdict.html", person, **facts)


def label(request: Request) -> Response:
    """A person's word on an image; `label` empty takes it back. The answer is the new state, for the review queue, or
    the verdict's page."""
    console, person = entered(request, Role.INSPECTOR)
    form = _form(request)
    found = pages.verdict_of(request)
    golden: Golden | None = None
    if form.get("label"):
        if form["label"] not in Label.__members__.values():
            raise HTTPException(400, "A label is good or defect.")
        given = Label(form["label"])
        kind = form.get("kind", "").strip()[:64] if given is Label.DEFECT else ""
        golden = label_verdict(console.store, found, given, kind, person.name).golden
    else:
        unlabel(console.store, found, person.name)
    if wants_json(request):
        return JSONResponse({} if golden is None else {"label": golden.label.value, "class": golden.kind})
    return RedirectResponse(f"/verdicts/{found.verdict_id}?day={day_of(found.event_time)}", 303)


def roll_back(request: Request) -> Response:
    """Make a stored gauge the active one again."""
    console, person = entered(request, Role.ENGINEER)
    # it loads the gauge, which must not become active if it cannot; see `Console.predictions`
    from flowgauge.services.snapshots import roll_back as activate

    line = line_of(request)
    activate(console.store, line, _form(request).get("version", ""), person.name)
    console.refresh()
    return RedirectResponse(f"/lines/{line}/gauges", 303)


def start_trial(request: Request) -> Response:
    """Try a stored gauge beside the active one, by the line's settings."""
    console, person = entered(request, Role.ENGINEER)
    line, form = line_of(request), _form(request)
    if (expected := form.get("expected", Expected.SAME)) not in Expected.__members__.values():
        raise HTTPException(400, "A trial expects the same alarms, fewer or more.")
    trials.start_trial(console.store, line, form.get("version", ""), person.name, Expected(expected))
    return _to_trials(console, line)


def stop_trial(request: Request) -> Response:
    """The line keeps its gauge, and why."""
    console, person = entered(request, Role.ENGINEER)
    line, form = line_of(request), _form(request)
    trials.stop_trial(console.store, line, form.get("trial", ""), person.name, form.get("why", "").strip()[:500])
    return _to_trials(console, line)


def promote(request: Request) -> Response:
    """The candidate takes over now."""
    console, person = entered(request, Role.ENGINEER)
    line = line_of(request)
    trials.promote(console.store, line, _form(request).get("trial", ""), person.name)
    return _to_trials(console, line)


def _to_trials(console: Console, line: str) -> Response:
    console.refresh()
    return RedirectResponse(f"/lines/{line}/trials", 303)


def score_labelled(request: Request) -> Response:
    """Have the active gauge score labelled images, so that they count in the prices of thresholds."""
    console, _ = entered(request)
    line = line_of(request)
    console.score_labelled(line)
    return RedirectResponse(f"/lines/{line}/threshold", 303)


def set_threshold(request: Request) -> Response:
    """Give the active gauge another threshold; nothing changes where it makes no sense, and the page says why."""
    console, person = entered(request, Role.ENGINEER)
    from flowgauge.services.threshold import announce_threshold, stored_threshold

    line, form = line_of(request), _form(request)
    try:
        given = {name: float(form[name]) for name in ("value", "false_alarms") if form.get(name, "").strip()}
        made = stored_threshold(
            console.store,
            line,
            person.name,
            value=given.get("value"),
            false_alarms=given.get("false_alarms"),
            why=form.get("why", "").strip()[:500],
            sure="sure" in form,
        )
    except ValueError as error:  # a UserError is one too
        cause = str(error) if isinstance(error, UserError) else "A threshold is a number, such as 2.1."
        facts = pages.about_threshold(console, line, None) | {"wrong": cause, "typed": form}
        return shown(request, "threshold.html", person, 400, **facts)
    announce_threshold(console.store, line, made, person.name)
    console.refresh()
    return RedirectResponse(f"/lines/{line}/threshold", 303)


def compare(request: Request) -> Response:
    """Two gauges on the line's newest images and on its golden set."""
    console, person = entered(request)
    from flowgauge.reports.snapshots import facts as compared
    from flowgauge.services.snapshot_comparison import compare_snapshots

    line, form = line_of(request), _form(request)
    facts = pages.about_comparison(console, line)
    chosen = [form.get("first", ""), form.get("second", "")]
    facts |= {"chosen": chosen}
    try:
        found = compare_snapshots(console.store, line, *chosen, images=_COMPARED, device=console.device)
    except UserError as error:
        return shown(request, "comparison.html", person, 400, **facts | {"wrong": str(error)})
    with pages.DRAWING:
        return shown(request, "comparison.html", person, **facts | {"facts": compared(found)})


def set_settings(request: Request) -> Response:
    """Change what differs from what the page showed, so that nobody undoes what a colleague changed meanwhile; nothing
    is stored where it does not hold, and the page says why."""
    console, person = entered(request, Role.ENGINEER)
    line, form = line_of(request), _form(request)
    facts = pages.about_settings(console, line)
    given = [name for name in facts["values"] if name in form]
    wanted = {name: form[name].strip() for name in given if form[name].strip() != form.get(f"was-{name}", "").strip()}
    try:
        change_settings(console.store, line, {name: value or None for name, value in wanted.items()}, person.name)
    except SettingsError as error:
        typed: dict[str, Any] = facts | {"values": facts["values"] | wanted, "wrong": error.cause}
        return shown(request, "settings.html", person, 400, **typed)
    return RedirectResponse(f"/lines/{line}/settings", 303)


def replay(request: Request) -> Response:
    """Send the original of one dead letter again."""
    console, person = entered(request, Role.ENGINEER)
    form = _form(request)
    try:
        partition, offset = int(form["partition"]), int(form["offset"])
    except (KeyError, ValueError) as error:
        raise HTTPException(400, "A dead letter is named by its partition and offset.") from error
    found = pages.dead_letter(console, partition, offset)
    if not send_again(console.store, [found], person.name, again=True).sent:
        raise HTTPException(400, "It never lay among the images, or what it held was not kept.")
    return RedirectResponse("/dead-letters", 303)


def _form(request: Request) -> Mapping[str, str]:
    form: Mapping[str, str] = request.state.form
    return form


def _guesser(host: str) -> str:
    """Whose failures count together: of IPv6 addresses, those of one network, which one machine may all have."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(address) if address.version == 4 else str(ip_network((address, 64), strict=False))


def _own_path(text: str) -> str:
    """A path of ours to go to; another site's address becomes the first page."""
    return text if text.startswith("/") and not text.startswith(("//", "/\\")) else "/"
