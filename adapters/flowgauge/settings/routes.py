"""A file of routes, read once at the start of whatever sends alerts to people."""

import tomllib
from collections.abc import Mapping
from json import detect_encoding
from pathlib import Path

from pydantic import ValidationError

from flowgauge.domain.errors import SettingsError
from flowgauge.domain.routes import Route, Routes

_EXAMPLE = 'A route looks like this: [routes.maintenance] and, below it, to = ["env:MAIL"].'


def read_routes(path: Path, environment: Mapping[str, str]) -> Routes:
    """Raises `SettingsError` for a file that does not parse; it names the route, and never the value of an address."""
    try:
        data = path.read_bytes()
        # Windows' editors put a byte order mark before it, or write two bytes a letter
        document = tomllib.loads(data.decode(detect_encoding(data)).removeprefix("\ufeff"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", "Check the path of the routes.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML: {error}.", _EXAMPLE) from error
    try:
        return Routes.of(document, environment)
    except ValidationError as error:
        raise _mistake(path, error) from None


def _mistake(path: Path, error: ValidationError) -> SettingsError:
    """Of the first problem: where it is, what it is, and what may stand there."""
    problem = error.errors(include_input=False, include_url=False)[0]
    position = [str(part) for part in problem["loc"]]
    what = problem["msg"].removeprefix("Value error, ")
    if position[:1] == ["routes"] and len(position) > 1:
        where, key, fields = f"route {position[1]}", position[2] if len(position) > 2 else "", Route.model_fields
    else:
        where, key, fields = "the file", position[0] if position else "", Routes.model_fields
    if problem["type"] == "extra_forbidden":
        return SettingsError(f"{path}: {where} sets {key}, which is no setting.", f"Settings: {', '.join(fields)}.")
    if problem["type"] == "missing":
        what = "it is missing"
    remedy = f"{key}: {fields[key].description}." if key in fields else _EXAMPLE
    return SettingsError(f"{path}: {where}{', ' + key if key else ''}: {what}.", remedy)
