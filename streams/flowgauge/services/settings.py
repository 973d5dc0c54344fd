"""Settings of lines, as a person changes them."""

from collections.abc import Mapping

from flowgauge.domain.lines import LineSettings
from flowgauge.registry.lines import line_settings, set_line
from flowgauge.runtime.backend import Store
from flowgauge.services.changes import record_change


def change_settings(store: Store, line: str, changes: Mapping[str, str | None], by: str) -> LineSettings:
    """Set those of `changes` that differ, None for the default; what workers run by takes them up by itself.

    Raises `SettingsError`, and stores nothing, where they do not hold.
    """
    before = line_settings(store.objects, line).model_dump(mode="json")
    settings = set_line(store.objects, line, **changes)
    after = settings.model_dump(mode="json")
    moved = [name for name in changes if before[name] != after[name]]
    if moved:
        old, new = ({name: values[name] for name in moved} for values in (before, after))
        record_change(store, by, "settings", line, "", old, new)
    return settings
