"""The verdicts on the parts of lines, as they lie in their topic."""

from flowgauge.domain.messages import PART_VERDICTS, PartVerdict
from flowgauge.domain.ports import Log
from flowgauge.runtime.backend import records_from
from flowgauge.runtime.fencing import fenced, highest_before


def latest_parts(log: Log, limit: int, line: str | None = None) -> list[PartVerdict]:
    """The last `limit` parts (of `line`) that count, in order of their decisions. Looked for among ten times as many of
    each partition: lines that share one with faster ones may show fewer.
    """
    found: list[PartVerdict] = []
    for partition in range(log.partitions(PART_VERDICTS)):
        start = max(log.begin(PART_VERDICTS, partition), log.end(PART_VERDICTS, partition) - 10 * limit)
        highest = highest_before(log, PART_VERDICTS, partition, start, PartVerdict)
        counted, _, _ = fenced(list(records_from(log, PART_VERDICTS, partition, start)), highest, PartVerdict)
        found += [part for _, part in counted if line in (None, part.line)]
    return sorted(found, key=lambda part: part.decided_at)[-limit:]
