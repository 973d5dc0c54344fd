"""Who is asking, and what they may do: sessions, the reverse proxy's header, and proof that a form is ours."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest, new
from ipaddress import ip_address, ip_network
from pathlib import Path
from secrets import token_urlsafe
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from flowgauge.console.users import Guessing, Role, Users
from flowgauge.domain.errors import SettingsError
from flowgauge.domain.ports import State

COOKIE = "flowgauge_session"
_LOCAL = ("127.0.0.1", "localhost", "::1")
# a shift and its handover: shorter, and people sign in twice a day; longer, and a screen that was left stays open
_SESSION_SECONDS = 12 * 3_600.0


@dataclass(frozen=True)
class Binding:
    """Where the console listens, and how it knows who asks.

    `users` is the file of local users; `proxy_header` is set by a reverse proxy at one of the `trusted` addresses or
    networks. Without either the console is for whoever works at this machine.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    users: Path | None = None
    proxy_header: str | None = None
    trusted: Sequence[str] = ()
    certificate: Path | None = None
    key: Path | None = None

    def checked(self) -> "Binding":
        """Raises `SettingsError` for a way in that anybody on the network could take."""
        if (self.proxy_header is None) != (not self.trusted):
            raise SettingsError(
                "A header names the user only where a proxy is trusted.", "Give --proxy-header and --trust together."
            )
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("A certificate needs its key.", "Give --tls-cert and --tls-key together.")
        for each in self.trusted:
            try:
                ip_network(each)
            except ValueError as error:
                raise SettingsError(f"{each} is no address: {error}.", "Write 10.0.0.7 or 10.0.0.0/24.") from error
        if self.is_local:
            return self
        if self.users is None and self.proxy_header is None:
            raise SettingsError(
                f"On {self.host} anybody on the network could change what decides over products.",
                "Give --users FILE (made by `flowgauge console user add`), or --proxy-header with --trust, or leave"
                " --host out.",
            )
        if self.certificate is None and self.proxy_header is None:
            raise SettingsError(
                f"On {self.host} passwords would cross the network in the clear.",
                "Give --tls-cert and --tls-key, or put a reverse proxy before it (--proxy-header and --trust).",
            )
        return self

    @property
    def is_local(self) -> bool:
        return self.host in _LOCAL

    @property
    def is_open(self) -> bool:
        """Whether nobody has to sign in."""
        return self.users is None and self.proxy_header is None


@dataclass(frozen=True)
class Person:
    """Who asks."""

    name: str
    role: Role


def proof_of(token: str) -> str:
    """What a form of ours holds, for the session of `token`; nobody makes it who does not know the cookie."""
    return new(token.encode(), b"csrf", sha256).hexdigest()


class Access:
    """Says who asks, by cookie, by the proxy's header, or that it is whoever works at this machine (`local`).

    Sessions are kept in the store's state under the hash of their token, so they outlive a restart and end when they
    are signed out of.
    """

    def __init__(self, binding: Binding, state: State, local: str) -> None:
        self.binding = binding
        self.users = None if binding.users is None else Users(binding.users)
        self.guessing = Guessing()
        self._state = state
        self._local = local
        self._networks = [ip_network(each) for each in binding.trusted]

    def person(self, connection: HTTPConnection) -> Person | None:
        """None for who has not signed in."""
        token = connection.state.token
        if self.binding.proxy_header is not None and self._is_trusted(connection):
            name = connection.headers.get(self.binding.proxy_header, "").strip()
            if name:
                role = (self.users.role(name) if self.users else None) or Role.VIEWER
                return Person(name, role)
        if self.binding.is_open:
            return Person(self._local, Role.ENGINEER)
        if self.users is None:
            return None
        stored = self._state.get(_session_key(token))
        if not stored:
            return None
        session = json.loads(stored)
        found = self.users.role(session["name"])
        if found is None or session["mark"] != self.users.mark(session["name"]):
            return None
        return Person(session["name"], found)

    def require(self, request: Request, role: Role) -> Person:
        """The person who asks. Raises 401 for nobody and 403 for one who may not."""
        person = self.person(request)
        if person is None:
            raise HTTPException(401, "Sign in first.")
        if person.role < role:
            raise HTTPException(403, f"That takes the role {role.word}; {person.name} is {person.role.word}.")
        return person

    def require_same_site(self, request: Request, proof: str) -> None:
        """Raises 403 for a request that changes something and was not made by a page of ours."""
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            raise HTTPException(403, "The request came from another site.")
        if not compare_digest(proof.encode(), proof_of(request.state.token).encode()):
            raise HTTPException(403, "The page is out of date: load it again.")

    def check_host(self, connection: HTTPConnection) -> None:
        """Raises 400 where a name that is not this machine's leads to the open console: another site's script could
        use it so (DNS rebinding)."""
        try:
            name = urlsplit(f"//{connection.headers.get('host', '')}").hostname
        except ValueError:
            name = None
        if self.binding.is_open and name not in _LOCAL:
            raise HTTPException(400, f"Without users, the console answers on {', '.join(_LOCAL)} alone.")

    def check_way(self, connection: HTTPConnection) -> None:
        """Raises 403 for who comes past the reverse proxy: there is no TLS on that way."""
        binding = self.binding
        in_the_clear = binding.proxy_header is not None and binding.certificate is None and not binding.is_local
        if in_the_clear and not self._is_trusted(connection):
            raise HTTPException(403, "The console is reached through its reverse proxy alone.")

    def sign_in(self, name: str, response: Response) -> None:
        """Under a new token: whoever knew the one before knows nothing of this session."""
        token, mark = token_urlsafe(32), "" if self.users is None else self.users.mark(name)
        self._state.put(_session_key(token), json.dumps({"name": name, "mark": mark}).encode(), _SESSION_SECONDS)
        self.give(token, response)

    def sign_out(self, request: Request, response: Response) -> None:
        self._state.put(_session_key(request.state.token), b"", 1.0)
        response.delete_cookie(COOKIE, path="/")

    def give(self, token: str, response: Response) -> None:
        """The cookie from which a browser's next request has `token`."""
        secure = self.binding.certificate is not None or self.binding.proxy_header is not None
        response.set_cookie(
            COOKIE, token, max_age=int(_SESSION_SECONDS), path="/", secure=secure, httponly=True, samesite="strict"
        )

    def _is_trusted(self, connection: HTTPConnection) -> bool:
        if connection.client is None:
            return False
        try:
            address = ip_address(connection.client.host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _session_key(token: str) -> str:
    return f"console-session/{sha256(token.encode()).hexdigest()}"
