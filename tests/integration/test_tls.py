"""S3 and Redis behind TLS and passwords, on real servers."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from flowgauge.domain.errors import SettingsError, Unavailable
from flowgauge.local import SystemClock
from flowgauge.redis.state import RedisState
from flowgauge.s3.objects import S3Objects
from flowgauge.settings.environment import redis_url, s3_settings
from tests.support.certificates import Authority
from tests.support.encrypted import GuardedMinio, GuardedRedis


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of an authority that signed none of the servers' certificates."""
    return str(Authority(tmp_path_factory.mktemp("strange")).certificate)


def bucket(variables: dict[str, str]) -> closing[S3Objects]:
    return closing(S3Objects(s3_settings(variables), f"tls-{uuid4().hex}"))


def state(variables: dict[str, str]) -> closing[RedisState]:
    return closing(RedisState(redis_url(variables), SystemClock(), f"{uuid4().hex}:"))


def test_objects_of_any_size_go_through_tls(minio: GuardedMinio) -> None:
    large = Random(0).randbytes(20 * 2**20)
    with bucket(minio.operator()) as objects:
        objects.ensure_bucket()
        for name, data in (("small", b"bytes"), ("empty", b""), ("large", large)):
            objects.put(name, data, tags={"decision": "pass"})
            assert objects.get(name) == data


@pytest.mark.parametrize("authority", ["strange", "none"])
def test_an_s3_server_whose_authority_is_unknown_is_not_spoken_to(
    minio: GuardedMinio, strange: str, authority: str
) -> None:
    variables = minio.operator() | {"FLOWGAUGE_S3_CA_FILE": strange if authority == "strange" else ""}
    with bucket(variables) as objects, pytest.raises(Unavailable, match=r"certificate.*Check.*FLOWGAUGE_S3_CA_FILE"):
        objects.put("a", b"bytes")


def test_plain_words_to_an_s3_server_behind_tls_are_reported(minio: GuardedMinio) -> None:
    plain = {"FLOWGAUGE_S3_ENDPOINT": minio.minio.endpoint.replace("https:", "http:")}
    with bucket(minio.operator() | plain) as objects, pytest.raises(Unavailable, match="cannot be used"):
        objects.put("a", b"bytes")


def test_state_goes_through_tls_with_a_password(redis: GuardedRedis) -> None:
    with state(redis.variables()) as store:
        store.put("a", b"bytes", ttl_seconds=60)
        assert store.get("a") == b"bytes"
        assert store.lease("b", "owner", ttl_seconds=60)


@pytest.fixture(params=["wrong password", "no password", "strange authority", "no authority", "plain words"])
def misled(request: pytest.FixtureRequest, redis: GuardedRedis, strange: str) -> tuple[dict[str, str], str]:
    """Variables with a mistake, and what is said of it."""
    right = redis.variables()
    wrong: dict[str, Callable[[], tuple[dict[str, str], str]]] = {
        "wrong password": lambda: (redis.variables("another"), "Check the user and the password"),
        "no password": lambda: (redis.variables(""), "Check the user and the password"),
        "strange authority": lambda: (right | {"FLOWGAUGE_REDIS_CA_FILE": strange}, "Check FLOWGAUGE_REDIS_CA_FILE"),
        "no authority": lambda: (right | {"FLOWGAUGE_REDIS_CA_FILE": ""}, "Check FLOWGAUGE_REDIS_CA_FILE"),
        "plain words": lambda: (
            {"FLOWGAUGE_REDIS_URL": right["FLOWGAUGE_REDIS_URL"].replace("rediss:", "redis:")},
            "cannot be used",
        ),
    }
    return wrong[request.param]()


def test_a_mistake_about_redis_is_reported_without_its_password(misled: tuple[dict[str, str], str]) -> None:
    variables, reason = misled
    with state(variables) as store, pytest.raises(Unavailable) as reported:
        store.get("a")
    assert reason in str(reported.value)
    assert "another" not in str(reported.value)


def test_authorities_for_a_redis_without_tls_are_a_mistake(redis: GuardedRedis) -> None:
    plain = redis.variables() | {"FLOWGAUGE_REDIS_URL": redis.redis.url}
    with pytest.raises(SettingsError, match="rediss://"):
        redis_url(plain)


@pytest.mark.parametrize("read", [redis_url, s3_settings], ids=["redis", "s3"])
def test_a_file_of_authorities_that_is_not_there_is_named(
    minio: GuardedMinio, redis: GuardedRedis, tmp_path: Path, read: Callable[[dict[str, str]], object]
) -> None:
    missing = str(tmp_path / "ca.pem")
    files = {"FLOWGAUGE_S3_CA_FILE": missing, "FLOWGAUGE_REDIS_CA_FILE": missing}
    with pytest.raises(SettingsError, match=missing):
        read(minio.operator() | redis.variables() | files)
