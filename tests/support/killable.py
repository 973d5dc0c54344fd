"""A runner over a folder, in a process of its own that a test kills. Says `streaming` once it begins."""

import sys
from pathlib import Path

from flowgauge.app.bootstrap import open_store
from flowgauge.app.embedded import embedded, folder_source
from flowgauge.local.folder_options import FolderOptions
from tests.support.streaming import LINE, adapt, load


def main(root: Path, folder: Path) -> None:
    with open_store(str(root)) as store:
        # test images: the drift monitor would import river, four seconds of every restart
        source = folder_source(store, folder, LINE, FolderOptions(quiet_seconds=0, use_for_training=False))
        runner = embedded(store, load, adapt, [source], batch=4, archive_rows=64)
        print("streaming", flush=True)  # noqa: T201  the parent process waits for it
        if sys.argv[3:] == ["--once"]:
            runner.run_until_idle()
        else:
            runner.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
