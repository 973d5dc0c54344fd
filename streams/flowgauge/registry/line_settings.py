"""Settings of lines, read often."""

from concurrent.futures import Executor
from datetime import datetime, timedelta

from flowgauge.domain.errors import SettingsError, Unavailable
from flowgauge.domain.lines import LineSettings
from flowgauge.registry.lines import line_settings
from flowgauge.runtime.backend import Store

_FRESH = timedelta(seconds=2)  # what a change waits at most


class SettingsCache:
    """The settings of each line, read anew every two seconds; after the first time by `hands`, if there are any.

    While they cannot be read, or do not hold, the last that did stay in force: scoring must not stop for them.
    """

    def __init__(self, store: Store, hands: Executor | None = None) -> None:
        self._store = store
        self._hands = hands
        self._known: dict[str, tuple[datetime, LineSettings]] = {}

    def of(self, line: str) -> LineSettings:
        now = self._store.clock.now()
        read_at, settings = self._known.get(line, (None, LineSettings()))
        if read_at is None or (self._hands is None and abs(now - read_at) >= _FRESH):
            return self._read(line, settings)
        if self._hands is not None and abs(now - read_at) >= _FRESH:
            self._known[line] = now, settings  # the next reader is asked for after this one had its time
            self._hands.submit(self._read, line, settings)
        return settings

    def _read(self, line: str, otherwise: LineSettings) -> LineSettings:
        try:
            settings = line_settings(self._store.objects, line)
        except (Unavailable, SettingsError):
            settings = otherwise
        self._known[line] = self._store.clock.now(), settings
        return settings
