"""The only wiring: which adapter stands behind which port, and which processors run on them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event

from flowgauge.adaptation.contract import Adapt
from flowgauge.domain.errors import SettingsError
from flowgauge.domain.ports import Clock
from flowgauge.local import SystemClock
from flowgauge.local.disposal import Disposal
from flowgauge.local.file_system import only_runner, refuse_network
from flowgauge.local.folder import FolderSource
from flowgauge.local.folder_options import DEFAULTS, After, FolderOptions
from flowgauge.local.log import LocalLog
from flowgauge.local.objects import LocalObjects
from flowgauge.local.state import LocalState
from flowgauge.local.tree import Tell
from flowgauge.processors.adaptation import Adaptation
from flowgauge.processors.alerting import Alerting
from flowgauge.processors.archive import Archive
from flowgauge.processors.observing import Observing
from flowgauge.processors.scoring import Scoring
from flowgauge.registry.gauges import Gauges, Load
from flowgauge.runtime.backend import Store
from flowgauge.runtime.local_runner import LogTrimming, Runner, RunnerConfig, Source
from flowgauge.runtime.processor import Processor
from flowgauge.runtime.task import Observer
from flowgauge.runtime.worker import OnUnavailable, Worker
from flowgauge.services.retention import PassRetention

_SUPPORTED = "Name a directory, such as --store ./plant, or a bucket, such as --store s3://flowgauge."
_MOVING = "Give --after move and --move-to FOLDER together."
_BUCKET = "s3://"


def open_store(uri: str, clock: Clock | None = None, partitions: int = 1) -> Store:
    """The store at `uri`: a directory (also as `file:///...`), made if it is not there, or `s3://BUCKET`.

    A directory holds everything; `partitions` must be what it was made with. Beside a bucket, the environment names
    Kafka for the topics and Redis for the state (see `flowgauge.settings.environment`); nothing is connected before it
    is used. Raises `SettingsError` for what is no such address, for variables that are missing,
    and for a directory on a network file system.
    """
    clock = clock or SystemClock()
    if uri.startswith(_BUCKET):
        return _cluster_store(uri, clock)
    root = _directory(uri)
    refuse_network(root)
    objects = LocalObjects(root / "objects")
    objects.sweep()
    log = LocalLog(root / "log.db", clock, partitions)
    return Store(uri, log, objects, LocalState(root / "state.db", clock), clock)


def _cluster_store(uri: str, clock: Clock) -> Store:
    """Raises `SettingsError` where the libraries are missing: they are an extra."""
    try:
        from flowgauge.app.cluster import open_cluster
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"A store at s3:// needs {error.name}, which is not installed.",
            "Install the extra: pip install 'flowgauge[stream]'.",
        ) from error
    return open_cluster(uri, clock)


def is_shared(store: Store) -> bool:
    """Whether many processes work on `store`, and not one `Runner` alone."""
    return not isinstance(store.log, LocalLog)


def folder_source(
    store: Store,
    folder: Path,
    line: str,
    options: FolderOptions = DEFAULTS,
    after: After = After.KEEP,
    move_to: Path | None = None,
    tell: Tell = lambda message: None,
) -> FolderSource:
    """Images that appear in `folder`, for `line`; see `FolderSource`. Raises `UserError` for a `move_to` that is of no
    use, or is missing.
    """
    if (after is After.MOVE) != (move_to is not None):
        raise SettingsError("Moving files needs a folder to move them to, and nothing else does.", _MOVING)
    log = _local_log(store)
    disposal = None if after is After.KEEP else Disposal(folder, log, move_to)
    return FolderSource(folder, line, log, store.clock, options, disposal, tell)


def embedded(
    store: Store,
    load: Load,
    adapt: Adapt,
    sources: Sequence[Source] = (),
    *,
    batch: int = 16,
    archive_rows: int = 1_024,
    observer: Observer = lambda step: None,
    unavailable: OnUnavailable = lambda name, error: None,
) -> Runner:
    """Everything in one process on a local store.

    `load` makes a gauge of a snapshot, `adapt` a candidate of a buffer. `batch` images at most are scored together; a
    runner never waits for a batch to fill. `observer` sees every batch once its results are durable, and `unavailable`
    what is away; both are called from the runner's threads, one call at a time per worker.
    """
    stopping = Event()
    gauges = Gauges(store.log, store.objects, load)

    def worker(processor: Processor, size: int) -> Worker:
        return Worker(processor, store.log, store.clock, size, observer, unavailable)

    scoring = worker(Scoring(store, gauges), batch)
    downstream = [
        worker(Alerting(store), 256),
        worker(Observing(store), 256),
        worker(Archive(store, archive_rows), 256),
    ]
    adaptation = worker(Adaptation(store, load, adapt, "embedded", stopping.is_set), 16)
    groups = {each.processor.name: each.processor.inputs for each in (scoring, *downstream, adaptation)}
    log = _local_log(store)
    return Runner(
        RunnerConfig(
            sources=sources,
            scoring=scoring,
            downstream=downstream,
            adaptation=adaptation,
            housekeeping=[LogTrimming(log, store.clock, groups, log.trim).tidy, PassRetention(store).tidy],
            alone=_alone(store),
            unavailable=unavailable,
            stopping=stopping,
            backlog=max(256, 2 * batch),
        )
    )


def _alone(store: Store) -> Callable[[], AbstractContextManager[None]]:
    lock = _directory(store.uri) / "runner.lock"
    return lambda: only_runner(lock)


def _directory(uri: str) -> Path:
    scheme, found, rest = uri.partition("://")
    if found and scheme != "file":
        raise SettingsError(f"A store at {scheme}:// is not supported.", _SUPPORTED)
    if not uri:
        raise SettingsError("The store has no address.", _SUPPORTED)
    return Path(rest if found else uri)


def _local_log(store: Store) -> LocalLog:
    if not isinstance(store.log, LocalLog):
        raise SettingsError(f"{store.uri} is shared by many workers.", "Start them with `flowgauge worker`.")
    return store.log
