"""Servers that fail."""

from datetime import UTC, datetime

from redis import Redis as RedisClient

from deploy.native.process import NativeServer
from tests.support.faults.scene import Scene


def broker_restarts(scene: Scene) -> datetime:
    return _crash(scene, scene.servers.kafka, 3)


def broker_freezes(scene: Scene) -> datetime:
    scene.servers.kafka.freeze()
    scene.outlast(30)
    scene.servers.kafka.thaw()
    return datetime.now(UTC)


def redis_is_flushed(scene: Scene) -> datetime:
    with RedisClient.from_url(scene.servers.redis.url) as client:
        client.flushall()
    return datetime.now(UTC)


def redis_restarts(scene: Scene) -> datetime:
    return _crash(scene, scene.servers.redis, 3)


def store_is_away(scene: Scene) -> datetime:
    return _crash(scene, scene.servers.minio, 60)


def _crash(scene: Scene, server: NativeServer, seconds: float) -> datetime:
    server.kill()
    scene.outlast(seconds)
    server.start()
    return datetime.now(UTC)
