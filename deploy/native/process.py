"""A server as a plain process. Linux only: processes are told apart through /proc.

ServerError
+-- NotInstalled   a program that a server needs is missing, or its installation failed
+-- PortTaken      another process listens where the server's clients look for it
+-- NotAnswering   a server ended or stayed silent after its start; the message holds the end of its log
"""

import json
import os
import random
import secrets
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from deploy.native.probes import wait_for

HERE = Path(__file__).parent
HOST = "127.0.0.1"

# below the range that Linux takes for outgoing connections: a client that tries a server which is down could else be
# given that very port as its own, and keep the server from coming back
PORTS = range(15_000, 30_000)
# Kafka takes six seconds on an idle machine with two cores, and a busy one several times that
START_SECONDS = 60.0
# a broker that may not hand its partitions over just closes its files
STOP_SECONDS = 30.0
LOG_LINES = 40


class ServerError(Exception):
    """A server cannot be had; the message names cause and remedy."""


class NotInstalled(ServerError): ...


class PortTaken(ServerError): ...


class NotAnswering(ServerError): ...


def free_port() -> int:
    """A port on which nothing listens now and which no outgoing connection takes."""
    for port in random.sample(PORTS, 200):
        if is_free(port):
            return port
    raise PortTaken(f"no free port was found from {PORTS.start} to {PORTS.stop}: end what listens there")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def installed(server: str) -> Path:
    """The folder of a server's program, installed first where it is not: that takes minutes and is told on stderr."""
    script = subprocess.run([HERE / "install.sh", server], stdout=subprocess.PIPE, text=True, check=False)
    if script.returncode:
        raise NotInstalled(
            f"{server} is not installed and could not be (exit {script.returncode}): "
            f"run deploy/native/install.sh {server} and do what it says"
        )
    return Path(script.stdout.strip())


class NativeServer(ABC):
    """A server of one folder: its data, ports, secret, log and process id lie there and outlive the process.

    Two objects over the same folder are the same server, also from two programs. Nothing is touched before `start`.
    A `detached` server outlives the terminal of whoever starts it.
    """

    name: ClassVar[str]
    ports: tuple[str, ...] = ("port",)

    def __init__(self, folder: Path, *, detached: bool = False) -> None:
        self.folder = folder.absolute()
        self._detached = detached
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, program: Path) -> list[str]:
        """The command line, given the folder of the program; called once per start, after `prepare`."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether clients are served now; takes a few seconds at most."""

    def program(self) -> Path:
        """The folder of the program, installed first where it is not."""
        return installed(self.name)

    def prepare(self, program: Path) -> None:  # noqa: B027  most have nothing to prepare
        """Makes what the server needs in its folder; called before each start and so repeatable."""

    def environment(self) -> Mapping[str, str]:
        return {}

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def port(self, name: str = "port") -> int:
        """One of `ports`: chosen once per folder, so that clients find a server again after a restart."""
        return int(json.loads(self._chosen("ports.json", self._new_ports))[name])

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port()}"

    @property
    def secret(self) -> str:
        """Random, chosen once per folder."""
        return self._chosen("secret", lambda: secrets.token_urlsafe(24))

    @property
    def pid(self) -> int | None:
        """The id of the running process; None when it has ended, also when its id went to another process since."""
        try:
            pid, began = self._pid_file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _began(int(pid)) == began else None

    def start(self) -> None:
        """Starts the server and returns when it answers; one that runs already is left as it is.

        Whatever goes wrong, no process stays behind. Ports, secret and data are those of the last start.
        """
        if self.pid is not None:
            return
        program = self.program()
        self._refuse_taken_ports()
        self.data.mkdir(parents=True, exist_ok=True)
        self.prepare(program)
        self._launch(self.command(program))
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ends the server as its makers want it ended, and by force where that takes too long."""
        self.thaw()
        self._signal(signal.SIGTERM)
        if not wait_for(self._ended, STOP_SECONDS):
            self.kill()
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Ends the server at once, as a crash would; returns when it is gone."""
        self._signal(signal.SIGKILL)
        wait_for(self._ended, STOP_SECONDS)

    def freeze(self) -> None:
        """Lets the server hold its connections and answer nothing, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    @property
    def _pid_file(self) -> Path:
        return self.folder / "pid"

    def _new_ports(self) -> str:
        return json.dumps({name: free_port() for name in self.ports})

    def _chosen(self, file: str, choose: Callable[[], str]) -> str:
        path = self.folder / file
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_private(path, choose())
        return path.read_text()

    def _refuse_taken_ports(self) -> None:
        for name in self.ports:
            if not is_free(self.port(name)):
                raise PortTaken(
                    f"another process listens on {self.name}'s {name} {self.port(name)}: end it, or delete "
                    f"{self.folder / 'ports.json'} for other ports, and tell all clients the new address"
                )

    def _launch(self, command: list[str]) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=self._detached,
            )
        write_private(self._pid_file, f"{self._process.pid} {_began(self._process.pid)}")

    def _wait(self) -> None:
        if not wait_for(lambda: self._ended() or self.answers(), START_SECONDS):
            raise NotAnswering(f"{self.name} did not answer within {START_SECONDS:.0f} s; {self.log_end()}")
        if self._ended():
            raise NotAnswering(f"{self.name} ended right after its start; {self.log_end()}")

    def log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"the end of {self.log}:", *lines])

    def _ended(self) -> bool:
        if self.pid is not None:
            return False
        if self._process is not None:
            self._process.wait()
        return True

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def write_private(path: Path, text: str) -> None:
    """Writes a file at once and for its owner's eyes only."""
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def _began(pid: int) -> str | None:
    """When a process began, in ticks since the machine did: with its id, no other process's. None once it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, began = fields[0], fields[19]
    return None if state in "ZX" else began
