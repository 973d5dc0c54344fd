"""Faults while images flow on real Kafka, Redis and S3: each ends in the same count, and none costs anything.

`make test` runs them with short outages, `make faults` at full length with three seeds: each seed gives another order.
With `--alone` every fault has a flow of its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from deploy.native.servers import ACCESS_KEY, Kafka, Minio, Redis
from tests.support.faults.adaptations import adaptation_worker_is_killed, broken_snapshots, two_adapt_at_once
from tests.support.faults.messages import many_rejects, messages_above_the_limit, poison_among_good_ones
from tests.support.faults.scene import Fault, Outcome, Servers, suffer
from tests.support.faults.servers import (
    broker_freezes,
    broker_restarts,
    redis_is_flushed,
    redis_restarts,
    store_is_away,
)
from tests.support.faults.trials import (
    bad_candidates_are_stopped,
    drift_leads_to_another_gauge,
    workers_are_killed_in_a_trial,
)
from tests.support.faults.workers import (
    clocks_jump,
    scoring_worker_is_killed,
    worker_joins_and_leaves,
    workers_are_stopped,
    zombie_wakes,
)
from tests.support.servers import provided, running

pytestmark = pytest.mark.slow

FLOWS: dict[str, list[Fault]] = {
    "servers": [broker_restarts, broker_freezes, redis_is_flushed, redis_restarts, store_is_away],
    "workers": [
        scoring_worker_is_killed,
        workers_are_stopped,
        worker_joins_and_leaves,
        zombie_wakes,
        clocks_jump,
    ],
    "messages": [
        poison_among_good_ones,
        messages_above_the_limit,
        broken_snapshots,
        adaptation_worker_is_killed,
        two_adapt_at_once,
        many_rejects,
    ],
    "trials": [bad_candidates_are_stopped, workers_are_killed_in_a_trial, drift_leads_to_another_gauge],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    flows = FLOWS
    if metafunc.config.getoption("--alone"):
        flows = {fault.__name__: [fault] for flow in FLOWS.values() for fault in flow}
    seeds = range(3) if metafunc.config.getoption("--long") else range(1)
    cases = [pytest.param(flow, seed, id=f"{name}-{seed}") for seed in seeds for name, flow in flows.items()]
    metafunc.parametrize(("faults", "seed"), cases)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    made = Servers(Kafka(folder / "kafka"), Redis(folder / "redis"), Minio(folder / "minio"))
    with ExitStack() as stack:
        for server in (made.kafka, made.redis, made.minio):
            stack.enter_context(provided(pytestconfig, running(server)))
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        for variable, value in {
            "FLOWGAUGE_TOPIC_PREFIX": "",
            "FLOWGAUGE_KAFKA_BOOTSTRAP": made.kafka.address,
            "FLOWGAUGE_REDIS_URL": made.redis.url,
            "FLOWGAUGE_S3_ENDPOINT": made.minio.endpoint,
            "FLOWGAUGE_S3_ACCESS_KEY": ACCESS_KEY,
            "FLOWGAUGE_S3_SECRET_KEY": made.minio.secret,
        }.items():
            environment.setenv(variable, value)
        yield made


def test_faults_cost_no_verdict_and_no_alert(
    servers: Servers, faults: Sequence[Fault], seed: int, pytestconfig: pytest.Config, outcomes: list[Outcome]
) -> None:
    long = bool(pytestconfig.getoption("--long"))
    window = (60 if long else 15) if many_rejects in faults else 2
    outcomes.append(suffer(servers, faults, seed, long, window))
