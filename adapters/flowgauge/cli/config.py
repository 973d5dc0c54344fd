"""Settings from a TOML file: defaults for options, below the command line and the environment."""

import tomllib
from pathlib import Path
from typing import Any

from flowgauge.domain.errors import SettingsError

KEYS = ("store", "device")


def read_config(path: Path) -> dict[str, str]:
    """Option -> value. Raises `SettingsError` for a file that is missing, no TOML, or sets what there is not."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", "Check the path given to --config.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML: {error}.", 'A line looks like this: store = "./plant"') from error
    unknown = sorted(values.keys() - set(KEYS))
    if unknown:
        raise SettingsError(f"{path} sets {', '.join(unknown)}, which is no setting.", f"Settings: {', '.join(KEYS)}.")
    return {key: str(value) for key, value in values.items()}


def defaults_for(command: Any, values: dict[str, str]) -> dict[str, Any]:
    """`values` for every command below `command`, in the nested form of click's `default_map`."""
    below = getattr(command, "commands", {})
    return {**values, **{name: defaults_for(each, values) for name, each in below.items()}}
