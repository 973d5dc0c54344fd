import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import TypeAdapter

from tests.support.encrypted import GuardedMinio, GuardedRedis, guarded_minio, guarded_redis
from tests.support.faults.scene import Outcome
from tests.support.faults.table import table
from tests.support.guarded import GuardedKafka, guarded_kafka
from tests.support.plants import fit_quickly
from tests.support.servers import S3Address, plant_variables, provided

PARTS_HEAD = (
    "| case | seed | parts | images | lost | repeated | late | kills | freezes | pass | reject | review | void |",
    f"|{'---|' * 13}",
)
OUTCOMES = pytest.StashKey[list[Outcome]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="faults at full length, with three seeds")
    parser.addoption("--alone", action="store_true", help="every fault in a flow of its own")
    parser.addoption("--outcomes", type=Path, help="write the count of every fault to this file, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = []


@pytest.fixture
def outcomes(pytestconfig: pytest.Config) -> Iterator[list[Outcome]]:
    """Of all tests; written after each, so that a run that is ended leaves what it has counted."""
    yield pytestconfig.stash[OUTCOMES]
    path = pytestconfig.getoption("--outcomes")
    if path is not None:
        path.write_text(json.dumps([asdict(outcome) for outcome in pytestconfig.stash[OUTCOMES]], indent=2) + "\n")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several hands its outcomes to the one that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["outcomes"] = [asdict(each) for each in session.config.stash[OUTCOMES]]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    outcomes = getattr(node, "workeroutput", {}).get("outcomes", [])
    node.config.stash[OUTCOMES] += TypeAdapter(list[Outcome]).validate_python(outcomes)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    outcomes = config.stash[OUTCOMES]
    if outcomes:
        terminalreporter.section("faults")
        terminalreporter.write_line(table(outcomes))
    of_parts = [dict(each.user_properties).get("parts") for each in terminalreporter.getreports("passed")]
    if any(of_parts):
        terminalreporter.section("parts")
        terminalreporter.write_line("\n".join([*PARTS_HEAD, *filter(None, of_parts)]))


@pytest.fixture
def quick_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    fit_quickly(monkeypatch)


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    """A broker with a door of every kind, beside the one of `kafka_bootstrap`, whose only door is plain."""
    with provided(pytestconfig, guarded_kafka(tmp_path_factory.mktemp("kafka"))) as guarded:
        yield guarded


@pytest.fixture(scope="session")
def minio(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedMinio]:
    """A MinIO behind TLS, beside the one of `s3_address`."""
    with provided(pytestconfig, guarded_minio(tmp_path_factory.mktemp("minio"))) as guarded:
        yield guarded


@pytest.fixture(scope="session")
def redis(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    """A Redis behind TLS and a password, beside the one of `redis_url`."""
    with provided(pytestconfig, guarded_redis(tmp_path_factory.mktemp("redis"))) as guarded:
        yield guarded


@pytest.fixture(scope="session")
def servers(redis_url: str, s3_address: S3Address) -> dict[str, str]:
    """The variables that lead to Redis and S3 as most tests use them."""
    return {
        "FLOWGAUGE_REDIS_URL": redis_url,
        "FLOWGAUGE_S3_ENDPOINT": s3_address.endpoint,
        "FLOWGAUGE_S3_ACCESS_KEY": s3_address.access_key,
        "FLOWGAUGE_S3_SECRET_KEY": s3_address.secret_key,
    }


@pytest.fixture
def shared_store(kafka_bootstrap: str, redis_url: str, s3_address: S3Address, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a store of its own on the servers, which the environment names."""
    name = f"shared-{uuid4().hex[:8]}"
    given = plant_variables(kafka_bootstrap, redis_url, s3_address) | {"FLOWGAUGE_TOPIC_PREFIX": f"{name}."}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    return f"s3://{name}"
