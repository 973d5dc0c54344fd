"""Lines: their settings in the object store, and which there are."""

from pydantic import ValidationError

from flowgauge.domain.errors import SettingsError
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.messages import VERDICTS
from flowgauge.domain.object_keys import line_settings_object
from flowgauge.domain.ports import Objects
from flowgauge.registry.snapshots import active_snapshots
from flowgauge.runtime.backend import Store

_RECENT = 1_000


def line_settings(objects: Objects, line: str) -> LineSettings:
    """What was set for `line`, else the defaults. Raises `SettingsError` for a damaged file."""
    try:
        return LineSettings.decode(objects.get(line_settings_object(line)))
    except KeyError:
        return LineSettings()
    except ValidationError as error:
        raise SettingsError(
            f"The settings of line {line} do not hold: {_problems(error)}.",
            f"Set them with `flowgauge lines set {line}`.",
        ) from error


def set_line(objects: Objects, line: str, **changes: object) -> LineSettings:
    """Change some settings of `line` and store them. Raises `SettingsError` and stores nothing if they do not hold."""
    unknown = changes.keys() - LineSettings.model_fields.keys()
    if unknown:
        raise SettingsError(f"There is no setting {', '.join(sorted(unknown))}.", "See `flowgauge lines set --help`.")
    try:
        settings = line_settings(objects, line).changed(**changes)
    except ValidationError as error:
        raise SettingsError(f"{_problems(error)}.", "See `flowgauge lines set --help`.") from error
    objects.put(line_settings_object(line), settings.encode())
    return settings


def lines(store: Store) -> list[str]:
    """Every line that has a gauge, settings or recent verdicts, by name."""
    found = set(active_snapshots(store.log))
    found |= {name.removeprefix("lines/").removesuffix(".json") for name in store.objects.names("lines/")}
    for partition in range(store.log.partitions(VERDICTS)):
        start = max(0, store.log.end(VERDICTS, partition) - _RECENT)
        found |= {record.key for record in store.log.read(VERDICTS, partition, start, _RECENT)}
    return sorted(found)


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
