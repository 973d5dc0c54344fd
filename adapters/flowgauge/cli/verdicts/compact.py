"""`flowgauge verdicts compact`: an archive of many days stays quick to read."""

from flowgauge.app.bootstrap import open_store
from flowgauge.cli import options
from flowgauge.cli.output import emit, say
from flowgauge.cli.progress import bars
from flowgauge.services import archive_files


def compact(store: options.Store, json: options.Json = False) -> None:
    """Make copies of finished days of the archive that are quick to read.

    The archive is many small files, and to open them takes a query longer than
    to count what is in them. Copies, under compacted/, stand for a hundred
    files each and are sorted by line. The files themselves stay as they are,
    and no verdict is ever shown twice. Run it once a day; it may be
    interrupted.

    \b
    flowgauge verdicts compact --store s3://flowgauge
    """
    with open_store(store) as plant, bars() as report:
        made = archive_files.compact(plant, report)
    if json:
        emit(vars(made))
        return
    say(f"{made.copies} copies were made of {made.files} files, with {made.verdicts} verdicts.")
    if made.removed:
        say(f"{made.removed} copies were removed: what they stood for has changed.")
