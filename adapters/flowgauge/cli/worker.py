"""`flowgauge worker`: one process of many that share a plant through Kafka."""

import asyncio
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowgauge.cli import options
from flowgauge.cli.exits import Exit, exit_code
from flowgauge.cli.output import complain, live, stderr
from flowgauge.domain.errors import FlowgaugeError, Unavailable
from flowgauge.runtime.liveness import STALL_SECONDS
from flowgauge.runtime.roles import Role

if TYPE_CHECKING:
    from flowgauge.adaptation.contract import Adapt
    from flowgauge.registry.gauges import Load
    from flowgauge.runtime.faust_app import GroupApp
    from flowgauge.runtime.meter import Meter


_SWITCH_SECONDS = 0.0005  # the model asks for the interpreter at every operation; Python's default is 0.005

_UNANSWERED = Unavailable("The servers do not answer, so this worker ends without them.", "The next one goes on.")


def worker(
    role: Annotated[Role, typer.Argument(help="What this process does.")],
    store: options.Store,
    batch: Annotated[int, typer.Option(min=1, help="Images that are scored together at most.")] = 16,
    linger: Annotated[float, typer.Option(min=0, help="Seconds that a batch may wait to fill.")] = 0.02,
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
    json: Annotated[bool, typer.Option("--json", help="Print verdicts and alerts, one JSON object a line.")] = False,
) -> None:
    """Take a share of the plant's work, as a member of a consumer group.

    Start as many as there are GPUs or cores: each gets some of the
    partitions. scoring wants the GPU; downstream tells alerts, fills buffers,
    watches for drift and writes the archive; adaptation makes new gauges.
    Kill one at any moment: the others take over, and every image gets exactly
    one verdict that counts. One that gets no further ends with exit code 1,
    for whatever supervises it to start it anew.

    The environment says where the servers are: FLOWGAUGE_KAFKA_BOOTSTRAP,
    FLOWGAUGE_REDIS_URL, FLOWGAUGE_S3_ENDPOINT, FLOWGAUGE_S3_ACCESS_KEY and
    FLOWGAUGE_S3_SECRET_KEY (and FLOWGAUGE_S3_SESSION_TOKEN, where keys are
    temporary).

    \b
    flowgauge worker scoring --store s3://flowgauge --device cuda --metrics-port 9400
    flowgauge worker all --store s3://flowgauge
    """
    from flowgauge.app.bootstrap import open_store
    from flowgauge.app.cluster import Pace, group_members
    from flowgauge.cli.worker_messages import Teller
    from flowgauge.local.objects import SnapshotFolder
    from flowgauge.runtime.liveness import watchdog

    sys.setswitchinterval(_SWITCH_SECONDS)
    load, adapt = _model(role, device, threads)
    with open_store(store) as plant, live().status("joining") as status, ExitStack() as stack:
        teller = Teller(status, as_json=json)
        members = group_members(
            plant,
            role,
            load,
            adapt,
            pace=Pace(images=batch, linger_seconds=linger, stall_seconds=stall_timeout),
            observer=teller.step,
            unavailable=teller.unavailable,
            meter=_meter(metrics_port, stack),
            disk=SnapshotFolder(cache or Path.home() / ".cache" / "flowgauge" / "snapshots"),
        )
        stack.enter_context(watchdog({app.member.name: app.member.pulse for app in members}, stall_timeout, _end))
        asyncio.run(_run(members))
    stderr().print(teller.summary())


def _model(role: Role, device: options.Device, threads: int | None) -> tuple["Load", "Adapt"]:
    """What scores and what adapts. A role that does neither is spared the libraries, which take 800 MiB."""
    if role is Role.DOWNSTREAM:
        return _needless, _needless
    import torch

    from flowgauge.adaptation.adapt import adapt
    from flowgauge.cli.model import loading

    if threads is not None:
        torch.set_num_threads(threads)
    return loading(device), adapt


def _needless(*_: Any, **__: Any) -> Any:
    raise AssertionError("What is downstream needs no gauge.")


async def _run(members: list["GroupApp"]) -> None:
    from flowgauge.runtime.faust_app import run_groups

    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await run_groups(members, stopping, give_up)


def _meter(port: int | None, stack: ExitStack) -> "Meter":
    """One that serves Prometheus while `stack` lasts, if a port is given."""
    from flowgauge.runtime.meter import Unmetered

    if port is None:
        return Unmetered()
    from prometheus_client import CollectorRegistry

    from flowgauge.prometheus.metrics import PrometheusMeter, serving

    registry = CollectorRegistry()
    stack.enter_context(serving(registry, port))
    return PrometheusMeter(registry)


def _end(name: str, seconds: float) -> None:
    """Whatever hangs would keep an orderly end from ending; what was not delivered comes again at the next start."""
    sys.stderr.write(f"Error: {name} has shown no life for {seconds:.0f} s. Start the worker again.\n")
    sys.stderr.flush()
    os._exit(Exit.FAILED)


def give_up(failure: BaseException | None) -> None:
    """The end does not end, since servers are away: leave without them."""
    complain(failure if isinstance(failure, FlowgaugeError) else _UNANSWERED)
    os._exit(exit_code(failure) if isinstance(failure, FlowgaugeError) else Exit.FAILED)
