"""The wiring of a plant that one process runs alone, on a store in a directory."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from flowgauge.adaptation.contract import Adapt
from flowgauge.app.bootstrap import directory
from flowgauge.domain.errors import SettingsError, UserError
from flowgauge.local.disposal import Disposal
from flowgauge.local.file_system import only_runner
from flowgauge.local.folder import FolderSource
from flowgauge.local.folder_options import DEFAULTS, After, FolderOptions
from flowgauge.local.log import LocalLog
from flowgauge.local.tree import Tell
from flowgauge.processors.adaptation import Adaptation
from flowgauge.processors.alerting import Alerting
from flowgauge.processors.archive import Archive
from flowgauge.processors.observing import Observing
from flowgauge.processors.parts import Parts
from flowgauge.processors.scoring import Scoring
from flowgauge.processors.trials import Trials
from flowgauge.registry.gauges import Compile, Gauges, Load
from flowgauge.runtime.alerts import reported_counts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.local_runner import LogTrimming, Runner, RunnerConfig, Source
from flowgauge.runtime.processor import Processor
from flowgauge.runtime.task import Observer
from flowgauge.runtime.worker import OnUnavailable, Worker
from flowgauge.services.retention import PassRetention

# of verdicts, which a processor downstream takes at once: with fewer it commits more often, with more it keeps alerts
# waiting longer while a backlog is worked off
_RECORDS = 256
# to adapt, which are taken together, so that of several for one line the last is carried out: with fewer a line that
# was asked for often adapts several times in a row
_REQUESTS = 16


def folder_source(
    store: Store,
    folder: Path,
    line: str,
    options: FolderOptions = DEFAULTS,
    after: After = After.KEEP,
    move_to: Path | None = None,
    tell: Tell = lambda message: None,
) -> FolderSource:
    """Images that appear in `folder`, for `line`; see `FolderSource`. Raises `UserError` for a `folder` that shares
    files with the store, and for a `move_to` that is of no use, or is missing.
    """
    if (after is After.MOVE) != (move_to is not None):
        raise SettingsError(
            "Moving files needs a folder to move them to, and nothing else does.",
            "Give --after move and --move-to FOLDER together.",
        )
    log = _local_log(store)
    watched, kept = folder.resolve(), directory(store.uri).resolve()
    if watched.is_relative_to(kept) or kept.is_relative_to(watched):
        raise UserError(
            f"The store {store.uri} and the watched folder {folder} lie one in the other: a runner would take its own"
            " copies and heatmaps for new images.",
            "Name a store outside of the folder, and a folder outside of the store.",
        )
    disposal = None if after is After.KEEP else Disposal(folder, log, move_to)
    return FolderSource(folder, line, log, store.clock, options, disposal, tell)


def embedded(
    store: Store,
    load: Load,
    adapt: Adapt,
    sources: Sequence[Source] = (),
    *,
    compile: Compile | None = None,
    notifying: Callable[[], Processor] | None = None,
    batch: int = 16,
    archive_rows: int = 1_024,
    observer: Observer = lambda step: None,
    unavailable: OnUnavailable = lambda name, error: None,
) -> Runner:
    """Everything in one process on a local store.

    `load` makes a gauge of a snapshot, `adapt` a candidate of a buffer, `compile` a faster one of a gauge, `notifying`
    the processor that tells people, where it is given. `batch` images at most are scored together; a runner never waits
    for a batch to fill. `observer` sees every batch once its results are durable, and `unavailable` what is away; both
    are called from the runner's threads, one call at a time per worker.
    """
    stopping = Event()
    beside = None if compile is None else ThreadPoolExecutor(1, thread_name_prefix="compile")
    gauges = Gauges(store.log, store.objects, load, compile=compile, beside=beside)

    def worker(processor: Processor, size: int = _RECORDS) -> Worker:
        return Worker(processor, store.log, store.clock, size, observer, unavailable)

    scoring = worker(Scoring(store, gauges), batch)
    # a run that is started for each batch of images would else report the last window again each time
    reported = reported_counts(store.log)
    # parts before alerting, which tells of them
    processors = (
        Parts(store, reported=reported),
        Alerting(store, reported=reported),
        Observing(store),
        Archive(store, archive_rows),
        Trials(store),
    )
    downstream = [worker(processor) for processor in processors]
    if notifying is not None:
        # after those whose alerts it tells
        downstream.append(worker(notifying()))
    adaptation = worker(Adaptation(store, load, adapt, "embedded", stopping.is_set), _REQUESTS)
    groups = {each.processor.name: each.processor.inputs for each in (scoring, *downstream, adaptation)}
    log, lock = _local_log(store), directory(store.uri) / "runner.lock"
    return Runner(
        RunnerConfig(
            sources=sources,
            scoring=scoring,
            downstream=downstream,
            adaptation=adaptation,
            housekeeping=[LogTrimming(log, store.clock, groups, log.trim).tidy, PassRetention(store).tidy],
            alone=lambda: only_runner(lock),
            unavailable=unavailable,
            stopping=stopping,
            # images that wait in the log: fewer starve a large batch, more fill the disk before anyone reads them
            backlog=max(256, 2 * batch),
        )
    )


def _local_log(store: Store) -> LocalLog:
    if not isinstance(store.log, LocalLog):
        raise SettingsError(f"{store.uri} is shared by many workers.", "Start them with `flowgauge worker`.")
    return store.log
