"""The verdicts of a line in a span of time, out of the archive."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from uuid import UUID

import pyarrow as pa

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import Decision
from flowgauge.domain.ports import Objects
from flowgauge.runtime.backend import Store
from flowgauge.services.archive_files import archive_files, columns_of
from flowgauge.services.overview import Sample

# days that one request goes through: each is a folder whose files are all read, and more keep a person waiting
_MOST_DAYS = 31
_COLUMNS = [
    "verdict_id", "captured_at", "arrived_at", "clock_off", "score", "threshold", "decision", "statistics"
]  # fmt: skip


DAYS = 14
"""Of the archive, that are looked at where nobody says otherwise: fewer miss what comes once a week, more show a line
that is no more."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class History:
    """`samples` in the order of their events; `images` is how many there were before passes were thinned out."""

    samples: list[Sample]
    images: int


def history(objects: Objects, line: str, since: datetime, until: datetime, recent: list[Sample], most: int) -> History:
    """The verdicts of `line` whose events lie in [since, until): those of the archive, and `recent` ones that it may
    not have yet. At most `most` of them are passes, evenly thinned out; all rejects and reviews stay.

    Raises `UserError` for a span of more than a month, or none.
    """
    if not since < until <= since + timedelta(days=_MOST_DAYS):
        raise UserError(
            "This is no span of time that can be shown.",
            f"Choose an end after its start, by {_MOST_DAYS} days at most.",
        )
    since, until = since.astimezone(UTC), until.astimezone(UTC)  # files are filed by the date in UTC
    low, high = since.timestamp(), until.timestamp()
    found = {
        sample.verdict_id: sample
        for sample in chain(_archived(objects, line, since, until), recent)
        if low <= sample.at < high
    }
    samples = sorted(found.values(), key=lambda sample: sample.at)
    passes = [sample for sample in samples if sample.decision is Decision.PASS]
    step = -(-len(passes) // most)
    kept = {sample.verdict_id for sample in passes[:: step or 1]}
    shown = [sample for sample in samples if sample.decision is not Decision.PASS or sample.verdict_id in kept]
    return History(shown, len(samples))


def archived_tables(
    store: Store, line: str, days: int, columns: Sequence[str], progress: Progress
) -> Iterator[tuple[date, pa.Table]]:
    """`columns` of the archived verdicts of `line`, file by file, of today and the `days` before it, the newest day
    first, and of a day the newest file.
    """
    today = store.clock.now().date()
    for back in range(days + 1):
        progress("reading the archive", back, days + 1)
        day = today - timedelta(days=back)
        for name in reversed(archive_files(store.objects, [day])):
            yield day, columns_of(store.objects, name, line, columns)
    progress("reading the archive", days + 1, days + 1)


def _archived(objects: Objects, line: str, since: datetime, until: datetime) -> Iterator[Sample]:
    # files are filed by the date of the event, so nothing of the span lies in another folder
    days = [since.date() + timedelta(days=day) for day in range((until.date() - since.date()).days + 1)]
    for name in archive_files(objects, days):
        for row in columns_of(objects, name, line, _COLUMNS).to_pylist():
            taken = row["statistics"]
            at = row["arrived_at"] if row["clock_off"] and row["arrived_at"] else row["captured_at"]
            yield Sample(
                at.timestamp(),
                row["score"],
                row["threshold"],
                Decision(row["decision"]),
                UUID(row["verdict_id"]),
                taken["brightness"],
                taken["contrast"],
                taken["focus"],
            )
