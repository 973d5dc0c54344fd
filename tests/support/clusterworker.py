"""A worker of one role with light gauges, in a process of its own that a test kills. Servers by the environment."""

import asyncio
import signal
import sys

from core.errors import Unavailable
from streams.app import run_groups
from streams.bootstrap import open_store
from streams.cluster import Pace, group_members
from streams.roles import Role
from tests.support.streaming import adapt, load


async def main(uri: str, role: Role) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    with open_store(uri) as store:
        pace = Pace(images=8, session_seconds=6.0, archive_rows=64)
        await run_groups(group_members(store, role, load, adapt, pace=pace, trouble=told), stopping)


def told(name: str, error: Unavailable) -> None:
    print(f"{name} waits. {error}", file=sys.stderr, flush=True)  # noqa: T201  for whoever reads a failed test


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Role(sys.argv[2])))
