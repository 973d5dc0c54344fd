"""The wiring of what tells people: routes, Apprise and the threads that send."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flowgauge.domain.errors import SettingsError, install
from flowgauge.domain.ports import Messenger
from flowgauge.domain.routes import Routes
from flowgauge.processors.delivery import Delivery
from flowgauge.processors.notifying import Notifying
from flowgauge.runtime.backend import Store
from flowgauge.runtime.meter import UNMETERED, Meter
from flowgauge.settings.routes import read_routes


def open_messenger() -> Messenger:
    """Raises `SettingsError` where Apprise is not installed."""
    try:
        from flowgauge.apprise import AppriseMessenger  # its library is an extra
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"Sending alerts to people needs {error.name}, which is not installed.",
            install("notify"),
        ) from error
    return AppriseMessenger()


def checked_routes(path: Path, messenger: Messenger) -> Routes:
    """The routes of a file, with variables of the environment in their place. Raises `SettingsError` for what is wrong
    with the file, and for what is no address of the messenger's; it names the route."""
    routes = read_routes(path, os.environ)
    for name, route in routes.routes.items():
        for address in route.to:
            try:
                messenger.check(address.url.get_secret_value())
            except SettingsError as error:
                raise SettingsError(f"{path}: route {name}, to: {error.cause}", error.remedy) from error
    return routes


def notifying(path: Path, store: Store, meter: Meter = UNMETERED) -> Callable[[], Notifying]:
    """What makes processors that send by the routes of a file, on threads that they share. Raises as
    `checked_routes`."""
    messenger = open_messenger()
    routes = checked_routes(path, messenger)
    # one for each address, so that one which is dead holds no other up
    sending = ThreadPoolExecutor(len(routes.addresses), thread_name_prefix="notify")
    delivery = Delivery(messenger, store.state, store.clock, sending, meter)
    return lambda: Notifying(store, routes, delivery)
