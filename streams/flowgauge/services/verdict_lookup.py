"""One verdict among all that are kept: in the topic, or in the archive once the topic has let it go."""

from collections.abc import Callable, Iterator
from io import BytesIO
from uuid import UUID

import pyarrow.parquet as pq
from pydantic import ValidationError

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import VERDICTS, Verdict
from flowgauge.domain.ports import Log, Objects
from flowgauge.processors.archive import archived_days
from flowgauge.runtime.backend import Store

_PAGE = 256

Progress = Callable[[str, int, int], None]


def find_verdict(store: Store, wanted: UUID, progress: Progress) -> Verdict:
    """The newest first, for that is what people ask about. Raises `UserError` where there is none.

    Void verdicts are found too: all that have one id tell of one image.
    """
    found = next(_in_topic(store.log, wanted), None) or next(_in_archive(store.objects, wanted, progress), None)
    if found is None:
        raise UserError(
            f"There is no verdict {wanted} in this store.",
            "Check the id: flowgauge status, the verdicts topic and the archive tell it.",
        )
    return found


def _in_topic(log: Log, wanted: UUID) -> Iterator[Verdict]:
    sought = str(wanted).encode()
    for partition in range(log.partitions(VERDICTS)):
        end = log.end(VERDICTS, partition)
        while end > 0:
            start = max(0, end - _PAGE)
            records = log.read(VERDICTS, partition, start, end - start)
            if not records or records[0].offset >= end:
                break  # the topic has let go of what came before
            for record in reversed(records):
                verdict = _read(record.value) if sought in record.value else None
                if verdict is not None and verdict.verdict_id == wanted:
                    yield verdict
            end = start


def _read(value: bytes) -> Verdict | None:
    try:
        return Verdict.decode(value)
    except ValidationError:
        return None


def _in_archive(objects: Objects, wanted: UUID, progress: Progress) -> Iterator[Verdict]:
    days = archived_days(objects)[::-1]
    for done, day in enumerate(days):
        progress("searching the archive", done, len(days))
        for name in objects.names(f"verdicts/date={day:%Y-%m-%d}/"):
            rows = pq.read_table(
                BytesIO(objects.get(name)), partitioning=None, filters=[("verdict_id", "=", str(wanted))]
            )
            yield from map(Verdict.model_validate, rows.to_pylist())
