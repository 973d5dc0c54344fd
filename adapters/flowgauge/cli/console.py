"""`flowgauge console`: the plant in a browser, and who may use it."""

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from flowgauge.app.bootstrap import open_existing, open_store
from flowgauge.cli import options
from flowgauge.cli.output import say, show
from flowgauge.cli.person import person
from flowgauge.console.access import Access, Binding
from flowgauge.console.app import application
from flowgauge.console.plant import Console
from flowgauge.console.users import Role, Users
from flowgauge.domain.errors import UserError
from flowgauge.services.changes import recorded

console = typer.Typer(invoke_without_command=True)
user = typer.Typer(no_args_is_help=True, help="Who may sign in to the console.")
console.add_typer(user, name="user")


class RoleName(StrEnum):
    VIEWER = "viewer"
    INSPECTOR = "inspector"
    ENGINEER = "engineer"


UsersFile = Annotated[
    Path,
    typer.Option("--users", envvar="FLOWGAUGE_CONSOLE_USERS", help="The file of users, made when the first is added."),
]
RecordedIn = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="FLOWGAUGE_STORE",
        help="Whose `flowgauge changes` shows who did it: a directory, or s3://BUCKET. Without, nothing is recorded.",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Argument(help="The name to sign in with.")]


@console.callback()
def serve(
    context: typer.Context,
    store: Annotated[
        str | None,
        typer.Option(envvar="FLOWGAUGE_STORE", help="What is shown: a directory, or s3://BUCKET.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Where it listens.")] = 8080,
    host: Annotated[str, typer.Option(help="At which of this machine's addresses; 0.0.0.0 is all.")] = "127.0.0.1",
    users: Annotated[
        Path | None,
        typer.Option(
            envvar="FLOWGAUGE_CONSOLE_USERS",
            help="Who may sign in: the file of `flowgauge console user add`.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    proxy_header: Annotated[
        str | None,
        typer.Option(help="Header in which a reverse proxy names the user who signed in to it.", show_default=False),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(help="Address or network of that proxy; may be repeated.", show_default=False),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate of the console, PEM.", metavar="FILE", show_default=False)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.", metavar="FILE", show_default=False)] = None,
    device: options.DeviceOption = options.Device.CPU,
) -> None:
    """Open the plant in a browser: lines, verdicts, review, adaptations, gauges.

    Every line at a glance; verdicts with their heatmaps, predicted again; the
    review queue by keyboard; adaptations to approve; gauges to roll back to;
    dead letters, settings, and a record of what people changed.

    Without users it is for whoever works at this machine. For others it wants
    local users and TLS, or a reverse proxy that signs people in. Viewers look,
    inspectors label, engineers approve, roll back and change settings.

    \b
    flowgauge console --store ./plant
    flowgauge console user add mara --role engineer --users users.json
    flowgauge console --store s3://flowgauge --host 0.0.0.0 \\
        --users users.json --tls-cert cert.pem --tls-key key.pem
    """
    if context.invoked_subcommand is not None:
        return
    if store is None:
        raise typer.BadParameter("Missing option '--store'.")
    binding = Binding(host, port, users, proxy_header, tuple(trust or ()), tls_cert, tls_key).checked()
    with open_existing(store) as plant:
        access = Access(binding, plant.state, person())
        served = application(Console(plant, access, "cpu" if device is options.Device.AUTO else device.value))
        scheme = "https" if tls_cert else "http"
        configured = uvicorn.Config(
            served,
            ssl_certfile=None if tls_cert is None else str(tls_cert),
            ssl_keyfile=None if tls_key is None else str(tls_key),
            log_config=None,
            access_log=False,
            server_header=False,
            # the address of whoever connects decides whom to trust, so what a header says of it must not replace it
            proxy_headers=False,
            timeout_graceful_shutdown=3,
        )
        _load(configured)
        listening = _listening(host, port)
        say(f"The console of {store} is at {scheme}://{host}:{port}/ until Ctrl-C.")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(configured).run([listening])


def _load(configured: uvicorn.Config) -> None:
    """Raises `UserError` for a certificate and key that cannot be used."""
    try:
        configured.load()
    except OSError as error:
        raise UserError(
            f"The certificate {configured.ssl_certfile} and its key {configured.ssl_keyfile} cannot be used:"
            f" {error.strerror or error}.",
            "Give PEM files that belong together and that the console may read.",
        ) from error


def _listening(host: str, port: int) -> socket.socket:
    """Raises `UserError` where the port is in use, or the address is none of this machine."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"The console cannot listen on port {port} of {host}: {error.strerror}.",
            "Choose another with --port, or another address with --host.",
        ) from error


@user.command("add")
def add_user(
    name: Name,
    users: UsersFile,
    role: Annotated[RoleName, typer.Option(help="What they may do.")] = RoleName.VIEWER,
    by_proxy: Annotated[
        bool, typer.Option("--by-proxy", help="Signed in by the reverse proxy alone: no password.")
    ] = False,
    store: RecordedIn = None,
) -> None:
    """Add a user, or change role and password of one. The password is asked for, or read from stdin.

    \b
    flowgauge console user add mara --role engineer --users users.json --store s3://flowgauge
    pass show mara | flowgauge console user add mara --users users.json
    """
    password = None
    if not by_proxy:
        password = getpass(f"Password of {name}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    known = Users(users)
    after = {"role": role.value, "signs in": "through the proxy" if by_proxy else "with a new password"}
    known.add(name, Role[role.name], password, _record(store, "add user", name, known, after))
    say(f"{name} is {role.value} in {users}.")


@user.command("remove")
def remove_user(name: Name, users: UsersFile, store: RecordedIn = None) -> None:
    """Take a user out; whoever is signed in under the name is signed out at once.

    \b
    flowgauge console user remove mara --users users.json --store s3://flowgauge
    """
    known = Users(users)
    known.remove(name, _record(store, "remove user", name, known, {}))
    say(f"{name} can no longer sign in.")


@user.command("list")
def list_users(users: UsersFile) -> None:
    """Every user and role.

    \b
    flowgauge console user list --users users.json
    """
    show(("user", "role"), ((name, role.word) for name, role in Users(users).all().items()))


@contextmanager
def _record(store: str | None, action: str, name: str, known: Users, after: Mapping[str, str]) -> Iterator[None]:
    """Around a change of the file, where a store is named that can keep its record."""
    if store is None:
        yield
        return
    role = known.role(name)
    before = {} if role is None else {"role": role.word}
    with open_store(store) as plant, recorded(plant, person(), action, None, name, before, after):
        yield
