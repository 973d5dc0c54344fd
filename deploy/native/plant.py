"""The servers of a small plant without containers: `python -m deploy.native.plant up`, or `down`.

`up` starts Kafka, Redis and MinIO over `.native` (or $FLOWGAUGE_NATIVE_DATA) and writes their addresses to
`.native/env`; `down` ends them and keeps their data.
"""

import fcntl
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.native.process import NativeServer, ServerError, write_private
from deploy.native.servers import ACCESS_KEY, Kafka, Minio, Redis

BUCKET = "flowgauge"


class Plant:
    """Kafka, Redis and MinIO over one data folder, as a small plant uses them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.kafka = Kafka(self.folder / "kafka", detached=True)
        self.redis = Redis(self.folder / "redis", detached=True)
        self.minio = Minio(self.folder / "minio", detached=True)
        self.servers: tuple[NativeServer, ...] = (self.kafka, self.redis, self.minio)

    @property
    def env(self) -> Path:
        return self.folder / "env"

    def up(self) -> bool:
        """Starts what is not running and writes `env`; False when all ran. On failure ends what it started."""
        with self._alone():
            absent = [server for server in self.servers if server.pid is None]
            # a folder of MinIO's data is a bucket
            (self.minio.data / BUCKET).mkdir(parents=True, exist_ok=True)
            self._start(absent)
            write_private(self.env, "".join(f"{name}={shlex.quote(value)}\n" for name, value in self._settings()))
            return bool(absent)

    def down(self) -> list[str]:
        """Ends what runs, keeps all data, and names what it ended."""
        with self._alone():
            running = [server for server in self.servers if server.pid is not None]
            for server in running:
                server.stop()
            return [server.name for server in running]

    def _start(self, servers: list[NativeServer]) -> None:
        started: list[NativeServer] = []
        try:
            for server in servers:
                _say(f"starting {server.name}")
                server.start()
                started.append(server)
        except BaseException:
            for server in started:
                server.stop()
            raise

    def _settings(self) -> list[tuple[str, str]]:
        return [
            ("FLOWGAUGE_KAFKA_BOOTSTRAP", self.kafka.address),
            ("FLOWGAUGE_REDIS_URL", self.redis.url),
            ("FLOWGAUGE_S3_ENDPOINT", self.minio.endpoint),
            ("FLOWGAUGE_S3_ACCESS_KEY", ACCESS_KEY),
            ("FLOWGAUGE_S3_SECRET_KEY", self.minio.secret),
            ("FLOWGAUGE_STORE", f"s3://{BUCKET}"),
        ]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  this is a command


def _up(plant: Plant) -> None:
    said = "Kafka, Redis and MinIO are up" if plant.up() else "Kafka, Redis and MinIO are up already"
    _say(f"{said}. In your shell: set -a; source {shlex.quote(str(plant.env))}; set +a")


def _down(plant: Plant) -> None:
    ended = plant.down()
    _say(f"ended {', '.join(ended)}; data stays in {plant.folder}" if ended else "nothing was running")


def main(arguments: list[str]) -> int:
    commands = {"up": _up, "down": _down}
    if len(arguments) != 1 or arguments[0] not in commands:
        sys.stderr.write(f"{sys.argv[0]} up, or {sys.argv[0]} down\n")
        return 2
    try:
        commands[arguments[0]](Plant(Path(os.environ.get("FLOWGAUGE_NATIVE_DATA", ".native"))))
    except ServerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
