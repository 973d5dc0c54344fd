"""`flowgauge adapt`: a person asks for an adaptation, or approves one that was proposed."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from adapters.cli import options
from adapters.cli.exits import Exit
from adapters.cli.output import emit, say, stderr
from core.errors import StoreBusy, UserError

if TYPE_CHECKING:
    from core.messages import AdaptationRequest, Alert
    from streams.store import Store


def adapt(
    line: options.Line,
    store: options.Store,
    approve: Annotated[
        bool, typer.Option("--approve", help="Only if an adaptation was proposed; says what led to the proposal.")
    ] = False,
    device: options.DeviceOption = options.Device.AUTO,
    json: options.Json = False,
) -> None:
    """Re-cut a line's gauge from its buffer, now, whatever its policy.

    The gate decides whether the candidate replaces the gauge: exits with 0
    when it did and with 3 when the gauge stays. While a runner works on the
    store, the request is left to it.

    \b
    flowgauge adapt --line press-3 --store ./plant
    flowgauge adapt --line press-3 --store ./plant --approve
    """
    from adapters.cli.model import loading
    from core.adaptation.adapt import adapt as make_candidate
    from streams.adaptation import request_adaptation
    from streams.bootstrap import embedded, open_store
    from streams.snapshots import active_snapshot

    with open_store(store) as plant, stderr().status("adapting"):
        active_snapshot(plant.log, line)
        if approve:
            stderr().print(escape(_proposal(plant, line).message))
        request = _request(plant, line)
        request_adaptation(plant, request)
        try:
            embedded(plant, loading(device), make_candidate).run_until_idle()
        except StoreBusy:
            stderr().print("A runner works on this store and carries the request out.")
            return
        decision = _decision(plant, request)
    _tell(decision, json)


def _proposal(plant: "Store", line: str) -> "Alert":
    """The latest proposal. Raises `UserError` unless there is one that nothing was decided on since."""
    from core.messages import AlertKind
    from streams.alerts import alerts

    found = alerts(plant.log, line)
    proposals = [alert for alert in found if alert.kind is AlertKind.ADAPTATION_PROPOSED]
    decided = (AlertKind.ADAPTATION_ACCEPTED, AlertKind.ADAPTATION_REFUSED)
    last = max((alert.at for alert in found if alert.kind in decided), default=None)
    if not proposals or (last is not None and proposals[-1].at <= last):
        raise UserError(f"No adaptation of line {line} is proposed.", "Without --approve it is carried out anyway.")
    return proposals[-1]


def _request(plant: "Store", line: str) -> "AdaptationRequest":
    from getpass import getuser
    from uuid import uuid4

    from core.messages import AdaptationRequest, Reason

    return AdaptationRequest(
        request_id=uuid4(), line=line, reason=Reason.PERSON, requested_at=plant.clock.now(), requested_by=getuser()
    )


def _decision(plant: "Store", request: "AdaptationRequest") -> "Alert":
    """The alert that says what came of `request`; of a later one of a person, where that took its place."""
    from core.messages import AlertKind
    from streams.alerts import alerts

    decided = (AlertKind.ADAPTATION_ACCEPTED, AlertKind.ADAPTATION_REFUSED)
    return [alert for alert in alerts(plant.log, request.line) if alert.kind in decided][-1]


def _tell(decision: "Alert", json: bool) -> None:
    from core.messages import AlertKind

    accepted = decision.kind is AlertKind.ADAPTATION_ACCEPTED
    if json:
        emit({"accepted": accepted} | decision.model_dump(mode="json"))
    else:
        say(decision.message)
    raise typer.Exit(Exit.FINE if accepted else Exit.REFUSED)
