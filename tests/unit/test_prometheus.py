"""What a worker's metrics say, read over HTTP as Prometheus would."""

from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from flowgauge.domain.errors import SettingsError
from flowgauge.domain.messages import IMAGES, AlertKind, Decision
from flowgauge.processors.scoring import Scoring
from flowgauge.prometheus.metrics import PrometheusMeter, serving
from flowgauge.registry.gauges import Gauges
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.meter import measured
from flowgauge.runtime.task import Step
from tests.support.streaming import LINE, START, SetClock, fitted, load, opened, png, records, send, verdict


def names() -> frozenset[str]:
    """The names of all metrics, without the endings that Prometheus gives to samples."""
    registry = CollectorRegistry()
    PrometheusMeter(registry)
    return frozenset(metric.name for metric in registry.collect())


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def meter(registry: CollectorRegistry) -> PrometheusMeter:
    return PrometheusMeter(registry)


@pytest.fixture
def page(registry: CollectorRegistry) -> Iterator[str]:
    with serving(registry, 0, "127.0.0.1") as port:
        yield f"http://127.0.0.1:{port}/metrics"


def samples(page: str) -> dict[str, float]:
    with urlopen(page) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_a_batch_is_counted_by_line_and_decision_with_its_stages(
    tmp_path: Path, meter: PrometheusMeter, page: str
) -> None:
    clock = SetClock()
    store = fitted(opened(tmp_path, clock))
    send(store, [("good", png(100)), ("bright", png(200)), ("bad", b"no image")])
    scoring = Scoring(store, Gauges(store.log, store.objects, load), meter=meter)
    scoring.start_offset(IMAGES, 0, 0)
    images = records(store.log, IMAGES)
    outgoing = scoring.process(images)
    clock.advance(3)
    measured(meter, Step("scoring", images, outgoing), clock.now())
    scoring.checkpoint()

    found = samples(page)
    assert found[f'flowgauge_images_total{{line="{LINE}"}}'] == 2
    assert found[f'flowgauge_verdicts_total{{decision="{Decision.REJECT.value}",line="{LINE}"}}'] == 1
    assert found[f'flowgauge_dead_letters_total{{line="{LINE}"}}'] == 1
    assert found[f'flowgauge_latency_seconds_sum{{line="{LINE}"}}'] == 6
    assert found['flowgauge_batch_records_sum{group="scoring"}'] == 3
    assert found['flowgauge_stage_seconds_count{group="scoring",stage="decode"}'] == 1
    assert found['flowgauge_stage_seconds_count{group="scoring",stage="score"}'] == 1
    assert found[f'flowgauge_gauge_info{{line="{LINE}",version="fit-1"}}'] == 1
    assert found["flowgauge_pending_uploads"] == 0


def test_a_swap_leaves_one_version_per_line(tmp_path: Path, meter: PrometheusMeter, page: str) -> None:
    clock = SetClock()
    store = opened(tmp_path, clock)
    for version in ("fit-1", "fit-2"):
        fitted(store, version)
        send(store, [(version, png(100))])
        scoring = Scoring(store, Gauges(store.log, store.objects, load))
        scoring.start_offset(IMAGES, 0, 0)
        measured(meter, Step("scoring", [], scoring.process(records(store.log, IMAGES)[-1:])), clock.now())
    meter.verdict(verdict(2, gauge_version="candidate", trial_id=UUID(int=1)), 0.1)
    assert gauges(page) == [f'flowgauge_gauge_info{{line="{LINE}",version="fit-2"}}'], "a canary is not the line's"
    meter.lag("scoring", (IMAGES, 1), None)
    assert len(gauges(page)) == 1
    meter.lag("scoring", (IMAGES, 0), None)
    assert gauges(page) == [], "another worker scores this line now"


def gauges(page: str) -> list[str]:
    return [name for name in samples(page) if "gauge_info" in name]


def test_decided_adaptations_are_counted_with_their_seconds(meter: PrometheusMeter, page: str) -> None:
    refused = alert(LINE, AlertKind.ADAPTATION_REFUSED, "1", START, "No.", seconds=12.5)
    accepted = alert(LINE, AlertKind.ADAPTATION_ACCEPTED, "2", START, "Yes.", seconds=20.0)
    measured(meter, Step("adaptation", [], [refused, accepted]), START)
    found = samples(page)
    assert found[f'flowgauge_adaptations_total{{line="{LINE}",outcome="refused"}}'] == 1
    assert found[f'flowgauge_adaptations_total{{line="{LINE}",outcome="accepted"}}'] == 1
    assert found[f'flowgauge_adaptation_seconds_sum{{line="{LINE}"}}'] == 32.5


def test_a_partition_that_went_to_another_worker_is_not_shown(meter: PrometheusMeter, page: str) -> None:
    meter.lag("scoring", ("images", 0), 7)
    meter.lag("scoring", ("images", 1), 8)
    meter.lag("scoring", ("images", 0), None)
    assert [value for name, value in samples(page).items() if "lag_records" in name] == [8]


def test_lines_that_anybody_may_invent_do_not_grow_without_bound(meter: PrometheusMeter, page: str) -> None:
    for number in range(2_100):
        meter.dead_letter(f"line-{number}")
    counted = [name for name in samples(page) if name.startswith("flowgauge_dead_letters_total")]
    assert len(counted) == 2_001


def test_every_name_begins_with_the_product() -> None:
    assert len(names()) > 15
    assert all(name.startswith("flowgauge_") for name in names())


def test_a_port_that_is_taken_is_a_clear_error(registry: CollectorRegistry) -> None:
    with (
        serving(registry, 0, "127.0.0.1") as port,
        pytest.raises(SettingsError, match=f"port {port}"),
        serving(CollectorRegistry(), port, "127.0.0.1"),
    ):
        pass
