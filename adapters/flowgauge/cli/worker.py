"""`flowgauge worker`: one process of many that share a plant through Kafka."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from prometheus_client import CollectorRegistry

from flowgauge.app.bootstrap import open_store
from flowgauge.app.cluster import Pace, group_members
from flowgauge.app.notify import notifying
from flowgauge.cli import options
from flowgauge.cli.exits import Exit, exit_code
from flowgauge.cli.output import complain
from flowgauge.cli.worker_messages import StreamMessages
from flowgauge.domain.choices import Engine
from flowgauge.domain.errors import FlowgaugeError, Unavailable
from flowgauge.local.objects import SnapshotFolder
from flowgauge.prometheus.metrics import PrometheusMeter, serving
from flowgauge.runtime.faust_app import run_groups
from flowgauge.runtime.liveness import STALL_SECONDS, watchdog
from flowgauge.runtime.meter import UNMETERED, Meter
from flowgauge.runtime.roles import GAUGES_IN_MEMORY, Role

if TYPE_CHECKING:
    from flowgauge.adaptation.contract import Adapt
    from flowgauge.registry.gauges import Compile, Load

log = logging.getLogger(__name__)

# of the interpreter's lock, for which the model asks at every operation: with Python's own it waits ten times as long
_SWITCH_SECONDS = 0.0005
# FLOWGAUGE_NOTIFY may be set for all workers of a plant, and means nothing to the others
_NOTIFYING = (Role.NOTIFY, Role.ALL)


def worker(
    role: Annotated[Role, typer.Argument(help="What this process does.")],
    store: options.Store,
    batch: options.Batch = 16,
    linger: Annotated[float, typer.Option(min=0, help="Seconds that a batch may wait to fill.")] = 0.02,
    gauges: Annotated[
        int,
        typer.Option(
            min=1,
            help="Gauges that scoring keeps in memory, at 5 MiB each with torch and 50 with OpenVINO: as many as lines"
            " send at a time, and two for a line with a trial. With fewer, each batch loads one again.",
        ),
    ] = GAUGES_IN_MEMORY,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the model on a CPU; all cores by default.", show_default=False)
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            envvar="FLOWGAUGE_CACHE",
            help="Folder for gauges in use: a start needs no object store then. ~/.cache/flowgauge by default.",
            show_default=False,
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            envvar="FLOWGAUGE_METRICS_PORT",
            min=0,
            max=65_535,
            help="Serve Prometheus there, at /metrics; off by default.",
            show_default=False,
        ),
    ] = None,
    stall_timeout: Annotated[
        float, typer.Option(min=10, help="Seconds without progress after which the worker ends itself.")
    ] = STALL_SECONDS,
    device: options.DeviceOption = options.Device.AUTO,
    engine: options.EngineOption = Engine.AUTO,
    notify: options.Notify = None,
    json: options.JsonLines = False,
) -> None:
    """Take a share of the plant's work, as a member of a consumer group.

    Start as many as there are GPUs or cores: each gets some of the
    partitions. scoring wants the GPU; downstream tells alerts, fills buffers,
    watches for drift, decides parts of several views and writes the archive;
    adaptation makes new gauges; notify sends alerts to people by the routes of
    --notify, and one of it is enough. all is all of these, with notify only
    where --notify is given.
    Kill one at any moment: the others take over, and every image gets exactly
    one verdict that counts. One that gets no further ends with exit code 1,
    for whatever supervises it to start it anew.

    The environment says where the servers are: FLOWGAUGE_KAFKA_BOOTSTRAP,
    FLOWGAUGE_REDIS_URL, FLOWGAUGE_S3_ENDPOINT, FLOWGAUGE_S3_ACCESS_KEY and
    FLOWGAUGE_S3_SECRET_KEY (and FLOWGAUGE_S3_SESSION_TOKEN, where keys are
    temporary).

    \b
    flowgauge worker scoring --store s3://flowgauge --device cuda --metrics-port 9400
    flowgauge worker notify --store s3://flowgauge --notify notify.toml
    flowgauge worker all --store s3://flowgauge
    """

    async def run() -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await run_groups(members, stopping, give_up)

    sys.setswitchinterval(_SWITCH_SECONDS)
    load, adapt, compile = _model(role, device, engine, threads, cache)
    messages = StreamMessages(as_json=json)
    meter: Meter = UNMETERED
    with open_store(store) as plant, ExitStack() as stack:
        if metrics_port is not None:
            registry = CollectorRegistry()
            stack.enter_context(serving(registry, metrics_port))
            meter = PrometheusMeter(registry)
        members = group_members(
            plant,
            role,
            load,
            adapt,
            pace=Pace(images=batch, linger_seconds=linger, stall_seconds=stall_timeout, gauges=gauges),
            observer=messages.step,
            unavailable=messages.unavailable,
            meter=meter,
            disk=SnapshotFolder(cache or Path.home() / ".cache" / "flowgauge" / "snapshots"),
            compile=compile,
            notifying=None if notify is None or role not in _NOTIFYING else notifying(notify, plant, meter),
        )
        stack.enter_context(watchdog({app.member.name: app.member.pulse for app in members}, stall_timeout, _end))
        asyncio.run(run())
    log.info(messages.summary())


def _model(
    role: Role, device: options.Device, engine: Engine, threads: int | None, cache: Path | None
) -> "tuple[Load, Adapt, Compile | None]":
    """What scores, what adapts and what compiles. A role that does none is spared the libraries, which take 800 MiB."""
    if role in (Role.DOWNSTREAM, Role.NOTIFY):
        return _needless, _needless, None
    import torch

    from flowgauge.adaptation.adapt import adapt
    from flowgauge.cli.model import compiling, loading

    if threads is not None:
        torch.set_num_threads(threads)
    folder = None if cache is None else cache / "engines"
    return loading(device), adapt, None if role is Role.ADAPTATION else compiling(engine, device, folder)


def _needless(*_: Any, **__: Any) -> Any:
    raise AssertionError("This role needs no gauge.")


def _end(name: str, seconds: float) -> None:
    """Whatever hangs would keep an orderly end from ending; what was not delivered comes again at the next start."""
    # not by a logger: the thread that hangs may hold its lock
    sys.stderr.write(f"Error: {name} has shown no life for {seconds:.0f} s. Start the worker again.\n")
    sys.stderr.flush()
    os._exit(Exit.FAILED)


def give_up(failure: BaseException | None) -> None:
    """The end does not end, since servers are away: leave without them."""
    if not isinstance(failure, FlowgaugeError):
        failure = Unavailable("The servers do not answer, so this worker ends without them.", "The next one goes on.")
    complain(failure)
    os._exit(exit_code(failure))
