"""One worker process that scores for several plants at once, each reached through a door of its own.

Its argument is JSON: for each plant, the address of its store and the variables that lead to it.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import ExitStack

from flowgauge.app.bootstrap import open_store
from flowgauge.app.cluster import group_members
from flowgauge.cli.worker import give_up
from flowgauge.runtime.faust_app import run_groups
from flowgauge.runtime.roles import Role
from tests.support.clusterworker import report_unavailable
from tests.support.streaming import adapt, load


async def main(plants: list[tuple[str, dict[str, str]]]) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    with ExitStack() as stack:
        members = []
        for uri, variables in plants:
            os.environ.update(variables)
            store = stack.enter_context(open_store(uri))
            members += group_members(store, Role.SCORING, load, adapt, unavailable=report_unavailable)
        await run_groups(members, stopping, give_up)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
