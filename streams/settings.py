"""Settings of lines, read often."""

from datetime import datetime, timedelta

from core.errors import SettingsError, Unavailable
from core.lines import LineSettings
from streams.lines import line_settings
from streams.store import Store

_FRESH = timedelta(seconds=2)  # what a change waits at most


class SettingsCache:
    """The settings of each line, read anew every two seconds, and when the clock was set back.

    While they cannot be read, or do not hold, the last that did stay in force: scoring must not stop for them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[datetime, LineSettings]] = {}

    def of(self, line: str) -> LineSettings:
        now = self._store.clock.now()
        read_at, settings = self._known.get(line, (None, LineSettings()))
        if read_at is None or not timedelta() <= now - read_at < _FRESH:
            settings = self._read(line, settings)
            self._known[line] = now, settings
        return settings

    def _read(self, line: str, otherwise: LineSettings) -> LineSettings:
        try:
            return line_settings(self._store.objects, line)
        except (Unavailable, SettingsError):
            return otherwise
