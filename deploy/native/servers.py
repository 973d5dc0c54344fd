"""Kafka, Redis and two S3 servers, each as one process with one folder."""

import base64
import os
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from deploy.native.probes import http_answers, kafka_answers, redis_answers
from deploy.native.process import HERE, HOST, START_SECONDS, NativeServer, NotAnswering, write_private

ACCESS_KEY = "flowgauge"

# what a broker without others needs, whatever runs it
KAFKA_ALONE = {
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "offsets.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    # an image of eight megabytes and its envelope
    "message.max.bytes": "10485760",
    # a misspelt topic is an error, not a new topic
    "auto.create.topics.enable": "false",
}


class Kafka(NativeServer):
    """One broker that is its own controller; `properties` are added to its own, or replace them."""

    name = "kafka"
    ports = ("port", "controller_port")

    def __init__(self, folder: Path, properties: Mapping[str, str] | None = None, *, detached: bool = False) -> None:
        super().__init__(folder, detached=detached)
        self._properties = dict(properties or {})

    def prepare(self, program: Path) -> None:
        lines = (f"{key}={value}\n" for key, value in {**self._own_properties(), **self._properties}.items())
        write_private(self._property_file, "".join(lines))
        if not (self.data / "meta.properties").exists():
            self._format(program)

    def command(self, program: Path) -> list[str]:
        return [*self._java(program, "-Xmx512m"), "kafka.Kafka", str(self._property_file)]

    def answers(self) -> bool:
        return kafka_answers(HOST, self.port())

    @property
    def _property_file(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, program: Path, *options: str) -> list[str]:
        return ["java", *options, f"-Dlog4j2.configurationFile={HERE / 'log4j2.xml'}", "-cp", f"{program}/libs/*"]

    def _format(self, program: Path) -> None:
        # sixteen bytes; one that began with a dash would be read as an option
        cluster = base64.urlsafe_b64encode(b"\0" + secrets.token_bytes(15)).rstrip(b"=").decode()
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._property_file)]
        with self.log.open("ab") as log:
            formatting = [*self._java(program), *tool, "--ignore-formatted"]
            code = subprocess.run(formatting, stdout=log, stderr=log, timeout=START_SECONDS, check=False).returncode
        if code:
            raise NotAnswering(f"kafka could not format {self.data} (exit {code}); {self.log_end()}")

    def _own_properties(self) -> dict[str, str]:
        broker, controller = self.address, f"{HOST}:{self.port('controller_port')}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{broker}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self.data),
            **KAFKA_ALONE,
        }


class Redis(NativeServer):
    """Keeps nothing on disk: what it held is gone after a restart."""

    name = "redis"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def command(self, program: Path) -> list[str]:
        options = {
            "bind": HOST,
            "port": str(self.port()),
            "dir": str(self.data),
            "save": "",
            "appendonly": "no",
            # full, it refuses to write rather than to forget
            "maxmemory": "256mb",
            "maxmemory-policy": "noeviction",
        }
        return [str(program / "redis-server"), *(word for key in options for word in (f"--{key}", options[key]))]

    def answers(self) -> bool:
        return redis_answers(HOST, self.port())


class S3Server(NativeServer):
    """An S3 server whose root user is `ACCESS_KEY` with the folder's secret."""

    health: ClassVar[str]

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    def answers(self) -> bool:
        return http_answers(self.endpoint + self.health)


class Minio(S3Server):
    name = "minio"
    health = "/minio/health/ready"

    def command(self, program: Path) -> list[str]:
        # in its home folder it would look for certificates of somebody else
        options = ["--quiet", "--address", self.address, "--certs-dir", str(self.folder / "certs")]
        return [str(program / "minio"), "server", *options, str(self.data)]

    def environment(self) -> Mapping[str, str]:
        return {
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": self.secret,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }


class Versitygw(S3Server):
    """S3 over plain files."""

    name = "versitygw"
    health = "/health"

    def prepare(self, program: Path) -> None:
        for folder in self._folders():
            folder.mkdir(exist_ok=True)

    def command(self, program: Path) -> list[str]:
        versions, sidecar = self._folders()
        storage = ["posix", "--versioning-dir", str(versions)]
        if not _takes_attributes(self.data):
            storage += ["--sidecar", str(sidecar)]
        own = ["--port", self.address, "--health", self.health, "--quiet"]
        return [str(program / "versitygw"), *own, *storage, str(self.data)]

    def environment(self) -> Mapping[str, str]:
        return {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": self.secret}

    def _folders(self) -> tuple[Path, Path]:
        return self.folder / "versions", self.folder / "sidecar"


def _takes_attributes(folder: Path) -> bool:
    """Whether files here may carry extended attributes: a few file systems refuse them."""
    try:
        os.setxattr(folder, "user.flowgauge", b"")
        os.removexattr(folder, "user.flowgauge")
    except OSError:
        return False
    return True
