"""`flowgauge adapt`: a person asks for an adaptation, or approves one that was proposed."""

from typing import TYPE_CHECKING, Annotated

import typer

from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.output import emit, say, stderr
from flowgauge.domain.errors import StoreBusy, Unavailable, UserError

if TYPE_CHECKING:
    from uuid import UUID

    from flowgauge.domain.messages import AdaptationRequest, Alert
    from flowgauge.runtime.backend import Store
    from flowgauge.services.decisions import Decisions

_POLL_SECONDS = 0.2


def adapt(
    store: options.Store,
    line: Annotated[str | None, typer.Option(help="The line; not needed with --approve.")] = None,
    approve: Annotated[
        str | None, typer.Option(metavar="REQUEST_ID", help="Carry out what was proposed under this id.")
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Leave the request to whoever works on the store, and return.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for another's decision.")] = 600,
    device: options.DeviceOption = options.Device.AUTO,
    json: options.Json = False,
) -> None:
    """Re-cut a line's gauge from its buffer, now, whatever its policy.

    The gate decides whether the candidate replaces the gauge: exits with 0
    when it did and with 3 when the gauge stays. On a store at s3:// an
    adaptation worker carries the request out, and on a directory a runner that
    works on it; else this command does. What is proposed is among the alerts
    (flowgauge alerts), with the id to approve it by.

    \b
    flowgauge adapt --line press-3 --store ./plant
    flowgauge adapt --approve 5b6e2a70-52f0-5f1c-9f43-0d6a3b1c7e11
    flowgauge adapt --line press-3 --no-wait --store s3://flowgauge
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.processors.adaptation import request_adaptation
    from flowgauge.registry.snapshots import active_snapshot
    from flowgauge.services.decisions import Decisions

    with open_store(store) as plant, stderr().status("adapting"):
        request = _request(plant, line, approve)
        active_snapshot(plant.log, request.line)
        decisions = Decisions(plant.log)
        request_adaptation(plant, request)
        if no_wait:
            _leave(request, json)
            return
        _carry_out(plant, device)
        decision = _awaited(decisions, request, timeout)
        instead = decisions.instead(request)
    if instead is not None:
        stderr().print(f"Another request of line {request.line} came with yours, and {instead} was carried out.")
    _tell(decision, instead or request.request_id, json)


def _request(plant: "Store", line: str | None, approve: str | None) -> "AdaptationRequest":
    from flowgauge.services.decisions import approved

    if approve is None:
        return _own(plant, line)
    request = approved(plant.log, _request_id(approve), _person(), plant.clock.now())
    if line not in (None, request.line):
        raise UserError(f"{approve} was proposed for line {request.line}.", "Leave --line out.")
    return request


def _request_id(text: str) -> "UUID":
    from uuid import UUID

    try:
        return UUID(text)
    except ValueError as error:
        raise UserError(f"{text!r} is no id of a request.", "`flowgauge alerts` tells what is proposed.") from error


def _person() -> str:
    """Who calls; their number where the system knows no name, as in many containers."""
    import os
    from getpass import getuser

    try:
        return getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _own(plant: "Store", line: str | None) -> "AdaptationRequest":
    from uuid import uuid4

    from flowgauge.domain.messages import AdaptationRequest, Reason
    from flowgauge.domain.object_keys import line_name

    if line is None:
        raise UserError("No line is named.", "Give --line, or --approve and the id of what was proposed.")
    return AdaptationRequest(
        request_id=uuid4(),
        line=line_name(line),
        reason=Reason.PERSON,
        requested_at=plant.clock.now(),
        requested_by=_person(),
    )


def _carry_out(plant: "Store", device: options.Device) -> None:
    """Here, unless others work on the store."""
    from flowgauge.adaptation.adapt import adapt as make_candidate
    from flowgauge.app.bootstrap import embedded, is_shared
    from flowgauge.cli.model import loading

    if is_shared(plant):
        stderr().print("An adaptation worker carries the request out.")
        return
    try:
        embedded(plant, loading(device), make_candidate).run_until_idle()
    except StoreBusy:
        stderr().print("A runner works on this store and carries the request out.")


def _awaited(decisions: "Decisions", request: "AdaptationRequest", timeout: float) -> "Alert":
    """Raises `Unavailable` when nothing is decided within `timeout` seconds."""
    from time import monotonic, sleep

    deadline = monotonic() + timeout
    while (decision := decisions.of(request)) is None:
        if monotonic() >= deadline:
            raise Unavailable(
                f"Nothing was decided on line {request.line} within {timeout:g} s; the request stays.",
                "Is an adaptation worker alive? `flowgauge worker adaptation` starts one, and --timeout waits longer.",
            )
        sleep(_POLL_SECONDS)
    return decision


def _leave(request: "AdaptationRequest", json: bool) -> None:
    if json:
        emit(request.model_dump(mode="json"))
    else:
        say(f"Request {request.request_id} is made; `flowgauge alerts` tells what comes of it.")


def _tell(decision: "Alert", request_id: "UUID", json: bool) -> None:
    from flowgauge.domain.messages import AlertKind

    accepted = decision.kind is AlertKind.ADAPTATION_ACCEPTED
    if json:
        emit({"accepted": accepted, "request_id": str(request_id)} | decision.model_dump(mode="json"))
    else:
        say(decision.message)
    raise typer.Exit(Exit.FINE if accepted else Exit.REFUSED)
