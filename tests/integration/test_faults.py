"""The servers fail while images flow, one after another and in a seeded order; each test ends in a count.

The servers are this machine's own, so that nobody else's are hurt.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import pytest
from redis import Redis as RedisClient

from core.messages import VERDICTS
from deploy.native.process import NativeServer
from deploy.native.servers import ACCESS_KEY, Kafka, Minio, Redis
from streams.archive import archived
from streams.roles import Role
from tests.support.clusters import (
    LINES,
    Cluster,
    all_scored,
    assert_one_verdict_each_in_order,
    counted,
    finish_downstream,
    plant,
    rejects_told,
)
from tests.support.servers import provided, running

AWAY_SECONDS = 3

pytestmark = pytest.mark.slow


@dataclass
class Servers:
    kafka: Kafka
    redis: Redis
    minio: Minio


@pytest.fixture
def servers(tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    made = Servers(Kafka(tmp_path / "kafka"), Redis(tmp_path / "redis"), Minio(tmp_path / "minio"))
    with ExitStack() as stack:
        for server in (made.kafka, made.redis, made.minio):
            stack.enter_context(provided(pytestconfig, running(server)))
        for variable, value in {
            "FLOWGAUGE_TOPIC_PREFIX": "",
            "FLOWGAUGE_KAFKA_BOOTSTRAP": made.kafka.address,
            "FLOWGAUGE_REDIS_URL": made.redis.url,
            "FLOWGAUGE_S3_ENDPOINT": made.minio.endpoint,
            "FLOWGAUGE_S3_ACCESS_KEY": ACCESS_KEY,
            "FLOWGAUGE_S3_SECRET_KEY": made.minio.secret,
        }.items():
            monkeypatch.setenv(variable, value)
        yield made


def broker_crashes(servers: Servers) -> None:
    _crash(servers.kafka)


def broker_freezes(servers: Servers) -> None:
    servers.kafka.freeze()
    sleep(AWAY_SECONDS)
    servers.kafka.thaw()


def redis_is_flushed(servers: Servers) -> None:
    with RedisClient.from_url(servers.redis.url) as client:
        client.flushall()


def redis_crashes(servers: Servers) -> None:
    _crash(servers.redis)


def store_crashes(servers: Servers) -> None:
    _crash(servers.minio)


def _crash(server: NativeServer) -> None:
    server.kill()
    sleep(AWAY_SECONDS)
    server.start()


@pytest.mark.parametrize("seed", [0])
def test_servers_that_fail_one_after_another_cost_no_verdict_and_no_alert(servers: Servers, seed: int) -> None:
    faults: list[Callable[[Servers], None]] = [
        broker_crashes,
        broker_freezes,
        redis_is_flushed,
        redis_crashes,
        store_crashes,
    ]
    dice = random.Random(seed)
    dice.shuffle(faults)
    with plant() as cluster:
        images = suffer(cluster, servers, faults, dice)
        cluster.wait("all verdicts", all_scored(cluster, images))
        cluster.stop()

        assert_one_verdict_each_in_order(cluster, images)
        expected = {(verdict.line, verdict.image_id) for verdicts in counted(cluster).values() for verdict in verdicts}
        finish_downstream(cluster, len(expected), images // 10 * len(LINES))
        kept = [(verdict.line, verdict.image_id) for verdict in archived(cluster.store.objects)]
        assert sorted(kept) == sorted(expected)
        assert rejects_told(cluster) == dict.fromkeys(LINES, images // 10)


def suffer(cluster: Cluster, servers: Servers, faults: list[Callable[[Servers], None]], dice: random.Random) -> int:
    """Before each fault 20 images are published on every line, and some are scored; how many there were."""
    cluster.start(Role.SCORING)
    cluster.start(Role.DOWNSTREAM)
    for number, fault in enumerate(faults):
        cluster.publish(20 * number, 20 * (number + 1))
        scored = cluster.ends(VERDICTS)
        cluster.wait(f"verdicts before {fault.__name__}", lambda at=scored: cluster.ends(VERDICTS) > at)  # type: ignore[misc]
        sleep(dice.uniform(0, 0.5))
        fault(servers)
    cluster.publish(20 * len(faults), 20 * (len(faults) + 1))
    return 20 * (len(faults) + 1)
