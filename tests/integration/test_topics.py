"""`flowgauge topics` and `flowgauge publish` on a real broker."""

import os
import subprocess
import sys
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from flowgauge.domain.messages import IMAGES, TOPICS
from flowgauge.kafka.log import KafkaLog
from flowgauge.local import SystemClock
from flowgauge.settings.environment import kafka_settings
from tests.support.shell import Shell
from tests.support.streaming import png


@pytest.fixture
def prefix(kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> str:
    prefix = f"topics-{uuid4().hex[:8]}."
    monkeypatch.setenv("FLOWGAUGE_KAFKA_BOOTSTRAP", kafka_bootstrap)
    monkeypatch.setenv("FLOWGAUGE_TOPIC_PREFIX", prefix)
    return prefix


def test_topics_are_made_once_and_then_pass_the_check(flowgauge: Shell, prefix: str) -> None:
    missing = flowgauge("topics", "check", "--json")
    assert missing.code == 2
    assert len(missing.json["faults"]) == len(TOPICS)

    made = flowgauge("topics", "create", "--partitions", 3, "--json")
    assert made.json["created"] == sorted(prefix + name for name in TOPICS)
    assert flowgauge("topics", "create", "--json").json["created"] == []
    assert flowgauge("topics", "check", "--json").json["faults"] == []


@pytest.mark.parametrize(
    ("topic", "config", "sentence"),
    [
        ("verdicts", {"retention.ms": "1000"}, "Verdicts are kept for a shorter time than images"),
        ("snapshots", {"cleanup.policy": "delete"}, "Snapshots would expire"),
        ("dead-letters", {"max.message.bytes": "10485760"}, "would have no room among dead letters"),
        ("verdicts", {"message.timestamp.type": "CreateTime"}, "Records of verdicts carry the time of whoever sent"),
    ],
)
def test_a_topic_that_would_lose_something_is_named(
    flowgauge: Shell, prefix: str, kafka_bootstrap: str, topic: str, config: dict[str, str], sentence: str
) -> None:
    flowgauge("topics", "create")
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, prefix + topic, configs=config)])
    admin.close()
    deadline = monotonic() + 20  # a broker knows of a new setting a moment after it has accepted it
    while (done := flowgauge("topics", "check")).code == 0:
        assert monotonic() < deadline, f"the check does not see {config}"
    assert done.code == 2
    assert sentence in done.out


def test_a_folder_is_published_in_the_order_of_its_names(flowgauge: Shell, prefix: str, tmp_path: Path) -> None:
    flowgauge("topics", "create", "--partitions", 2)
    for name in ("b.png", "a.png", ".hidden.png"):
        (tmp_path / name).write_bytes(png(100))
    done = flowgauge("publish", tmp_path, "--line", "press-3", "--partition", 1)
    assert done.code == 0
    assert "2 images of press-3 are published." in done.out
    log = KafkaLog(kafka_settings(os.environ), SystemClock())
    sent = log.read(IMAGES, 1, 0, 9)
    log.close()
    assert [record.headers["ce_id"] for record in sent] == ["a.png", "b.png"]
    assert {record.key for record in sent} == {"press-3"}


def test_publishing_to_brokers_that_are_away_says_so(tmp_path: Path) -> None:
    """In a process of its own: a client that never connected leaves its sockets to the collector, which warns."""
    (tmp_path / "a.png").write_bytes(png(100))
    command = "from flowgauge.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "publish", str(tmp_path), "--line", "press-3"],
        env=os.environ | {"FLOWGAUGE_KAFKA_BOOTSTRAP": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Kafka at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
