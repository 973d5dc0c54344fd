"""What keeps an embedded store from growing for ever: consumed images and old verdicts leave the log."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from flowgauge.domain.messages import ALERTS, DEAD_LETTERS, IMAGES, VERDICTS
from flowgauge.domain.ports import Clock, Log

_INTERVAL = timedelta(seconds=10)
_KEPT = {VERDICTS: 100_000, ALERTS: 100_000, DEAD_LETTERS: 1_000}
"""Records that stay after everyone has read them: verdicts long enough to rebuild the window of duplicates from,
dead letters (which hold whole images) for repair."""

Trim = Callable[[str, int, int], None]


class LogTrimming:
    """Trims each partition below what all its `readers` have committed. Images go at once: their objects remain."""

    def __init__(self, log: Log, clock: Clock, readers: Mapping[str, Sequence[str]], trim: Trim) -> None:
        self._log = log
        self._clock = clock
        self._readers = readers
        self._trim = trim
        self._last: datetime | None = None

    def tidy(self) -> None:
        now = self._clock.now()
        if self._last is None or now - self._last >= _INTERVAL:
            self._last = now
            for topic, groups in self._readers.items():
                self._tidy_topic(topic, groups)

    def _tidy_topic(self, topic: str, groups: Sequence[str]) -> None:
        for partition in range(self._log.partitions(topic)):
            consumed = min((self._log.position(group, topic, partition) for group in groups), default=None)
            kept_from = self._log.end(topic, partition) - _KEPT.get(topic, 0)
            before = kept_from if consumed is None else min(consumed, kept_from)
            if before > 0:
                self._trim(topic, partition, before)


def readers(groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """By topic that may be trimmed, the groups (name -> topics) that read it."""
    return {
        topic: [name for name, inputs in groups.items() if topic in inputs]
        for topic in (IMAGES, VERDICTS, ALERTS, DEAD_LETTERS)
    }
