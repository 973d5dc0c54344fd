"""Settings of lines, as a person changes them."""

from collections.abc import Mapping
from contextlib import nullcontext

from flowgauge.domain.lines import LineSettings
from flowgauge.registry.lines import changed_settings, store_settings, stored_values
from flowgauge.runtime.backend import Store
from flowgauge.services.changes import recorded
from flowgauge.services.exclusive import exclusive


def change_settings(store: Store, line: str, changes: Mapping[str, str | None], by: str) -> LineSettings:
    """Set those of `changes` that differ, None for the default; what workers run by takes them up by itself. What is
    stored and does not hold begins at its default.

    Raises `SettingsError`, and stores nothing, where they do not hold.
    """
    with exclusive(store.state, f"settings/{line}"):
        before = LineSettings().model_dump(mode="json") | stored_values(store.objects, line)
        settings = changed_settings(store.objects, line, **changes)
        after = settings.model_dump(mode="json")
        moved = [name for name in after if before[name] != after[name]]
        old, new = ({name: values[name] for name in moved} for values in (before, after))
        with recorded(store, by, "settings", line, "", old, new) if moved else nullcontext():
            store_settings(store.objects, line, settings)
    return settings
