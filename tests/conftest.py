import os

# before torch is loaded: on tensors as small as the tests', threads cost more than they give
os.environ.setdefault("OMP_NUM_THREADS", "1")
# compiling a gauge takes longer than what most tests do with one; those of engines ask for theirs
os.environ.setdefault("FLOWGAUGE_ENGINE", "torch")

from collections.abc import Iterator

import pytest

import tests.support.long_runs  # noqa: F401  before hypothesis is used
from flowgauge.models import registry
from tests.support.redis_servers import redis_cluster
from tests.support.servers import S3Address, provided, real_kafka, real_redis, real_s3, second_real_s3
from tests.support.shell import Shell


@pytest.fixture
def flowgauge(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The command line, in a wide terminal and without settings from outside."""
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FLOWGAUGE_STORE", "FLOWGAUGE_DEVICE", "FLOWGAUGE_CONFIG", "FLOWGAUGE_NOTIFY"):
        monkeypatch.delenv(name, raising=False)
    return Shell(capsys)


@pytest.fixture(autouse=True)
def own_detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test offers by name, the next one in the same process does not find."""
    monkeypatch.setattr(registry, "DETECTORS", dict(registry.DETECTORS))


@pytest.fixture(scope="session")
def kafka_bootstrap(pytestconfig: pytest.Config) -> Iterator[str]:
    with provided(pytestconfig, real_kafka()) as address:
        yield address


@pytest.fixture(scope="session")
def redis_url(pytestconfig: pytest.Config) -> Iterator[str]:
    with provided(pytestconfig, real_redis()) as url:
        yield url


@pytest.fixture(scope="session")
def redis_cluster_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """One of three servers that form a cluster."""
    with provided(pytestconfig, redis_cluster()) as nodes:
        yield nodes[0].url


@pytest.fixture(scope="session")
def s3_address(pytestconfig: pytest.Config) -> Iterator[S3Address]:
    """MinIO, where no other server is given."""
    with provided(pytestconfig, real_s3()) as address:
        yield address


@pytest.fixture(scope="session")
def second_s3_address(pytestconfig: pytest.Config) -> Iterator[S3Address]:
    """versitygw, where no other server is given."""
    with provided(pytestconfig, second_real_s3()) as address:
        yield address
