"""Where the servers are, as the environment says it; the only place that reads these variables."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError

from flowgauge.domain.errors import SettingsError
from flowgauge.kafka.settings import KafkaSettings
from flowgauge.s3.settings import S3Settings

Environment = Mapping[str, str]
T = TypeVar("T", bound=BaseModel)


def kafka_settings(environment: Environment) -> KafkaSettings:
    """Raises `SettingsError` for what is missing or does not parse."""
    _needed(environment, "FLOWGAUGE_KAFKA_BOOTSTRAP", "the brokers, host:port and comma-separated")
    names = {field: f"FLOWGAUGE_KAFKA_{field.upper()}" for field in KafkaSettings.model_fields}
    return _read(KafkaSettings, environment, names | {"prefix": "FLOWGAUGE_TOPIC_PREFIX"})


def s3_settings(environment: Environment) -> S3Settings:
    """Raises `SettingsError` for what is missing or does not parse."""
    _needed(environment, "FLOWGAUGE_S3_ENDPOINT", "the URL of the S3 server")
    _needed(environment, "FLOWGAUGE_S3_ACCESS_KEY", "the access key")
    _needed(environment, "FLOWGAUGE_S3_SECRET_KEY", "the secret key")
    # how long its calls may take is no variable: deadlines upstream are derived from the defaults
    fields = ("endpoint", "access_key", "secret_key", "session_token", "region", "ca_file")
    return _read(S3Settings, environment, {field: f"FLOWGAUGE_S3_{field.upper()}" for field in fields})


def redis_url(environment: Environment) -> str:
    """With the file of authorities, where one is given, as the client library reads it from a URL.

    Raises `SettingsError` where there is none, and for authorities without TLS.
    """
    url = _needed(environment, "FLOWGAUGE_REDIS_URL", "redis://host:port/0")
    ca_file = environment.get("FLOWGAUGE_REDIS_CA_FILE")
    if not ca_file:
        return url
    if not url.startswith("rediss://"):
        raise SettingsError("FLOWGAUGE_REDIS_CA_FILE is for TLS.", "Write FLOWGAUGE_REDIS_URL as rediss://host:port/0.")
    if not Path(ca_file).is_file():
        raise SettingsError(f"There is no file {ca_file}.", "Set FLOWGAUGE_REDIS_CA_FILE to a PEM file.")
    return f"{url}{'&' if '?' in url else '?'}{urlencode({'ssl_ca_certs': ca_file})}"


def _needed(environment: Environment, name: str, what: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise SettingsError(f"A store at s3:// needs {name}.", f"Set it to {what}.")
    return value


def _read(settings: type[T], environment: Environment, names: Mapping[str, str]) -> T:
    """From the variables `names`, by field; a `SettingsError` names what does not parse, and never its value."""
    try:
        return settings.model_validate(
            {field: environment[name] for field, name in names.items() if environment.get(name)}
        )
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, SettingsError):
            raise cause from None
        name = names[str(problem["loc"][0])]
        raise SettingsError(f"{name} does not parse: {problem['msg']}.", "Mend the variable.") from None
