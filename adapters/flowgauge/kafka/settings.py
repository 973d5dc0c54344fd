"""How to reach the brokers: one frozen object, from which every client's options come."""

from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from flowgauge.domain.errors import SettingsError

LARGEST_MESSAGE = 10 * 1024 * 1024
"""Bytes; what our topics are created with, and twice what JSON and inline images need."""

LARGEST_DEAD_LETTER = LARGEST_MESSAGE + 64 * 1024
"""Bytes; a dead letter is the largest message, where it lay, and why it could not be processed."""


class Security(StrEnum):
    """The listener's protocol. `SSL` with a client certificate is mTLS."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class Mechanism(StrEnum):
    """How a password is shown; `PLAIN` shows it to whoever listens, so only over TLS."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class KafkaSettings(BaseModel):
    """`bootstrap`: host:port, comma-separated; `prefix` stands before every topic's and group's name.

    `ca_file`, `certificate_file` and `key_file` are PEM files. The password is masked wherever this is printed.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    bootstrap: str
    prefix: str = "flowgauge."
    security: Security = Security.PLAINTEXT
    mechanism: Mechanism = Mechanism.SCRAM_SHA_512
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def credentials_fit(self) -> "KafkaSettings":
        if self.by_password and (self.username is None or self.password is None):
            raise SettingsError(
                f"{self.security} needs a user and a password.",
                "Set FLOWGAUGE_KAFKA_USERNAME and FLOWGAUGE_KAFKA_PASSWORD.",
            )
        if self.security is Security.SASL_PLAINTEXT and self.mechanism is Mechanism.PLAIN:
            raise SettingsError("PLAIN would send the password for all to read.", "Use SCRAM-SHA-512, or SASL_SSL.")
        return self

    def topic(self, name: str) -> str:
        return self.prefix + name

    @property
    def by_password(self) -> bool:
        return self.security in (Security.SASL_PLAINTEXT, Security.SASL_SSL)

    @property
    def who(self) -> str:
        """As whom the brokers know us, for messages."""
        if self.by_password:
            return f"the user {self.username}"
        return f"the owner of {self.certificate_file}" if self.certificate_file else "a client without a name"

    @property
    def addresses(self) -> list[str]:
        return [address.strip() for address in self.bootstrap.split(",")]

    def client_options(self) -> dict[str, Any]:
        """What all clients of kafka-python have in common."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.addresses,
            "security_protocol": self.security.value,
            # Longer holds up a worker whose brokers are away; shorter gives brokers up that are busy.
            "bootstrap_timeout_ms": 10_000,
            # Longer, and a broker that is back stands idle for us.
            "reconnect_backoff_max_ms": 1_000,
        }
        if self.by_password and self.password is not None:
            options |= {
                "sasl_mechanism": self.mechanism.value,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password.get_secret_value(),
            }
        files = {"ssl_cafile": self.ca_file, "ssl_certfile": self.certificate_file, "ssl_keyfile": self.key_file}
        return options | {name: str(path) for name, path in files.items() if path is not None}
