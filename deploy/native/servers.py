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
from deploy.native.tls import Identity, Listener

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
    """One broker that is its own controller; `properties` are added to its own, or replace them.

    `listeners` are open beside the plain one, each under its name and on a port of its own.
    """

    name = "kafka"
    ports: tuple[str, ...] = ("port", "controller_port")

    def __init__(
        self,
        folder: Path,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, Listener] | None = None,
        *,
        detached: bool = False,
    ) -> None:
        super().__init__(folder, detached=detached)
        self._properties = dict(properties or {})
        self._listeners = dict(listeners or {})
        self.ports = (*Kafka.ports, *self._listeners)

    def address_of(self, listener: str) -> str:
        return f"{HOST}:{self.port(listener)}"

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
        controller = f"CONTROLLER://{self.address_of('controller_port')}"
        doors = [f"PLAINTEXT://{self.address}", *(f"{name}://{self.address_of(name)}" for name in self._listeners)]
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT"} | {
            name: listener.protocol for name, listener in self._listeners.items()
        }
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self.address_of('controller_port')}",
            "listeners": ",".join([*doors, controller]),
            "advertised.listeners": ",".join(doors),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "log.dirs": str(self.data),
            **KAFKA_ALONE,
            **{
                f"listener.name.{name.lower()}.{key}": value
                for name, listener in self._listeners.items()
                for key, value in listener.properties.items()
            },
        }


class Redis(NativeServer):
    """Keeps nothing on disk: what it held is gone after a restart.

    With an `identity` it speaks TLS on a second port; with a `password` it wants that first, on both.
    """

    name = "redis"

    def __init__(
        self, folder: Path, identity: Identity | None = None, password: str | None = None, *, detached: bool = False
    ) -> None:
        super().__init__(folder, detached=detached)
        self._identity = identity
        self._password = password
        if identity is not None:
            self.ports = (*Redis.ports, "tls_port")

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
            **self._guards(),
        }
        return [str(program / "redis-server"), *(word for key in options for word in (f"--{key}", options[key]))]

    def answers(self) -> bool:
        return redis_answers(HOST, self.port())

    def _guards(self) -> dict[str, str]:
        password = {} if self._password is None else {"requirepass": self._password}
        if self._identity is None:
            return password
        return password | {
            "tls-port": str(self.port("tls_port")),
            "tls-cert-file": str(self._identity.certificate),
            "tls-key-file": str(self._identity.key),
            "tls-ca-cert-file": str(self._identity.authority),
            "tls-auth-clients": "no",
        }


class S3Server(NativeServer):
    """An S3 server whose root user is `ACCESS_KEY` with the folder's secret."""

    health: ClassVar[str]

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    def answers(self) -> bool:
        return http_answers(self.endpoint + self.health)


class Minio(S3Server):
    """With an `identity` it speaks TLS only."""

    name = "minio"
    health = "/minio/health/ready"

    def __init__(self, folder: Path, identity: Identity | None = None, *, detached: bool = False) -> None:
        super().__init__(folder, detached=detached)
        self._identity = identity

    @property
    def endpoint(self) -> str:
        return super().endpoint if self._identity is None else f"https://{self.address}"

    def prepare(self, program: Path) -> None:
        self._certificates.mkdir(exist_ok=True)
        if self._identity is not None:
            write_private(self._certificates / "public.crt", self._identity.certificate.read_text())
            write_private(self._certificates / "private.key", self._identity.key.read_text())

    def answers(self) -> bool:
        context = None if self._identity is None else self._identity.client_context
        return http_answers(self.endpoint + self.health, context)

    @property
    def _certificates(self) -> Path:
        """In its home folder it would look for certificates of somebody else."""
        return self.folder / "certs"

    def command(self, program: Path) -> list[str]:
        options = ["--quiet", "--address", self.address, "--certs-dir", str(self._certificates)]
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
