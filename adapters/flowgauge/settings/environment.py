"""Where the servers are, as the environment says it; the only place that reads these variables."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr, ValidationError

from flowgauge.domain.errors import SettingsError
from flowgauge.kafka.settings import KafkaSettings
from flowgauge.s3.settings import S3Settings

Environment = Mapping[str, str]


def kafka_settings(environment: Environment) -> KafkaSettings:
    """Raises `SettingsError` for what is missing or does not parse."""
    fields: dict[str, Any] = _given(
        environment,
        {
            "prefix": "FLOWGAUGE_TOPIC_PREFIX",
            "security": "FLOWGAUGE_KAFKA_SECURITY",
            "mechanism": "FLOWGAUGE_KAFKA_MECHANISM",
            "username": "FLOWGAUGE_KAFKA_USERNAME",
            "password": "FLOWGAUGE_KAFKA_PASSWORD",
            "ca_file": "FLOWGAUGE_KAFKA_CA_FILE",
            "certificate_file": "FLOWGAUGE_KAFKA_CERTIFICATE_FILE",
            "key_file": "FLOWGAUGE_KAFKA_KEY_FILE",
        },
    )
    bootstrap = _needed(environment, "FLOWGAUGE_KAFKA_BOOTSTRAP", "the brokers, host:port and comma-separated")
    with _named("FLOWGAUGE_KAFKA_"):
        return KafkaSettings(bootstrap=bootstrap, **fields)


def s3_settings(environment: Environment) -> S3Settings:
    """Raises `SettingsError` for what is missing or does not parse."""
    ca_file = environment.get("FLOWGAUGE_S3_CA_FILE")
    session_token = environment.get("FLOWGAUGE_S3_SESSION_TOKEN")
    with _named("FLOWGAUGE_S3_"):
        return S3Settings(
            endpoint=_needed(environment, "FLOWGAUGE_S3_ENDPOINT", "the URL of the S3 server"),
            access_key=_needed(environment, "FLOWGAUGE_S3_ACCESS_KEY", "the access key"),
            secret_key=SecretStr(_needed(environment, "FLOWGAUGE_S3_SECRET_KEY", "the secret key")),
            session_token=SecretStr(session_token) if session_token else None,
            region=environment.get("FLOWGAUGE_S3_REGION", "us-east-1"),
            ca_file=Path(ca_file) if ca_file else None,
        )


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


@contextmanager
def _named(prefix: str) -> Iterator[None]:
    """What does not parse becomes a `SettingsError` that names the variable, and never its value."""
    try:
        yield
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, SettingsError):
            raise cause from None
        name = prefix + "_".join(str(part) for part in problem["loc"]).upper()
        raise SettingsError(f"{name} does not parse: {problem['msg']}.", "Mend the variable.") from None


def _given(environment: Environment, names: Mapping[str, str]) -> dict[str, str]:
    return {field: environment[name] for field, name in names.items() if environment.get(name)}
