"""Connections that want a password or a certificate, on real servers: those that fit work, others are told why."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from flowgauge.cli.exits import Exit
from flowgauge.domain.messages import VERDICTS
from flowgauge.runtime.roles import Role
from tests.support.certificates import Authority
from tests.support.clusters import LINES, Cluster, plant
from tests.support.counts import Verdicts
from tests.support.guarded import LEAVER, MTLS, GuardedKafka
from tests.support.shell import Shell
from tests.support.variables import variables

Door = Callable[[GuardedKafka], dict[str, str]]
WRONG_PASSWORD = {"FLOWGAUGE_KAFKA_PASSWORD": "another"}

DOORS: dict[str, Door] = {
    "scram-sha-256": lambda kafka: kafka.sasl(mechanism="SCRAM-SHA-256"),
    "scram-sha-512": lambda kafka: kafka.sasl(mechanism="SCRAM-SHA-512"),
    "tls": lambda kafka: kafka.tls(),
    "mtls": lambda kafka: kafka.mtls(),
    "sasl-over-tls": lambda kafka: kafka.sasl_tls(),
}

REFUSALS: dict[str, tuple[Door, str]] = {
    "wrong-password": (lambda kafka: kafka.sasl() | WRONG_PASSWORD, "does not admit the user operator"),
    "wrong-password-over-tls": (lambda kafka: kafka.sasl_tls() | WRONG_PASSWORD, "does not admit the user operator"),
    "unknown-authority": (lambda kafka: kafka.tls() | {"FLOWGAUGE_KAFKA_CA_FILE": ""}, "Check FLOWGAUGE_KAFKA_CA_FILE"),
    "no-client-certificate": (
        lambda kafka: kafka.tls() | {"FLOWGAUGE_KAFKA_BOOTSTRAP": kafka.kafka.address_of(MTLS)},
        "refuses our certificate, or wants one",
    ),
    "strange-client-certificate": (lambda kafka: kafka.mtls() | _strange(kafka), "refuses our certificate"),
    "missing-file": (
        lambda kafka: kafka.tls() | {"FLOWGAUGE_KAFKA_CA_FILE": "/nowhere/ca.pem"},
        "/nowhere/ca.pem holds no authorities",
    ),
    "plain-words-to-tls": (
        lambda kafka: kafka.tls() | {"FLOWGAUGE_KAFKA_SECURITY": "PLAINTEXT"},
        "Check that FLOWGAUGE_KAFKA_SECURITY is the protocol of this listener",
    ),
    "tls-to-plain-words": (
        lambda kafka: kafka.tls() | {"FLOWGAUGE_KAFKA_BOOTSTRAP": kafka.kafka.address},
        "Check that FLOWGAUGE_KAFKA_SECURITY is the protocol of this listener",
    ),
}

COMMANDS = {
    "worker": ("worker", "scoring", "--store", "s3://flowgauge"),
    "publish": ("publish", "IMAGES", "--line", "press-3"),
    "topics": ("topics", "check"),
    "status": ("status", "--store", "s3://flowgauge"),
}


@pytest.fixture(scope="module")
def plants(kafka: GuardedKafka, servers: dict[str, str]) -> Iterator[Mapping[str, Cluster]]:
    """A plant behind every door, where one image of each line was published, and scored by one process for all."""
    with ExitStack() as stack:
        opened: dict[str, Cluster] = {}
        ways = []
        for name, door in DOORS.items():
            with variables(servers | door(kafka)):
                opened[name] = stack.enter_context(plant())
                opened[name].publish(0, 1)
                ways.append((opened[name].uri, {k: v for k, v in os.environ.items() if k.startswith("FLOWGAUGE_")}))
        with working("tests.support.auth_worker", json.dumps(ways)):
            for name, cluster in opened.items():
                cluster.wait(f"the verdicts behind {name}", partial(scored, cluster))
        yield opened


@contextmanager
def working(*arguments: str) -> Iterator[None]:
    worker = subprocess.Popen([sys.executable, "-m", *arguments])
    try:
        yield
    finally:
        worker.terminate()
        code = worker.wait(30)
    assert code == 0


def scored(cluster: Cluster) -> bool:
    return cluster.ends(VERDICTS) == len(LINES)


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_an_image_is_published_scored_and_read_through_every_door(plants: Mapping[str, Cluster], door: str) -> None:
    verdicts = Verdicts(plants[door].store.log).read()
    assert verdicts.images() == {line: ["0000"] for line in LINES}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("door", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_whoever_is_refused_is_reported_why(
    flowgauge: Shell,
    kafka: GuardedKafka,
    servers: dict[str, str],
    tmp_path: Path,
    door: Door,
    reason: str,
    command: str,
) -> None:
    (tmp_path / "a.png").write_bytes(b"an image")
    with variables(servers | door(kafka)):
        done = flowgauge(*(str(tmp_path) if word == "IMAGES" else word for word in COMMANDS[command]))
    assert done.code in (1, 2)
    assert reason in done.err
    assert "another" not in done.err


@pytest.mark.slow
def test_a_worker_whose_password_no_longer_fits_says_so_and_ends(
    kafka: GuardedKafka, servers: dict[str, str], tmp_path: Path
) -> None:
    """Its connections outlive the password; the next one, after a restart of the broker, is refused."""
    kafka.add_users([LEAVER])
    log = tmp_path / "log"
    with variables(servers | kafka.sasl(LEAVER)), plant() as cluster, log.open("wb") as reported:
        worker = cluster.start(Role.SCORING, stderr=reported)
        cluster.publish(0, 1)
        cluster.wait("the verdicts", partial(scored, cluster))
        kafka.add_users([LEAVER], password="another")
        cluster.store.log.close()  # clients of this process would try the broker while it is away
        kafka.kafka.kill()
        kafka.kafka.start()
        assert worker.wait(120) == Exit.MISTAKE
    assert "does not admit the user leaver" in log.read_text()


def _strange(kafka: GuardedKafka) -> dict[str, str]:
    """A certificate that an authority of somebody else signed."""
    strange = Authority(kafka.kafka.folder.parent / "strange").issue("operator")
    return {
        "FLOWGAUGE_KAFKA_CERTIFICATE_FILE": str(strange.certificate),
        "FLOWGAUGE_KAFKA_KEY_FILE": str(strange.key),
    }
