"""How to reach the object store: one frozen object."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from flowgauge.domain.errors import SettingsError


class S3Settings(BaseModel):
    """`endpoint` is a URL, with TLS if it begins with https; `ca_file` (PEM) replaces the system's authorities.

    A connection may take `connect_seconds` and each wait for bytes `answer_seconds`; what fails is tried again while
    less than `retry_seconds` have passed. The secret key and the session token are masked wherever this is printed.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    endpoint: str
    access_key: str
    secret_key: SecretStr
    session_token: SecretStr | None = Field(
        default=None, description="FLOWGAUGE_S3_SESSION_TOKEN: comes with temporary keys, of STS or an instance role"
    )
    region: str = "us-east-1"
    ca_file: Path | None = None
    connect_seconds: float = Field(default=3, gt=0)
    answer_seconds: float = Field(default=10, gt=0)
    retry_seconds: float = Field(default=3, ge=0)

    @field_validator("endpoint")
    @classmethod
    def names_a_server(cls, endpoint: str) -> str:
        url = urlsplit(endpoint)
        beside = url.path.strip("/") or url.query or url.fragment or url.username or url.password
        if url.scheme not in ("http", "https") or not url.hostname or beside:
            raise SettingsError(
                "The S3 endpoint is not the URL of a server.", "Write https://host or http://host:port."
            )
        return endpoint.rstrip("/")

    @field_validator("ca_file")
    @classmethod
    def is_a_file(cls, ca_file: Path | None) -> Path | None:
        if ca_file is not None and not ca_file.is_file():
            raise SettingsError(f"There is no file {ca_file}.", "Set FLOWGAUGE_S3_CA_FILE to a PEM file.")
        return ca_file
