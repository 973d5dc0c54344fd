"""Lines: their settings in the object store, cached where they are read often, and which lines there are."""

import json
import logging
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from flowgauge.domain.errors import SettingsError, Unavailable
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.messages import VERDICTS
from flowgauge.domain.object_keys import is_line, line_settings_object
from flowgauge.domain.ports import Objects
from flowgauge.domain.problems import problems
from flowgauge.registry.snapshots import active_snapshots
from flowgauge.runtime.backend import Store, records_from

# verdicts of a partition that are read for the lines they name: with fewer, lines that pause are missing from the list;
# with more, the list takes longer
_RECENT = 1_000
# what a change waits at most; shorter, and every worker asks the object store for every line all the time
_FRESH = timedelta(seconds=2)

log = logging.getLogger(__name__)


def line_settings(objects: Objects, line: str) -> LineSettings:
    """What was set for `line`, else the defaults. Raises `SettingsError` for a damaged file."""
    try:
        return LineSettings.decode(objects.get(line_settings_object(line)))
    except KeyError:
        return LineSettings()
    except ValidationError as error:
        raise SettingsError(
            f"The settings of line {line} do not hold: {problems(error)}.",
            f"Set them with `flowgauge lines set {line} KEY=VALUE`: of the others, what does not hold begins at its"
            " default.",
        ) from error


def stored_values(objects: Objects, line: str) -> dict[str, Any]:
    """What was set for `line`, by name, as it is stored, whether it holds or not; nothing where that is no JSON."""
    try:
        values = json.loads(objects.get(line_settings_object(line)))
    except (KeyError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def changed_settings(objects: Objects, line: str, **changes: object) -> LineSettings:
    """The settings of `line` with `changes`, None for the default, to be stored. What is stored and does not hold
    begins at its default, and the log says so. Raises `SettingsError` if they do not hold.
    """
    unknown = changes.keys() - (LineSettings.model_fields.keys() - {"schema_version"})
    if unknown:
        raise SettingsError(f"There is no setting {', '.join(sorted(unknown))}.", "See `flowgauge lines set --help`.")
    values, lost = stored_values(objects, line), ""
    try:
        line_settings(objects, line)
    except SettingsError as error:
        lost = error.cause
    try:
        given = _holding(values) | changes
        settings = LineSettings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(f"{problems(error)}.", "See `flowgauge lines set --help`.") from error
    if lost:
        log.warning("%s What does not hold, and is not set now, begins at its default.", lost)
    return settings


def _holding(values: dict[str, Any]) -> dict[str, Any]:
    """Those that hold each by itself; whether they fit one another is seen once all are there."""
    try:
        LineSettings.model_validate(values)
    except ValidationError as error:
        wrong = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
        return {name: value for name, value in values.items() if name not in wrong}
    return values


def store_settings(objects: Objects, line: str, settings: LineSettings) -> None:
    objects.put(line_settings_object(line), settings.encode())


def set_line(objects: Objects, line: str, **changes: object) -> LineSettings:
    """Change some settings of `line` and store them. Raises `SettingsError` and stores nothing if they do not hold."""
    settings = changed_settings(objects, line, **changes)
    store_settings(objects, line, settings)
    return settings


def lines_with_settings(objects: Objects) -> list[str]:
    """Every line that has settings of its own, by name. What else lies among them is not ours."""
    names = [name.removeprefix("lines/") for name in objects.names("lines/") if name.endswith(".json")]
    return [line for line in (name.removesuffix(".json") for name in names) if is_line(line)]


def lines(store: Store) -> list[str]:
    """Every line that has a gauge, settings or recent verdicts, by name."""
    found = set(active_snapshots(store.log))
    found |= set(lines_with_settings(store.objects))
    for partition in range(store.log.partitions(VERDICTS)):
        start = max(0, store.log.end(VERDICTS, partition) - _RECENT)
        # what others sent under another key names no line
        found |= {record.key for record in records_from(store.log, VERDICTS, partition, start) if is_line(record.key)}
    return sorted(found)


class SettingsCache:
    """The settings of each line, read anew every two seconds; after the first time by `readers`, if there are any. Safe
    to ask from several threads.

    While they cannot be read, or do not hold, which is logged once, the last that did stay in force: scoring must not
    stop for them. With `insist`, `of` raises `Unavailable` where none was ever read: for what defaults would do wrong
    for good.
    """

    def __init__(self, store: Store, readers: Executor | None = None, insist: bool = False) -> None:
        self._store = store
        self._readers = readers
        self._insist = insist
        self._known: dict[str, tuple[datetime, LineSettings]] = {}
        self._being_read: set[str] = set()
        self._damaged: dict[str, str] = {}

    def of(self, line: str) -> LineSettings:
        now = self._store.clock.now()
        read_at, settings = self._known.get(line, (None, LineSettings()))
        if read_at is not None and abs(now - read_at) < _FRESH:
            return settings
        if read_at is None or self._readers is None:
            return self._read(line)
        # one question at a time: while a store hangs, those of every two seconds would pile up
        if line not in self._being_read:
            self._being_read.add(line)
            self._readers.submit(self._read, line)
        return settings

    def _read(self, line: str) -> LineSettings:
        try:
            settings = line_settings(self._store.objects, line)
            self._damaged.pop(line, None)
        except (Unavailable, SettingsError) as error:
            if self._insist and line not in self._known and isinstance(error, Unavailable):
                raise
            _, settings = self._known.get(line, (None, LineSettings()))
            if isinstance(error, SettingsError) and self._damaged.get(line) != str(error):
                # else a line whose views make no parts, say, would be run by the defaults without a word
                in_force = "the last that did stay" if line in self._known else "the defaults are"
                log.warning("%s Until then %s in force.", error, in_force)
                self._damaged[line] = str(error)
        finally:
            self._being_read.discard(line)
        self._known[line] = self._store.clock.now(), settings
        return settings
