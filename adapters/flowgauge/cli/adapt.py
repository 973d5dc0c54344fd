"""`flowgauge adapt`: a person asks for an adaptation, or approves one that was proposed."""

from typing import Annotated
from uuid import UUID

import typer

from flowgauge.app.bootstrap import is_shared, open_existing
from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.output import emit, say, stderr
from flowgauge.cli.person import person
from flowgauge.domain.errors import StoreBusy, UserError
from flowgauge.domain.messages import AdaptationRequest, AlertKind
from flowgauge.runtime.backend import Store
from flowgauge.services.decisions import approved, requested, send


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
    """Adapt a line's gauge to its buffer now, whatever its policy.

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
    with open_existing(store) as plant, stderr().status("adapting"):
        request = _request(plant, line, approve)
        decisions = send(plant, request)
        if no_wait:
            if json:
                emit(request)
            else:
                say(f"Request {request.request_id} is made; `flowgauge alerts` tells what comes of it.")
            return
        _carry_out(plant, device)
        decision = decisions.awaited(request, timeout)
        instead = decisions.instead(request)
    if instead is not None:
        stderr().print(f"Another request of line {request.line} came with yours, and {instead} was carried out.")
    accepted = decision.kind is AlertKind.ADAPTATION_ACCEPTED
    if json:
        emit(
            {"accepted": accepted, "request_id": str(instead or request.request_id)} | decision.model_dump(mode="json")
        )
    else:
        say(decision.message)
    raise typer.Exit(Exit.FINE if accepted else Exit.REFUSED)


def _request(plant: Store, line: str | None, approve: str | None) -> AdaptationRequest:
    if approve is None:
        if line is None:
            raise UserError("No line is named.", "Give --line, or --approve and the id of what was proposed.")
        return requested(line, person(), plant.clock.now())
    try:
        request_id = UUID(approve)
    except ValueError as error:
        raise UserError(f"{approve!r} is no id of a request.", "`flowgauge alerts` tells what is proposed.") from error
    request = approved(plant.log, request_id, person(), plant.clock.now())
    if line not in (None, request.line):
        raise UserError(f"{approve} was proposed for line {request.line}.", "Leave --line out.")
    return request


def _carry_out(plant: Store, device: options.Device) -> None:
    """Here, unless others work on the store."""
    if is_shared(plant):
        stderr().print("An adaptation worker carries the request out.")
        return
    # torch, which takes seconds and 800 MiB: a request that is left to others does without
    from flowgauge.adaptation.adapt import adapt as make_candidate
    from flowgauge.app.embedded import embedded
    from flowgauge.cli.model import loading

    try:
        embedded(plant, loading(device), make_candidate).run_until_idle()
    except StoreBusy:
        stderr().print("A runner works on this store and carries the request out.")
