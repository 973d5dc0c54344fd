"""Kafka as plants run it: compressed, topics made anew, partitions added, records expired. On a real broker."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from uuid import UUID, uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import TopicPartition

from flowgauge.app.bootstrap import open_store
from flowgauge.console.access import Access, Binding
from flowgauge.console.plant import Console
from flowgauge.domain.messages import (
    DEAD_LETTERS,
    IMAGES,
    PART_VERDICTS,
    SHADOW_VERDICTS,
    SNAPSHOTS,
    VERDICTS,
    Alert,
    AlertKind,
)
from flowgauge.domain.ports import Outgoing
from flowgauge.kafka.settings import KafkaSettings
from flowgauge.kafka.topics import Plan, Topics
from flowgauge.processors.archive import archived
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.fencing import count
from flowgauge.runtime.roles import Role
from flowgauge.services.overview import Overview
from flowgauge.services.replay import latest_dead_letters
from flowgauge.services.status import group_statuses
from flowgauge.settings.environment import kafka_settings
from tests.support.clusters import LINES, PARTITIONS, TIMEOUT_SECONDS, Cluster, plant
from tests.support.servers import S3Address, plant_variables
from tests.support.shell import Shell
from tests.support.streaming import event, fitted, png, verdict

_BEFORE, _AFTER = 12, 5  # images of each line in the former topic, and in the one that was made anew


@pytest.fixture
def cluster(
    kafka_bootstrap: str, redis_url: str, s3_address: S3Address, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    for name, value in plant_variables(kafka_bootstrap, redis_url, s3_address).items():
        monkeypatch.setenv(name, value)
    with plant() as cluster:
        yield cluster


@pytest.fixture
def settings(cluster: Cluster) -> KafkaSettings:
    return kafka_settings(os.environ)


def administered(settings: KafkaSettings, work: Callable[[KafkaAdminClient], object]) -> None:
    admin = KafkaAdminClient(**settings.client_options())
    work(admin)
    admin.close()


def made_anew(settings: KafkaSettings, name: str) -> None:
    topic = settings.topic(name)
    administered(settings, lambda admin: admin.delete_topics([topic]))
    deadline = monotonic() + 30
    with Topics(settings) as topics:
        while topic not in topics.create(Plan(partitions=PARTITIONS)):
            assert monotonic() < deadline, "the topic does not go"
            sleep(0.2)


def configured(settings: KafkaSettings, name: str, **configs: str) -> None:
    resource = ConfigResource(
        ConfigResourceType.TOPIC, settings.topic(name), configs={key.replace("_", "."): configs[key] for key in configs}
    )
    administered(settings, lambda admin: admin.alter_configs([resource]))


def counted(cluster: Cluster) -> Counter[str]:
    """How many verdicts count for each image, by line and id."""
    return Counter(
        f"{item.verdict.line}/{item.verdict.image_id}"
        for partition in range(cluster.store.log.partitions(VERDICTS))
        for item in count(cluster.store.log.read(VERDICTS, partition, 0, 10_000)).counted
    )


def once(first: int, last: int) -> Counter[str]:
    return Counter(f"{line}/{number:04d}" for line in LINES for number in range(first, last))


def alerts_of(cluster: Cluster, kind: AlertKind) -> list[Alert]:
    return [alert for alert in alerts(cluster.store.log) if alert.kind is kind]


def scored(cluster: Cluster, total: int) -> None:
    cluster.wait(f"{total} verdicts", lambda: sum(counted(cluster).values()) >= total)


@pytest.mark.slow
@pytest.mark.parametrize("away", [True, False], ids=["while-away", "while-working"])
def test_images_of_a_topic_that_was_made_anew_are_scored_once_and_it_is_reported(
    cluster: Cluster, settings: KafkaSettings, away: bool
) -> None:
    """The new topic is shorter than the former. A frame that both held is not scored again."""
    cluster.publish(0, _BEFORE)
    cluster.start(Role.ALL)
    scored(cluster, len(once(0, _BEFORE)))
    if away:
        cluster.stop()
    made_anew(settings, IMAGES)
    scoring = next(group for group in group_statuses(cluster.store) if group.group == "scoring")
    assert scoring.lag == 0
    cluster.publish(_BEFORE - 1, _BEFORE + _AFTER)
    if away:
        cluster.start(Role.ALL)
    every = once(0, _BEFORE + _AFTER)
    scored(cluster, len(every))
    reset = alerts_of(cluster, AlertKind.OFFSETS_RESET)
    assert {alert.line for alert in reset} == set(LINES)
    assert all(alert.detail["known"] == _BEFORE for alert in reset)
    cluster.publish(_BEFORE + _AFTER, _BEFORE + _AFTER + 1)
    every = once(0, _BEFORE + _AFTER + 1)
    scored(cluster, len(every))
    cluster.stop()
    assert counted(cluster) == every
    assert Counter(f"{each.line}/{each.image_id}" for each in archived(cluster.store.objects)) == every


@pytest.mark.slow
def test_a_topic_that_was_made_anew_and_is_longer_than_the_former_is_reported_by_its_id(
    cluster: Cluster, settings: KafkaSettings
) -> None:
    cluster.publish(0, 3)
    cluster.start(Role.SCORING)
    scored(cluster, len(once(0, 3)))
    cluster.stop()
    made_anew(settings, IMAGES)
    cluster.publish(3, 12)
    with KafkaProducer(**settings.client_options()) as producer:  # which no line can be told of
        producer.send(settings.topic(IMAGES), key=LINES[0].encode(), value=b"no image", partition=0)
    cluster.start(Role.SCORING)
    scored(cluster, len(once(0, 12)))
    cluster.wait("the dead letter", lambda: cluster.ends(DEAD_LETTERS) == 1)
    cluster.stop()
    assert counted(cluster) == once(0, 12)
    assert {alert.line for alert in alerts_of(cluster, AlertKind.OFFSETS_RESET)} == set(LINES)


@pytest.mark.slow
def test_after_verdicts_were_made_anew_no_image_is_scored_again_and_readers_go_on(
    cluster: Cluster, settings: KafkaSettings
) -> None:
    cluster.publish(0, 6)
    cluster.start(Role.ALL)
    scored(cluster, len(once(0, 6)))
    cluster.stop()
    made_anew(settings, VERDICTS)
    cluster.publish(6, 8)
    cluster.start(Role.ALL)
    scored(cluster, len(once(6, 8)))
    cluster.wait("the buffers", lambda: all(len(cluster.store.state.buffer(line)) == 8 for line in LINES))
    cluster.stop()
    assert counted(cluster) == once(6, 8)


@pytest.mark.slow
def test_images_that_expired_while_no_worker_was_there_are_counted(cluster: Cluster, settings: KafkaSettings) -> None:
    """As retention takes them: the log begins behind what was scored."""
    cluster.publish(0, 4)
    cluster.start(Role.SCORING)
    scored(cluster, len(once(0, 4)))
    cluster.stop()
    cluster.publish(4, 10)
    expired = {TopicPartition(settings.topic(IMAGES), number): 7 for number in range(PARTITIONS)}
    administered(settings, lambda admin: admin.delete_records(expired))
    cluster.start(Role.SCORING)
    scored(cluster, len(once(0, 7)))
    cluster.stop()
    assert counted(cluster) == once(0, 4) + once(7, 10)
    found = alerts_of(cluster, AlertKind.RECORDS_EXPIRED)
    assert {(alert.line, alert.detail["first"], alert.detail["expired"]) for alert in found} == {
        (line, 4, 3) for line in LINES
    }


@pytest.mark.slow
def test_partitions_that_companions_lack_are_refused_with_the_command_that_adds_them(
    flowgauge: Shell, cluster: Cluster, settings: KafkaSettings
) -> None:
    administered(settings, lambda admin: admin.create_partitions({settings.topic(IMAGES): PARTITIONS + 2}))
    with Topics(settings) as topics:
        cluster.wait("the partitions", lambda: len(topics.check()) == 4)
    refused = flowgauge("worker", "scoring", "--store", cluster.uri, "--device", "cpu")
    assert refused.code == 2
    assert f"verdicts has {PARTITIONS} partitions and images {PARTITIONS + 2}" in refused.err
    assert "flowgauge topics create" in refused.err

    mended = flowgauge("topics", "create", "--json")
    assert mended.json == {
        "created": [],
        "extended": {
            settings.topic(name): PARTITIONS + 2 for name in (VERDICTS, DEAD_LETTERS, PART_VERDICTS, SHADOW_VERDICTS)
        },
    }
    assert flowgauge("topics", "check").code == 0
    cluster.start(Role.SCORING)
    publish(settings, "zstd", [png(100, seed=7)], PARTITIONS + 1)
    cluster.store.log.topic_id(VERDICTS)
    scored(cluster, 1)
    cluster.stop()


@pytest.mark.slow
def test_a_worker_at_work_ends_and_says_which_command_adds_the_partitions(
    cluster: Cluster, settings: KafkaSettings, tmp_path: Path
) -> None:
    cluster.publish(0, 2)
    with (tmp_path / "err").open("wb") as errors:
        worker = cluster.start(Role.SCORING, stderr=errors)
    scored(cluster, len(once(0, 2)))
    administered(settings, lambda admin: admin.create_partitions({settings.topic(IMAGES): PARTITIONS + 2}))
    assert worker.wait(TIMEOUT_SECONDS) == 2
    said = (tmp_path / "err").read_text()
    assert "flowgauge topics create" in said
    cluster.workers.clear()


def new_verdicts(cluster: Cluster, line: str, partition: int, count: int) -> list[UUID]:
    """By a client of its own, which knows the topics as they are now; their ids."""
    made = [verdict(number, f"{line}-{number}", line=line, verdict_id=uuid4()) for number in range(count)]
    with open_store(cluster.uri) as store:
        store.log.append([Outgoing(VERDICTS, line, each.encode(), partition=partition) for each in made])
    return [each.verdict_id for each in made]


def shows(cluster: Cluster, overview: Overview, line: str, verdicts: list[UUID]) -> None:
    def shown() -> bool:
        overview.refresh()
        known = line in [each.line for each in overview.summaries()]
        return known and [each.verdict_id for each in overview.samples(line)] == verdicts

    cluster.wait(f"the verdicts of {line} in the overview", shown)


@pytest.mark.slow
def test_a_console_that_runs_finds_partitions_that_were_added(cluster: Cluster, settings: KafkaSettings) -> None:
    console = Console(cluster.store, Access(Binding(), cluster.store.state, "mara"))
    console.catch_up()
    more = {settings.topic(name): PARTITIONS + 1 for name in (VERDICTS, DEAD_LETTERS)}
    administered(settings, lambda admin: admin.create_partitions(more))
    sent = new_verdicts(cluster, "press-9", PARTITIONS, 3)
    with open_store(cluster.uri) as store:
        store.log.append([Outgoing(DEAD_LETTERS, "press-9", b"x", partition=PARTITIONS)])
    shows(cluster, console.overview, "press-9", sent)
    console.look_at_lag()
    assert [letter.partition for letter in latest_dead_letters(cluster.store.log, 5)] == [PARTITIONS]


@pytest.mark.slow
def test_a_console_that_runs_reads_topics_from_their_start_that_were_made_anew_and_have_outgrown_the_former(
    cluster: Cluster, settings: KafkaSettings
) -> None:
    line = LINES[0]
    overview = Overview(cluster.store)
    shows(cluster, overview, line, new_verdicts(cluster, line, 0, 3))
    for name in (VERDICTS, SNAPSHOTS):
        made_anew(settings, name)
    sent = new_verdicts(cluster, line, 0, 7)
    with open_store(cluster.uri) as store:
        for version in ("fit-2", "fit-3"):
            fitted(store, version, line=line)
    shows(cluster, overview, line, sent)
    active = overview.summary(line).active
    assert active is not None
    assert (active.version, active.epoch) == ("fit-3", 2)
    assert [each.version for each in overview.gauges(line)] == ["fit-3", "fit-2"]


def publish(settings: KafkaSettings, codec: str | None, images: list[bytes], partition: int) -> None:
    """As a camera's own program sends, in one batch if it fits."""
    with KafkaProducer(
        **settings.client_options(), compression_type=codec, linger_ms=200, max_request_size=10 * 2**20
    ) as producer:
        for number, data in enumerate(images):
            headers = [(name, text.encode()) for name, text in event(f"{codec}-{partition}-{number}").headers().items()]
            producer.send(
                settings.topic(IMAGES), key=LINES[0].encode(), value=data, headers=headers, partition=partition
            )


