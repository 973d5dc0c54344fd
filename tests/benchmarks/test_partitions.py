"""What many partitions cost a scoring worker, whose gauges take no time here: lines lie in partitions of their own."""

import os
from time import sleep
from uuid import uuid4

import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.messages import VERDICTS
from flowgauge.kafka.publisher import ImagePublisher
from flowgauge.kafka.topics import Plan, Topics
from flowgauge.runtime.roles import Role
from flowgauge.s3.objects import S3Objects
from flowgauge.settings.environment import kafka_settings, s3_settings
from tests.support.clusters import Cluster
from tests.support.servers import S3Address, plant_variables
from tests.support.speedplant import rate, say
from tests.support.streaming import START, event, fitted, png

PARTITIONS = 32
IMAGES_SENT = 1_600
WARM_UP = 64  # images; the first batches of a new process are slower
ROUNDS = 2
# of the rate with one line on one partition: with less a batch falls into a pass and a write for each partition again,
# which was a third; more than this is left to the brokers, who write to 32 files in place of one
KEEPS = 0.6


def scored(partitions: int) -> float:
    """Images a second of one worker, whose topic was filled before it started, by turns of as many lines."""
    name = f"partitions-{uuid4().hex[:8]}"
    os.environ["FLOWGAUGE_TOPIC_PREFIX"] = f"{name}."
    S3Objects(s3_settings(os.environ), name).ensure_bucket()
    with Topics(kafka_settings(os.environ)) as topics:
        topics.create(Plan(partitions=partitions))
    lines = [f"press-{number}" for number in range(partitions)]
    shown = [png(100, seed=seed, side=64) for seed in range(16)]
    with open_store(f"s3://{name}") as store:
        for line in lines:
            fitted(store, line=line)
        with ImagePublisher(kafka_settings(os.environ), store.objects) as publisher:
            for number in range(IMAGES_SENT):
                partition = number % partitions
                publisher.publish(
                    event(f"{number:06d}", lines[partition], at=START), shown[number % len(shown)], partition
                )
        cluster = Cluster(f"s3://{name}", store)
        worker = cluster.start(Role.SCORING)
        try:
            while cluster.ends(VERDICTS) < IMAGES_SENT:
                assert worker.poll() is None, "the worker has ended"
                sleep(1)
            cluster.stop()
        finally:
            worker.kill()
        records = sorted(cluster.records(VERDICTS), key=lambda record: record.at)
    return rate(records[WARM_UP:])


def test_a_worker_of_many_partitions_keeps_most_of_the_speed_of_one(
    kafka_bootstrap: str, redis_url: str, s3_address: S3Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in plant_variables(kafka_bootstrap, redis_url, s3_address).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("FLOWGAUGE_TOPIC_PREFIX", "")
    rounds = [(scored(1), scored(PARTITIONS)) for _ in range(ROUNDS)]
    one, many = (sum(each) / ROUNDS for each in zip(*rounds, strict=True))
    say(f"one partition {one:.0f}, {PARTITIONS} partitions {many:.0f} images/s, ratio {many / one:.2f}; {rounds}")
    assert many / one >= KEEPS
