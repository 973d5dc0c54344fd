"""Which adapters stand behind the ports of a store. What runs on one is wired in `embedded` and `cluster`, which load
the processors and their libraries.
"""

from contextlib import suppress
from pathlib import Path

from flowgauge.domain.errors import SettingsError, install
from flowgauge.domain.ports import Clock
from flowgauge.local import SystemClock
from flowgauge.local.file_system import refuse_network
from flowgauge.local.log import LocalLog
from flowgauge.local.objects import LocalObjects
from flowgauge.local.state import LocalState
from flowgauge.runtime.backend import Store

_SUPPORTED = "Name a directory, such as --store ./plant, or a bucket, such as --store s3://flowgauge."


def open_store(uri: str, clock: Clock | None = None, partitions: int = 1) -> Store:
    """The store at `uri`: a directory (also as `file:///...`), made if it is not there, or `s3://BUCKET`.

    A directory holds everything; `partitions` must be what it was made with. Beside a bucket, the environment names
    Kafka for the topics and Redis for the state (see `flowgauge.settings.environment`); nothing is connected before it
    is used. Raises `SettingsError` for what is no such address, for variables or libraries that are missing, and for a
    directory on a network file system.
    """
    clock = clock or SystemClock()
    if uri.startswith("s3://"):
        try:
            from flowgauge.app.cluster import open_cluster  # its libraries are an extra
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"A store at s3:// needs {error.name}, which is not installed.",
                install("stream"),
            ) from error
        return open_cluster(uri, clock)
    root = directory(uri)
    refuse_network(root)
    objects = LocalObjects(root / "objects")
    objects.sweep()
    log = LocalLog(root / "log.db", clock, partitions)
    return Store(uri, log, objects, LocalState(root / "state.db", clock), clock)


def open_existing(uri: str) -> Store:
    """The same for a command that makes no store: raises `SettingsError` where there is no such directory, so that a
    mistyped one is no empty store.
    """
    if not uri.startswith("s3://"):
        root = directory(uri)
        refuse_network(root)
        with suppress(OSError):  # of a disk that fails, which opening the store reports
            if not root.is_dir():
                raise SettingsError(f"There is no store at {uri}.", "Check --store; `flowgauge fit` makes one.")
    return open_store(uri)


def directory(uri: str) -> Path:
    """Of a store that one process works on. Raises `SettingsError` for another address."""
    scheme, found, rest = uri.partition("://")
    if found and scheme != "file":
        raise SettingsError(f"A store at {scheme}:// is not supported.", _SUPPORTED)
    if not uri:
        raise SettingsError("The store has no address.", _SUPPORTED)
    return Path(rest if found else uri)


def is_shared(store: Store) -> bool:
    """Whether many processes work on `store`, and not one `Runner` alone."""
    return not isinstance(store.log, LocalLog)
