"""Workers on real Kafka, Redis and S3: whatever is killed, every image has one verdict that counts."""

import os
import random
import signal
from collections.abc import Iterator
from time import sleep

import pytest

from adapters.environment import kafka_settings
from adapters.kafka.publisher import ImagePublisher
from core.messages import DEAD_LETTERS, IMAGES, VERDICTS, Decision
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
from tests.support.servers import S3Address
from tests.support.streaming import event, png


@pytest.fixture
def cluster(
    kafka_bootstrap: str, redis_url: str, s3_address: S3Address, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    monkeypatch.setenv("FLOWGAUGE_TOPIC_PREFIX", "")  # the plant sets it, and this puts it back
    for variable, value in {
        "FLOWGAUGE_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "FLOWGAUGE_REDIS_URL": redis_url,
        "FLOWGAUGE_S3_ENDPOINT": s3_address.endpoint,
        "FLOWGAUGE_S3_ACCESS_KEY": s3_address.access_key,
        "FLOWGAUGE_S3_SECRET_KEY": s3_address.secret_key,
    }.items():
        monkeypatch.setenv(variable, value)
    with plant() as cluster:
        yield cluster


@pytest.mark.slow
def test_workers_that_join_and_are_killed_leave_one_verdict_for_each_image(cluster: Cluster) -> None:
    dice = random.Random(4)
    first = cluster.start(Role.SCORING)
    cluster.publish(0, 60)
    cluster.wait("the first verdicts", lambda: cluster.ends(VERDICTS) > dice.randrange(1, 100))
    cluster.start(Role.SCORING)
    sleep(dice.uniform(0, 3))
    os.kill(first.pid, signal.SIGKILL)
    cluster.publish(60, 120)
    cluster.start(Role.DOWNSTREAM)
    cluster.wait("all verdicts", all_scored(cluster, 120))
    cluster.stop()

    assert_one_verdict_each_in_order(cluster, 120)
    expected = {(verdict.line, verdict.image_id) for verdicts in counted(cluster).values() for verdict in verdicts}
    finish_downstream(cluster, len(expected), 12 * len(LINES))
    kept = [(verdict.line, verdict.image_id) for verdict in archived(cluster.store.objects)]
    assert sorted(kept) == sorted(expected)
    assert rejects_told(cluster) == dict.fromkeys(LINES, 12)


@pytest.mark.slow
def test_poison_and_a_large_image_among_good_ones_disturb_nothing(cluster: Cluster) -> None:
    large = png(100, seed=1, side=1_200)
    with ImagePublisher(kafka_settings(os.environ), cluster.store.objects, inline_limit=100_000) as publisher:
        publisher.publish(event("good", LINES[0]), png(100), 0)
        publisher.publish(event("poison", LINES[0]), b"no image at all", 0)
        publisher.publish(event("large", LINES[0]), large, 0)
        publisher.publish(event("last", LINES[0]), png(170), 0)
    assert len(large) > 100_000
    assert cluster.store.log.read(IMAGES, 0, 2, 1)[0].value == b"", "it travelled inline"
    cluster.start(Role.SCORING)
    cluster.wait("the verdicts", lambda: cluster.ends(VERDICTS) == 3 and cluster.ends(DEAD_LETTERS) == 1)
    cluster.stop()

    decisions = {verdict.image_id: verdict.decision for verdict in counted(cluster)[0]}
    assert decisions == {"good": Decision.PASS, "large": Decision.PASS, "last": Decision.REJECT}
    (letter,) = cluster.records(DEAD_LETTERS)
    assert letter.headers["ce_id"] == "poison"