@pytest.mark.slow
def test_every_codec_of_a_producer_or_a_topic_is_read_by_workers_and_commands(
    cluster: Cluster, settings: KafkaSettings
) -> None:
    """One partition a codec, with images of some kilobytes and of more than a megabyte; then topics that compress."""
    images = [png(100, seed=1), png(100, seed=2, side=64), png(100, seed=3, side=2_000)]
    codecs = ("gzip", "snappy", "lz4", "zstd")
    for partition, codec in enumerate(codecs):
        publish(settings, codec, images, partition)
        configured(settings, IMAGES, compression_type=codec)
        sleep(1)  # a broker knows of a new setting a moment after it has accepted it
        publish(settings, None, images, partition)
    cluster.start(Role.SCORING)
    scored(cluster, 2 * len(codecs) * len(images))
    cluster.stop()
    read = [
        record.value for partition in range(PARTITIONS) for record in cluster.store.log.read(IMAGES, partition, 0, 9)
    ]
    assert Counter(read) == Counter(2 * len(codecs) * images)
    assert cluster.ends(DEAD_LETTERS) == 0


@pytest.mark.parametrize("package", ["cramjam", "snappy", "lz4", "zstandard"])
def test_a_codec_that_is_not_installed_is_named_before_a_worker_starts(package: str) -> None:
    """As in an environment without it: a module that is None in `sys.modules` cannot be imported."""
    script = f"import sys; sys.modules['{package}'] = None; from flowgauge.cli import main; main()"
    variables = plant_variables("127.0.0.1:1", "redis://127.0.0.1:1", S3Address("http://127.0.0.1:1", "key", "secret"))
    done = subprocess.run(
        [sys.executable, "-c", script, "worker", "downstream", "--store", f"s3://codecs-{uuid4().hex[:8]}"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert package in done.stderr
    assert "pip install '.[stream]'" in done.stderr
    assert "Traceback" not in done.stderr
