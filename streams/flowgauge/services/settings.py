"""Settings of lines, as a person changes them."""

from collections.abc import Mapping
from contextlib import nullcontext

from flowgauge.domain.lines import LineSettings
from flowgauge.registry.lines import changed_settings, line_settings, store_settings
from flowgauge.runtime.backend import Store
from flowgauge.services.changes import recorded
from flowgauge.services.exclusive import exclusive


def change_settings(store: Store, line: str, changes: Mapping[str, str | None], by: str) -> LineSettings:
    """Set those of `changes` that differ, None for the default; what workers run by takes them up by itself.

    Raises `SettingsError`, and stores nothing, where they do not hold.
    """
    with exclusive(store.state, f"settings/{line}"):
        before = line_settings(store.objects, line).model_dump(mode="json")
        settings = changed_settings(store.objects, line, **changes)
        after = settings.model_dump(mode="json")
        moved = [name for name in changes if before[name] != after[name]]
        old, new = ({name: values[name] for name in moved} for values in (before, after))
        with recorded(store, by, "settings", line, "", old, new) if moved else nullcontext():
            store_settings(store.objects, line, settings)
    return settings
