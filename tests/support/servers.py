"""Real Kafka, Redis and S3 servers for tests.

Each is looked for in this order, and only when a test asks for it: an address in the environment, a container, a
process of this machine (`deploy/native`).
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest

from deploy.native.probes import http_answers, kafka_answers, redis_answers, wait_for
from deploy.native.process import START_SECONDS, NativeServer, ServerError, free_port
from deploy.native.servers import ACCESS_KEY, KAFKA_ALONE, Kafka, Minio, Redis, S3Server, Versitygw

Found = TypeVar("Found")
Native = TypeVar("Native", bound=NativeServer)

# containers live as long as the session and listen on this machine only
CONTAINER_SECRET = "only-for-tests"


@dataclass(frozen=True)
class S3Address:
    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)


def plant_variables(kafka: str, redis: str, s3: S3Address) -> dict[str, str]:
    """The variables that lead our commands to these servers, with topics under no prefix: a plant sets one."""
    return {
        "FLOWGAUGE_TOPIC_PREFIX": "",
        "FLOWGAUGE_KAFKA_BOOTSTRAP": kafka,
        "FLOWGAUGE_REDIS_URL": redis,
        "FLOWGAUGE_S3_ENDPOINT": s3.endpoint,
        "FLOWGAUGE_S3_ACCESS_KEY": s3.access_key,
        "FLOWGAUGE_S3_SECRET_KEY": s3.secret_key,
    }


def real_kafka() -> AbstractContextManager[str]:
    """The bootstrap address of a broker. Raises ServerError when none can be had, as the other three do."""
    return _first(os.environ.get("FLOWGAUGE_TEST_KAFKA_BOOTSTRAP"), _kafka_container, _native_kafka)


def real_redis() -> AbstractContextManager[str]:
    """The URL of a Redis database."""
    return _first(os.environ.get("FLOWGAUGE_TEST_REDIS_URL"), _redis_container, _native_redis)


def real_s3() -> AbstractContextManager[S3Address]:
    """MinIO, where no other is given."""
    return _first(_given_s3("FLOWGAUGE_TEST_S3"), _minio_container, lambda: _native_s3(Minio))


def second_real_s3() -> AbstractContextManager[S3Address]:
    """versitygw, where no other is given: what only MinIO understands fails here."""
    return _first(_given_s3("FLOWGAUGE_TEST_S3_SECOND"), _versitygw_container, lambda: _native_s3(Versitygw))


@contextmanager
def running(server: Native) -> Iterator[Native]:
    """A started server that is ended afterwards, whatever was done to it in between."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def provided(config: pytest.Config, server: AbstractContextManager[Found]) -> Iterator[Found]:
    """A server for as long as the tests need it. Without one they are skipped, and under CI they fail.

    What its installation says goes to the terminal, for it may take minutes.
    """
    with ExitStack() as stack:
        try:
            with _uncaptured(config):
                found = stack.enter_context(server)
        except ServerError as error:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no real server: {error}")
        yield found


@contextmanager
def _first(
    given: Found | None,
    contained: Callable[[], AbstractContextManager[Found]],
    native: Callable[[], AbstractContextManager[Found]],
) -> Iterator[Found]:
    with ExitStack() as stack:
        yield given or _in_container(stack, contained) or stack.enter_context(native())


def _in_container(stack: ExitStack, contained: Callable[[], AbstractContextManager[Found]]) -> Found | None:
    if not _docker_answers():
        return None
    try:
        return stack.enter_context(contained())
    except Exception as error:  # of Docker, of its registry, of the network: a process needs none of them
        sys.stderr.write(f"flowgauge: no container, so a process of this machine is next: {error}\n")
        return None


def _docker_answers() -> bool:
    """Whether a daemon stands behind the client: the client alone may be there without one."""
    try:
        asked = subprocess.run(["docker", "version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def _given_s3(prefix: str) -> S3Address | None:
    names = [f"{prefix}_{part}" for part in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")]
    values = [os.environ.get(name, "") for name in names]
    if not any(values):
        return None
    if not all(values):
        raise ServerError(f"an S3 server is given by {', '.join(names)} together: set all three, or none")
    return S3Address(*values)


@contextmanager
def _native_kafka() -> Iterator[str]:
    with _folder() as folder, running(Kafka(folder)) as server:
        yield server.address


@contextmanager
def _native_redis() -> Iterator[str]:
    with _folder() as folder, running(Redis(folder)) as server:
        yield server.url


@contextmanager
def _native_s3(kind: type[S3Server]) -> Iterator[S3Address]:
    with _folder() as folder, running(kind(folder)) as server:
        yield S3Address(server.endpoint, ACCESS_KEY, server.secret)


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="flowgauge-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def _container(
    image: str, port: int, answers: Callable[[str, int], bool], *, outside: int | None = None, **options: Any
) -> Iterator[tuple[str, int]]:
    """Host and port of a container that answers; `outside` is its port on the host, a free one when not given."""
    from testcontainers.core.container import DockerContainer

    with DockerContainer(image, **options).with_bind_ports(port, outside or free_port()) as container:
        host, mapped = container.get_container_host_ip(), int(container.get_exposed_port(port))
        if not wait_for(lambda: answers(host, mapped), START_SECONDS):
            raise TimeoutError(f"{image} did not answer within {START_SECONDS:.0f} s")
        yield host, mapped


@contextmanager
def _kafka_container() -> Iterator[str]:
    from testcontainers.core.docker_client import DockerClient

    outside = free_port()
    properties = {
        **KAFKA_ALONE,
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": "1@localhost:9093",
        "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://{DockerClient().host()}:{outside}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    }
    env = {f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in properties.items()}
    with _container("apache/kafka:4.1.1", 9092, kafka_answers, outside=outside, env=env) as (host, port):
        yield f"{host}:{port}"


@contextmanager
def _redis_container() -> Iterator[str]:
    with _container("redis:7.4-alpine", 6379, redis_answers) as (host, port):
        yield f"redis://{host}:{port}/0"


@contextmanager
def _minio_container() -> Iterator[S3Address]:
    env = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": CONTAINER_SECRET}
    image = "minio/minio:RELEASE.2025-09-07T16-13-09Z"
    healthy = _healthy(Minio.health)
    with _container(image, 9000, healthy, command="server /data", env=env) as (host, port):
        yield S3Address(f"http://{host}:{port}", ACCESS_KEY, CONTAINER_SECRET)


@contextmanager
def _versitygw_container() -> Iterator[S3Address]:
    env = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": CONTAINER_SECRET}
    command = f"--port :7070 --health {Versitygw.health} posix --versioning-dir /opt /srv"
    healthy = _healthy(Versitygw.health)
    with _container("versity/versitygw:v1.8.0", 7070, healthy, command=command, env=env) as (host, port):
        yield S3Address(f"http://{host}:{port}", ACCESS_KEY, CONTAINER_SECRET)


def _healthy(path: str) -> Callable[[str, int], bool]:
    return lambda host, port: http_answers(f"http://{host}:{port}{path}")


def _uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    capture = config.pluginmanager.getplugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else nullcontext()
