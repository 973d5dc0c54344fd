"""`flowgauge notify`: try routes out before a night depends on them."""

from pathlib import Path
from typing import Annotated

import typer

from flowgauge.app.notify import checked_routes, open_messenger
from flowgauge.cli import options
from flowgauge.cli.exits import Exit
from flowgauge.cli.output import emit, listing, say, show
from flowgauge.domain.alert_kinds import ABOUT, Ending, Severity
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import AlertKind
from flowgauge.processors.delivery import shown

notify = typer.Typer(no_args_is_help=True)


@notify.command("test")
def try_out(
    routes: Annotated[
        Path, typer.Option(envvar="FLOWGAUGE_NOTIFY", metavar="FILE", help="The TOML file of routes to try out.")
    ],
    json: options.Json = False,
) -> None:
    """Send a test message through every route, and say of each address whether it took it.

    Lines, kinds, severity and quiet hours do not matter to it. The exit code
    is 1 where an address took none.

    \b
    flowgauge notify test --routes notify.toml
    """
    messenger = open_messenger()
    tried = []
    for name, route in checked_routes(routes, messenger).routes.items():
        for address in route.to:
            title = f"[test] Flowgauge reaches route {name}"
            body = f"This is a test: alerts of route {name} will come here. Nothing has happened."
            reason = ""
            try:
                messenger.send(address.url.get_secret_value(), title, body, Severity.INFO)
            except Unavailable as error:
                reason = str(error)
            tried.append({"route": name, "to": shown(address, messenger), "arrived": not reason, "reason": reason})
    listing(
        json,
        tried,
        {"route": "route", "to": "to", "arrived": lambda each: "yes" if each["arrived"] else "no", "": "reason"},
    )
    if not all(each["arrived"] for each in tried):
        raise typer.Exit(Exit.FAILED)


@notify.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The TOML file of routes.")], json: options.Json = False
) -> None:
    """Look through a file of routes, and print what would go where; nothing is sent.

    A mistake is named with its route and what may stand there, with exit
    code 2.

    docs/how-to/notify.md has a whole file, and all that may stand in one.

    \b
    flowgauge notify check notify.toml
    flowgauge notify check notify.toml --json
    """
    messenger = open_messenger()
    found = checked_routes(file, messenger)
    takers = {kind: [name for name, route in found.routes.items() if route.admits(kind)] for kind in AlertKind}
    if json:
        emit(
            {
                "console": found.console,
                "routes": [
                    {
                        "route": name,
                        "to": [shown(address, messenger) for address in route.to],
                        "lines": list(route.lines),
                        "quiet": None if route.quiet is None else str(route.quiet),
                        "repeat_after_seconds": route.repeat_after.total_seconds() if route.repeat_after else None,
                        "digest_seconds": route.digest_seconds,
                    }
                    for name, route in found.routes.items()
                ],
                "kinds": {
                    kind.value: {"severity": ABOUT[kind].severity.value, "routes": names}
                    for kind, names in takers.items()
                },
            }
        )
        return
    show(
        ("route", "to", "lines", "quiet", "told again after", "digest, s"),
        (
            (
                name,
                ", ".join(shown(address, messenger) for address in route.to),
                ", ".join(route.lines),
                None if route.quiet is None else f"{route.quiet}{', critical passes' if route.critical_passes else ''}",
                route.repeat_after,
                route.digest_seconds,
            )
            for name, route in found.routes.items()
        ),
    )
    say("")
    show(
        ("kind", "severity", "routes", "tells of its end"),
        (
            (
                kind.value,
                ABOUT[kind].severity.value,
                ", ".join(names) or None,
                "no" if ABOUT[kind].ending is Ending.NONE else "yes",
            )
            for kind, names in takers.items()
        ),
    )
