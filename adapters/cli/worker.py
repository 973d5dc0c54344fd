"""`flowgauge worker`: one process of many that share a plant through Kafka."""

import asyncio
import signal
from typing import Annotated

import typer

from adapters.cli import options
from adapters.cli.output import live, stderr
from streams.roles import Role


def worker(
    role: Annotated[Role, typer.Argument(help="What this process does.")],
    store: options.Store,
    batch: Annotated[int, typer.Option(min=1, help="Images that are scored together at most.")] = 16,
    linger: Annotated[float, typer.Option(min=0, help="Seconds that a batch may wait to fill.")] = 0.02,
    device: options.DeviceOption = options.Device.AUTO,
    json: Annotated[bool, typer.Option("--json", help="Print verdicts and alerts, one JSON object a line.")] = False,
) -> None:
    """Take a share of the plant's work, as a member of a consumer group.

    Start as many as there are GPUs or cores: each gets some of the
    partitions. scoring wants the GPU; downstream tells alerts, fills buffers,
    watches for drift and writes the archive; adaptation makes new gauges.
    Kill one at any moment: the others take over, and every image gets exactly
    one verdict that counts.

    The environment says where the servers are: FLOWGAUGE_KAFKA_BOOTSTRAP,
    FLOWGAUGE_REDIS_URL, FLOWGAUGE_S3_ENDPOINT, FLOWGAUGE_S3_ACCESS_KEY and
    FLOWGAUGE_S3_SECRET_KEY.

    \b
    flowgauge worker scoring --store s3://flowgauge --device cuda
    flowgauge worker all --store s3://flowgauge
    """
    from adapters.cli.model import loading
    from adapters.cli.telling import Teller
    from core.adaptation.adapt import adapt
    from streams.app import GroupApp, run_groups
    from streams.bootstrap import open_store
    from streams.cluster import Pace, group_members

    async def run(members: list[GroupApp]) -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await run_groups(members, stopping)

    with open_store(store) as plant, live().status("joining") as status:
        teller = Teller(status, as_json=json)
        members = group_members(
            plant,
            role,
            loading(device),
            adapt,
            pace=Pace(images=batch, linger_seconds=linger),
            observer=teller.step,
            trouble=teller.trouble,
        )
        asyncio.run(run(members))
    stderr().print(teller.summary())
