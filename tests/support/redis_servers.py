"""Redis as more than one process: a cluster, and an address that leads to whichever server is the primary."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import create_connection, socket
from socketserver import BaseRequestHandler, ThreadingTCPServer
from tempfile import TemporaryDirectory
from threading import Thread

from redis import Redis as Client

from deploy.native.probes import wait_for
from deploy.native.process import HOST, START_SECONDS, NotAnswering
from deploy.native.servers import Redis
from tests.support.servers import running


class ClusterNode(Redis):
    ports = ("port", "bus_port")

    def command(self, program: Path) -> list[str]:
        options = ["--cluster-enabled", "yes", "--cluster-port", str(self.port("bus_port"))]
        return [*super().command(program), *options, "--cluster-node-timeout", "2000"]


@contextmanager
def redis_cluster(replicas: int = 0) -> Iterator[list[ClusterNode]]:
    """Three primaries that share all keys, each with `replicas` of its own."""
    with TemporaryDirectory(prefix="flowgauge-", ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        folders = [Path(folder) / str(number) for number in range(3 * (replicas + 1))]
        nodes = [stack.enter_context(running(ClusterNode(each))) for each in folders]
        options = ["--cluster-replicas", str(replicas), "--cluster-yes"]
        command = [str(nodes[0].program() / "redis-cli"), "--cluster", "create", *(node.address for node in nodes)]
        made = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        if made.returncode or not wait_for(lambda: all(map(_is_ready, nodes)), START_SECONDS):
            raise NotAnswering(f"the cluster did not come about: {made.stdout} {made.stderr}")
        yield nodes


def _is_ready(node: ClusterNode) -> bool:
    """Knows of all slots, and as a replica has what its primary has: before that it takes nothing over."""
    with Client.from_url(node.url) as client:
        whole = client.cluster("INFO")["cluster_state"] == "ok"
        return bool(whole and client.info("replication").get("master_link_status", "up") == "up")


class Address(ThreadingTCPServer):
    """A port that leads to `primary`, as a name does that is set to another server after a failover. Connections that
    stand keep the server that they have."""

    daemon_threads = True

    def __init__(self, primary: Redis) -> None:
        super().__init__((HOST, 0), _Forward)
        self.primary = primary


class _Forward(BaseRequestHandler):
    server: Address

    def handle(self) -> None:
        with create_connection((HOST, self.server.primary.port())) as onward:
            back = Thread(target=_pump, args=(onward, self.request), daemon=True)
            back.start()
            _pump(self.request, onward)


def _pump(source: socket, target: socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:  # one of the two has closed its connection, which ends both
        return
