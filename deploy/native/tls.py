"""What a server shows its clients over TLS, and what a broker opens beside its plain listener."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """PEM files: a certificate, its private key (PKCS #8), and the authority that signed it."""

    certificate: Path
    key: Path
    authority: Path

    @property
    def client_context(self) -> ssl.SSLContext:
        """What trusts the authority and nothing else."""
        return ssl.create_default_context(cafile=self.authority)

    def combined(self) -> str:
        """Key and certificate in one PEM text, as Kafka reads them."""
        return self.key.read_text() + self.certificate.read_text()


@dataclass(frozen=True)
class Listener:
    """Another door of a broker: `protocol` is SSL, SASL_PLAINTEXT or SASL_SSL; `properties` are this listener's own."""

    protocol: str
    properties: Mapping[str, str] = field(default_factory=dict)
