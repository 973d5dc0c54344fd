"""Alerts that are told, and a messenger that keeps what it is given."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from flowgauge.domain.alert_kinds import Severity
from flowgauge.domain.errors import SettingsError, Unavailable
from flowgauge.domain.messages import AlertKind
from flowgauge.domain.routes import Routes
from flowgauge.processors.delivery import Delivery
from flowgauge.processors.notifying import Notifying
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.settings.routes import read_routes
from tests.support.streaming import LINE

ROUTE = '[routes.all]\nto = ["memory:a"]\nseverity = "info"\n'
"""Everything to one address."""


@dataclass(frozen=True)
class Sent:
    to: str
    title: str
    body: str
    severity: Severity | None


@dataclass
class Memory:
    """The port of messages without a network. Addresses begin with `memory:`; those in `dead` take nothing, but every
    try is in `tries`."""

    sent: list[Sent] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    tries: list[str] = field(default_factory=list)

    def check(self, address: str) -> None:
        if not address.startswith("memory:"):
            raise SettingsError("This is no address of the memory's.", "Write memory:NAME.")

    def shown(self, address: str) -> str:
        return address

    def send(self, address: str, title: str, body: str, severity: Severity | None) -> None:
        self.tries.append(address)
        if address in self.dead:
            raise Unavailable("It is dead.", "Revive it.")
        self.sent.append(Sent(address, title, body, severity))

    def titles(self, to: str = "memory:a") -> list[str]:
        return [each.title for each in self.sent if each.to == to]

    def bodies(self, to: str = "memory:a") -> list[str]:
        return [each.body for each in self.sent if each.to == to]


def routes_of(folder: Path, text: str = ROUTE, **environment: str) -> Routes:
    path = folder / "notify.toml"
    path.write_text(text, encoding="utf-8")
    return read_routes(path, environment)


def notify(store: Store, routes: Routes, messenger: Memory) -> Worker:
    """A worker as a start makes it, which sends in the caller's thread."""
    delivery = Delivery(messenger, store.state, store.clock)
    return Worker(Notifying(store, routes, delivery), store.log, store.clock, 256)


def raise_alert(
    store: Store,
    kind: AlertKind,
    trigger: str = "1",
    count: int = 1,
    line: str = LINE,
    at: datetime | None = None,
    **detail: Any,
) -> None:
    at = at or store.clock.now()
    store.log.append([alert(line, kind, trigger, at, f"{line}: {kind.value} {trigger}.", count, **detail)])


def work(worker: Worker) -> None:
    """Until there is nothing to do, and what is due has been sent."""
    while worker.step():
        pass
    assert worker.error is None
