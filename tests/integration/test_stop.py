"""A worker that is asked to end while its servers are away."""

import signal
from pathlib import Path

import pytest

from deploy.native.servers import Kafka
from flowgauge.runtime.roles import Role
from tests.support.clusters import LINES, plant
from tests.support.counts import Verdicts
from tests.support.servers import S3Address, plant_variables, provided, running
from tests.support.variables import variables


@pytest.mark.slow
def test_a_worker_whose_broker_is_gone_ends_when_it_is_asked_to(
    pytestconfig: pytest.Config, tmp_path: Path, redis_url: str, s3_address: S3Address
) -> None:
    log = tmp_path / "log"
    with (
        provided(pytestconfig, running(Kafka(tmp_path / "kafka"))) as kafka,
        variables(plant_variables(kafka.address, redis_url, s3_address)),
        plant() as cluster,
        log.open("wb") as reported,
    ):
        worker = cluster.start(Role.SCORING, "--stop-seconds", "5", stderr=reported)
        cluster.publish(0, 1)
        cluster.wait("verdicts", lambda: sum(1 for _ in Verdicts(cluster.store.log).read().all()) == len(LINES))
        kafka.kill()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(90) in (0, 1), log.read_text()
