"""Settings from the environment: what is missing is named, what is secret is never shown."""

from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.errors import SettingsError
from flowgauge.kafka.settings import Mechanism, Security
from flowgauge.settings.environment import kafka_settings, redis_url, s3_settings

KAFKA = {"FLOWGAUGE_KAFKA_BOOTSTRAP": "a:9092, b:9092"}
S3 = {
    "FLOWGAUGE_S3_ENDPOINT": "https://s3.example",
    "FLOWGAUGE_S3_ACCESS_KEY": "key",
    "FLOWGAUGE_S3_SECRET_KEY": "hush-hush",
}


def test_kafka_needs_its_brokers_and_no_more() -> None:
    settings = kafka_settings(KAFKA)
    assert settings.addresses == ["a:9092", "b:9092"]
    assert settings.topic("images") == "flowgauge.images"
    assert settings.security is Security.PLAINTEXT


def test_a_prefix_may_be_given_for_topics() -> None:
    assert kafka_settings(KAFKA | {"FLOWGAUGE_TOPIC_PREFIX": "plant-2."}).topic("images") == "plant-2.images"


@pytest.mark.parametrize("missing", sorted(S3))
def test_what_s3_needs_is_named(missing: str) -> None:
    with pytest.raises(SettingsError, match=missing):
        s3_settings({name: value for name, value in S3.items() if name != missing})


@pytest.mark.parametrize(
    ("read", "name"), [(kafka_settings, "FLOWGAUGE_KAFKA_BOOTSTRAP"), (redis_url, "FLOWGAUGE_REDIS_URL")]
)
def test_an_empty_environment_says_what_to_set(read: object, name: str) -> None:
    with pytest.raises(SettingsError, match=f"needs {name}"):
        read({})  # type: ignore[operator]


def test_a_security_that_does_not_exist_names_the_variable() -> None:
    with pytest.raises(SettingsError, match="FLOWGAUGE_KAFKA_SECURITY does not parse"):
        kafka_settings(KAFKA | {"FLOWGAUGE_KAFKA_SECURITY": "QUANTUM"})


def test_sasl_without_a_password_says_what_to_set_and_shows_no_secret() -> None:
    given = KAFKA | {"FLOWGAUGE_KAFKA_SECURITY": "SASL_SSL", "FLOWGAUGE_KAFKA_PASSWORD": "hush-hush"}
    with pytest.raises(SettingsError, match="FLOWGAUGE_KAFKA_USERNAME") as caught:
        kafka_settings(given)
    assert "hush" not in str(caught.value)


def test_a_password_is_never_sent_for_all_to_read() -> None:
    user = {"FLOWGAUGE_KAFKA_USERNAME": "line", "FLOWGAUGE_KAFKA_PASSWORD": "hush-hush"}
    plain = KAFKA | user | {"FLOWGAUGE_KAFKA_MECHANISM": "PLAIN"}
    assert kafka_settings(plain | {"FLOWGAUGE_KAFKA_SECURITY": "SASL_SSL"}).mechanism is Mechanism.PLAIN
    with pytest.raises(SettingsError, match="PLAIN would send the password"):
        kafka_settings(plain | {"FLOWGAUGE_KAFKA_SECURITY": "SASL_PLAINTEXT"})


def test_a_user_without_sasl_is_not_shown_to_the_brokers() -> None:
    given = {"FLOWGAUGE_KAFKA_SECURITY": "SSL", "FLOWGAUGE_KAFKA_USERNAME": "line", "FLOWGAUGE_KAFKA_PASSWORD": "hush"}
    assert not any(name.startswith("sasl") for name in kafka_settings(KAFKA | given).client_options())


def test_authorities_of_redis_become_a_part_of_its_url(tmp_path: Path) -> None:
    authority = tmp_path / "a&b.pem"
    authority.touch()
    given = {"FLOWGAUGE_REDIS_URL": "rediss://host:6379/0", "FLOWGAUGE_REDIS_CA_FILE": str(authority)}
    assert options(redis_url(given))["ssl_ca_certs"] == str(authority)
    given["FLOWGAUGE_REDIS_URL"] += "?health_check_interval=2"
    found = options(redis_url(given))
    assert (found["ssl_ca_certs"], found["health_check_interval"]) == (str(authority), 2)


def options(url: str) -> dict[str, object]:
    with closing(Redis.from_url(url)) as client:
        return dict(client.connection_pool.connection_kwargs)


def test_an_endpoint_that_is_no_url_is_a_settings_error_without_its_secret() -> None:
    with pytest.raises(SettingsError) as caught:
        s3_settings(S3 | {"FLOWGAUGE_S3_ENDPOINT": "hush-hush"})
    assert "hush" not in str(caught.value)


def test_secrets_are_masked_where_settings_are_printed() -> None:
    user = {"FLOWGAUGE_KAFKA_USERNAME": "line", "FLOWGAUGE_KAFKA_PASSWORD": "hush-hush"}
    kafka = kafka_settings(KAFKA | user | {"FLOWGAUGE_KAFKA_SECURITY": "SASL_SSL"})
    assert "hush" not in f"{kafka!r} {s3_settings(S3)!r}"
    assert kafka.client_options()["sasl_plain_password"] == "hush-hush"


def test_a_store_at_a_bucket_says_which_server_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWGAUGE_KAFKA_BOOTSTRAP", raising=False)
    with pytest.raises(SettingsError, match="A store at s3:// needs FLOWGAUGE_KAFKA_BOOTSTRAP"):
        open_store("s3://flowgauge")
