"""Tells people of a store's alerts by Apprise, in a process of its own that a test kills; ends once all is told."""

import sys
from pathlib import Path

from flowgauge.app.bootstrap import open_store
from flowgauge.app.notify import notifying
from flowgauge.runtime.worker import Worker


def main(root: Path, routes: Path) -> None:
    with open_store(str(root)) as store:
        worker = Worker(notifying(routes, store)(), store.log, store.clock, batch=8)
        while worker.step() or worker.lag():
            pass
        worker.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
