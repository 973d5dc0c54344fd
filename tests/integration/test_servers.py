"""Every real server that other tests build on is one, and answers the client that the adapters use."""

from io import BytesIO
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic
from minio import Minio
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig
from redis import Redis

from deploy.native.servers import Kafka
from tests.support.servers import S3Address, running


def test_kafka_returns_a_record_of_eight_megabytes(kafka_bootstrap: str) -> None:
    topic = _topic(kafka_bootstrap)
    image = b"\0\xff" * 4_000_000
    _send(kafka_bootstrap, topic, image)
    assert _first_record(kafka_bootstrap, topic) == image


@pytest.mark.slow
def test_kafka_keeps_its_records_through_a_crash(tmp_path: Path) -> None:
    with running(Kafka(tmp_path)) as kafka:
        topic = _topic(kafka.address)
        _send(kafka.address, topic, b"before")
        address = kafka.address
        kafka.kill()
        assert kafka.pid is None
        kafka.start()
        assert kafka.address == address
        assert _first_record(kafka.address, topic) == b"before"


def test_redis_returns_what_it_was_given(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.set(f"test-{uuid4().hex}", b"\0value", ex=60)
        assert redis.ping()


@pytest.mark.parametrize("server", ["s3_address", "second_s3_address"])
def test_s3_returns_every_version_of_an_object(server: str, request: pytest.FixtureRequest) -> None:
    address: S3Address = request.getfixturevalue(server)
    client = _client(address)
    bucket = f"test-{uuid4().hex}"
    client.make_bucket(bucket)
    client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    first = client.put_object(bucket, "a/b", BytesIO(b"first"), 5).version_id
    client.put_object(bucket, "a/b", BytesIO(b"second"), 6)
    assert _read(client, bucket) == b"second"
    assert _read(client, bucket, first) == b"first"


def _topic(bootstrap: str) -> str:
    topic = f"test-{uuid4().hex}"
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        admin.close()
    return topic


def _send(bootstrap: str, topic: str, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, max_request_size=10_000_000, acks="all")
    try:
        producer.send(topic, value).get(timeout=30)
    finally:
        producer.close(timeout=5)


def _first_record(bootstrap: str, topic: str) -> bytes:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    try:
        value = next(consumer).value
        assert isinstance(value, bytes)
        return value
    finally:
        consumer.close()


def _client(address: S3Address) -> Minio:
    host = address.endpoint.removeprefix("http://")
    secure = not address.endpoint.startswith("http://")
    return Minio(
        host.removeprefix("https://"), access_key=address.access_key, secret_key=address.secret_key, secure=secure
    )


def _read(client: Minio, bucket: str, version: str | None = None) -> bytes:
    answer = client.get_object(bucket, "a/b", version_id=version)
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()
