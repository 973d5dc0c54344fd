"""A broker with a door of every kind, and users with a password or a certificate."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from deploy.native.servers import Kafka
from deploy.native.tls import Identity, Listener
from tests.support.certificates import Authority
from tests.support.servers import running

OPERATOR = "operator"
"""May do everything; has a password for either mechanism, and a certificate."""

LEAVER = "leaver"
"""May do everything as well."""

SASL, TLS, MTLS, SASL_TLS = "SASL", "TLS", "MTLS", "SASLTLS"
_MECHANISMS = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}
_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@dataclass(frozen=True)
class GuardedKafka:
    """Whoever comes by the plain door, or is the operator, may do everything; others what they are granted."""

    kafka: Kafka
    authority: Authority
    operator: Identity

    def add_users(self, names: Sequence[str], password: str | None = None) -> None:
        """Each with `password_of` it unless another is given, for both mechanisms; one that is there gets it anew."""
        admin = KafkaAdminClient(bootstrap_servers=self.kafka.address)
        try:
            for mechanism in _MECHANISMS.values():
                wanted = [
                    UserScramCredentialUpsertion(name, mechanism, password or password_of(name)) for name in names
                ]
                answer = admin.alter_user_scram_credentials(wanted)
                assert not any(answer.values()), answer
        finally:
            admin.close()

    def sasl(self, user: str = OPERATOR, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        return {
            "FLOWGAUGE_KAFKA_BOOTSTRAP": self.kafka.address_of(SASL),
            "FLOWGAUGE_KAFKA_SECURITY": "SASL_PLAINTEXT",
            "FLOWGAUGE_KAFKA_MECHANISM": mechanism,
            "FLOWGAUGE_KAFKA_USERNAME": user,
            "FLOWGAUGE_KAFKA_PASSWORD": password_of(user),
        }

    def tls(self) -> dict[str, str]:
        return {
            "FLOWGAUGE_KAFKA_BOOTSTRAP": self.kafka.address_of(TLS),
            "FLOWGAUGE_KAFKA_SECURITY": "SSL",
            "FLOWGAUGE_KAFKA_CA_FILE": str(self.authority.certificate),
        }

    def mtls(self) -> dict[str, str]:
        return self.tls() | {
            "FLOWGAUGE_KAFKA_BOOTSTRAP": self.kafka.address_of(MTLS),
            "FLOWGAUGE_KAFKA_CERTIFICATE_FILE": str(self.operator.certificate),
            "FLOWGAUGE_KAFKA_KEY_FILE": str(self.operator.key),
        }

    def sasl_tls(self, user: str = OPERATOR) -> dict[str, str]:
        return (
            self.sasl(user)
            | self.tls()
            | {"FLOWGAUGE_KAFKA_BOOTSTRAP": self.kafka.address_of(SASL_TLS), "FLOWGAUGE_KAFKA_SECURITY": "SASL_SSL"}
        )


@contextmanager
def guarded_kafka(folder: Path) -> Iterator[GuardedKafka]:
    """Raises `ServerError` where it cannot be had."""
    authority = Authority(folder / "authority")
    server = authority.issue("broker")
    store = folder / "broker.pem"
    store.write_text(server.combined())
    with running(Kafka(folder / "kafka", _properties(), _listeners(store, authority.certificate))) as kafka:
        guarded = GuardedKafka(kafka, authority, authority.issue(OPERATOR))
        guarded.add_users([OPERATOR])
        yield guarded


def password_of(user: str) -> str:
    return f"the password of {user}"


def _properties() -> Mapping[str, str]:
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # the plain door and TLS without a client's certificate know nobody by name
        "super.users": f"User:ANONYMOUS;User:{OPERATOR};User:{LEAVER}",
        "connection.failed.authentication.delay.ms": "100",
    }


def _listeners(store: Path, authority: Path) -> Mapping[str, Listener]:
    sasl = {"sasl.enabled.mechanisms": ",".join(_MECHANISMS)}
    sasl |= {f"{name.lower()}.sasl.jaas.config": _LOGIN for name in _MECHANISMS}
    tls = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority),
    }
    named = {"ssl.client.auth": "required", "ssl.principal.mapping.rules": r"RULE:^CN=([^,]+).*$/$1/"}
    return {
        SASL: Listener("SASL_PLAINTEXT", sasl),
        TLS: Listener("SSL", tls),
        MTLS: Listener("SSL", tls | named),
        SASL_TLS: Listener("SASL_SSL", sasl | tls),
    }
