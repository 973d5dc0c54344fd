"""Settings from a TOML file: defaults for options, below the command line and the environment."""

import tomllib
from json import detect_encoding
from math import inf
from pathlib import Path
from typing import Any

from flowgauge.domain.errors import SettingsError

MAX_MEGAPIXELS_KEY = "max_megapixels"
KEYS = ("store", "device", MAX_MEGAPIXELS_KEY)


def read_config(path: Path) -> dict[str, str]:
    """Option -> value. Raises `SettingsError` for a file that is missing, no TOML, or sets what there is not."""
    try:
        data = path.read_bytes()
        # Windows' editors put a byte order mark before it, or write two bytes a letter, as they do with JSON
        values = tomllib.loads(data.decode(detect_encoding(data)))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", "Check the path given to --config.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML: {error}.", 'A line looks like this: store = "./plant"') from error
    unknown = sorted(values.keys() - set(KEYS))
    if unknown:
        raise SettingsError(f"{path} sets {', '.join(unknown)}, which is no setting.", f"Settings: {', '.join(KEYS)}.")
    return {key: str(value) for key, value in values.items()}


def megapixels(text: str) -> float:
    """Raises `SettingsError` for what is no number from 1 up."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < inf:
        raise SettingsError(f"{MAX_MEGAPIXELS_KEY} = {text} is no size.", "Give millions of pixels: 120, say.")
    return value


def defaults_for(command: Any, values: dict[str, str]) -> dict[str, Any]:
    """`values` for every command below `command`, in the nested form of click's `default_map`."""
    below = getattr(command, "commands", {})
    return {**values, **{name: defaults_for(each, values) for name, each in below.items()}}
