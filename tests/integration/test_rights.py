"""Kafka's ACLs and S3's policies as docs/how-to/security.md lists them: enough for everybody's work, and no more."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from flowgauge.app.bootstrap import open_store
from flowgauge.domain.errors import AuthorizationFailed
from flowgauge.domain.golden import Label
from flowgauge.domain.lines import Policy
from flowgauge.domain.messages import (
    ADAPTATIONS,
    ALERTS,
    DEAD_LETTERS,
    IMAGES,
    SNAPSHOTS,
    TOPICS,
    VERDICTS,
    AdaptationRequest,
    Decision,
    Reason,
    Verdict,
)
from flowgauge.domain.object_keys import image_object
from flowgauge.domain.ports import Objects, Outgoing
from flowgauge.kafka.publisher import ImagePublisher
from flowgauge.processors.adaptation import request_adaptation
from flowgauge.registry.golden_sets import add_golden
from flowgauge.registry.lines import set_line
from flowgauge.runtime.backend import Store
from flowgauge.runtime.roles import Role
from flowgauge.s3.objects import S3Objects
from flowgauge.services.parts import latest_parts
from flowgauge.settings.environment import kafka_settings, s3_settings
from tests.support.acls import documented_acls, grant
from tests.support.clusters import LINES, Cluster, plant
from tests.support.counts import Verdicts, rejects_reported
from tests.support.encrypted import GuardedMinio, GuardedRedis
from tests.support.guarded import GuardedKafka
from tests.support.shell import Shell
from tests.support.streaming import START, event, png
from tests.support.variables import variables

USERS = ["line", "worker", "reader", "administrator", "stranger"]


@dataclass(frozen=True)
class Guarded:
    """A plant whose every connection is encrypted, and whose users have the rights that the documentation lists."""

    kafka: GuardedKafka
    minio: GuardedMinio
    cluster: Cluster
    shared: dict[str, str]
    prefix: str

    @contextmanager
    def as_user(self, name: str) -> Iterator[Cluster]:
        given = self.shared | self.kafka.sasl_tls(name) | self.minio.user(name)
        with variables(given | {"FLOWGAUGE_TOPIC_PREFIX": self.prefix}), open_store(self.cluster.uri) as store:
            yield Cluster(self.cluster.uri, store, self.cluster.workers)


@pytest.fixture(scope="module")
def guarded(kafka: GuardedKafka, minio: GuardedMinio, redis: GuardedRedis) -> Iterator[Guarded]:
    kafka.add_users(USERS)
    with variables(redis.variables() | kafka.sasl_tls() | minio.operator()), plant() as cluster:
        prefix = os.environ["FLOWGAUGE_TOPIC_PREFIX"]
        grant(kafka.kafka.address, documented_acls(prefix))
        minio.add_users(cluster.uri.removeprefix("s3://"))
        yield Guarded(kafka, minio, cluster, redis.variables(), prefix)


@pytest.mark.slow
def test_the_documented_rights_suffice_from_an_image_to_verdict_alert_and_new_gauge(
    guarded: Guarded, flowgauge: Shell
) -> None:
    """One line adapts because a person asks, the other because it has counted its images."""
    with guarded.as_user("administrator") as administrator:
        add_golden(administrator.store.objects, LINES[0], Label.GOOD, "known", png(100))
        set_line(administrator.store.objects, LINES[0], buffer_minimum=1, adapt_every=2, policy=Policy.AUTO)
        set_line(administrator.store.objects, LINES[1], buffer_minimum=1)
        set_line(administrator.store.objects, LINES[0], part_views=2, part_seconds=1)
    with guarded.as_user("worker") as worker:
        worker.start(Role.ALL)
    with guarded.as_user("line") as line:
        line.publish(0, 1)
        with ImagePublisher(kafka_settings(os.environ), line.store.objects, inline_limit=10) as publisher:
            # a part whose other view never comes: it is decided when nothing comes any more
            large = event("large", LINES[0]).model_copy(update={"subject": "S1"})
            publisher.publish(large, png(170, seed=9), 0)
            publisher.publish(event("poison", LINES[0]), b"no image", 0)
    with guarded.as_user("reader") as reader:
        reader.wait("the verdicts", lambda: reader.ends(VERDICTS) == len(LINES) + 1)
        reader.wait("the part", lambda: [each.decision for each in latest_parts(reader.store.log, 9)] == ["reject"])
        reader.wait("the alerts", lambda: rejects_reported(reader) == {name: 1 + (name == LINES[0]) for name in LINES})
        assert_kept(
            reader.store.objects, [item.verdict for item in Verdicts(reader.store.log).read().counted[LINES[0]]]
        )
    with guarded.as_user("administrator") as administrator:
        now = administrator.store.clock.now()
        request = AdaptationRequest(
            request_id=uuid4(), line=LINES[1], reason=Reason.PERSON, requested_at=now, requested_by="operator"
        )
        request_adaptation(administrator.store, request)
        administrator.wait("a new gauge for both", lambda: administrator.ends(SNAPSHOTS) == len(LINES) + 2)
        administrator.wait("the dead letter", lambda: administrator.ends(DEAD_LETTERS) == 1)
        assert flowgauge("topics", "check").code == 0
        assert flowgauge("status", "--store", guarded.cluster.uri, "--json").code == 0
        rule = ("--passes-days", 30)
        assert flowgauge("store", "retention", "--store", guarded.cluster.uri, *rule).code == 0
    guarded.cluster.stop()
    with guarded.as_user("reader") as reader:
        assert list(reader.store.objects.names("verdicts/")), "the worker archived nothing when it ended"


def assert_kept(objects: Objects, verdicts: Sequence[Verdict]) -> None:
    """What a reader finds beside the verdicts."""
    assert len({verdict.image_id for verdict in verdicts}) == 2
    for verdict in verdicts:
        assert verdict.decision is Decision.REJECT
        for uri in (verdict.image_uri, verdict.heatmap_uri):
            assert uri is not None
            assert objects.get(objects.name(uri))


Use = Callable[[Store], object]
RECORD = {topic: [Outgoing(topic, "key", b"value")] for topic in TOPICS}

NO_TOPIC: dict[str, tuple[str, Use, str]] = {
    "a-line-reads-verdicts": (
        "line",
        lambda store: store.log.read(VERDICTS, 0, 0, 1),
        "Read on the topic PREFIXverdicts",
    ),
    "a-line-reads-images": ("line", lambda store: store.log.read(IMAGES, 0, 0, 1), "Read on the topic PREFIXimages"),
    "a-line-writes-snapshots": (
        "line",
        lambda store: store.log.append(RECORD[SNAPSHOTS]),
        "Write on the topic PREFIXsnapshots",
    ),
    "a-line-joins-a-group": (
        "line",
        lambda store: store.log.position("scoring", IMAGES, 0),
        "Read on the group PREFIXscoring and the topic PREFIXimages",
    ),
    "a-reader-writes-verdicts": (
        "reader",
        lambda store: store.log.append(RECORD[VERDICTS]),
        "Write on the topic PREFIXverdicts",
    ),
    "a-reader-reads-images": (
        "reader",
        lambda store: store.log.read(IMAGES, 0, 0, 1),
        "Read on the topic PREFIXimages",
    ),
    "a-worker-writes-images": (
        "worker",
        lambda store: store.log.append(RECORD[IMAGES]),
        "Write on the topic PREFIXimages",
    ),
    "a-worker-reads-alerts": (
        "worker",
        lambda store: store.log.read(ALERTS, 0, 0, 1),
        "Read on the topic PREFIXalerts",
    ),
    "a-reader-asks-for-an-adaptation": (
        "reader",
        lambda store: store.log.append(RECORD[ADAPTATIONS]),
        "Write on the topic PREFIXadaptations",
    ),
    "an-administrator-writes-verdicts": (
        "administrator",
        lambda store: store.log.append(RECORD[VERDICTS]),
        "Write on the topic PREFIXverdicts",
    ),
    "a-stranger-counts": ("stranger", lambda store: store.log.partitions(IMAGES), "Describe on the topic PREFIXimages"),
}

SNAPSHOT = "snapshots/press-0/fit-1/manifest.json"
IMAGE = image_object(LINES[0], START, "0000")
NO_OBJECT: dict[str, tuple[str, Use]] = {
    "a-line-reads-an-image": ("line", lambda store: store.objects.get(IMAGE)),
    "a-line-lists": ("line", lambda store: list(store.objects.names("images/"))),
    "a-line-reads-a-snapshot": ("line", lambda store: store.objects.get(SNAPSHOT)),
    "a-line-writes-a-snapshot": ("line", lambda store: store.objects.put(SNAPSHOT, b"")),
    "a-line-deletes-an-image": ("line", lambda store: store.objects.delete(IMAGE)),
    "a-worker-deletes-a-snapshot": ("worker", lambda store: store.objects.delete(SNAPSHOT)),
    "a-worker-deletes-an-image": ("worker", lambda store: store.objects.delete(IMAGE)),
    "a-worker-labels": ("worker", lambda store: store.objects.put("golden/press-0/good/x", b"")),
    "a-worker-sets-a-line": ("worker", lambda store: store.objects.put("lines/press-0.json", b"{}")),
    "a-reader-writes": ("reader", lambda store: store.objects.put(IMAGE, b"")),
    "a-reader-reads-a-snapshot": ("reader", lambda store: store.objects.get(SNAPSHOT)),
    "a-reader-lists-snapshots": ("reader", lambda store: list(store.objects.names("snapshots/"))),
    "an-administrator-deletes-a-snapshot": ("administrator", lambda store: store.objects.delete(SNAPSHOT)),
}


@pytest.fixture
def something_to_read(guarded: Guarded) -> None:
    empty = [topic for topic in (IMAGES, VERDICTS, ALERTS) if not guarded.cluster.ends(topic)]
    guarded.cluster.store.log.append([Outgoing(topic, name, b"value") for topic in empty for name in LINES])


@pytest.mark.usefixtures("something_to_read")
@pytest.mark.parametrize(("user", "use", "right"), NO_TOPIC.values(), ids=NO_TOPIC)
def test_whoever_lacks_a_right_in_kafka_is_reported_which(guarded: Guarded, user: str, use: Use, right: str) -> None:
    with guarded.as_user(user) as cluster, pytest.raises(AuthorizationFailed) as reported:
        use(cluster.store)
    assert f"does not let the user {user} do this" in str(reported.value)
    assert f"it needs {right.replace('PREFIX', guarded.prefix)}." in str(reported.value)


@pytest.mark.parametrize(("user", "use"), NO_OBJECT.values(), ids=NO_OBJECT)
def test_nobody_does_in_the_bucket_what_is_not_theirs(guarded: Guarded, user: str, use: Use) -> None:
    with (
        guarded.as_user(user) as cluster,
        pytest.raises(AuthorizationFailed, match=r"AccessDenied.*docs/how-to/security\.md"),
    ):
        use(cluster.store)


def test_an_administrator_makes_topics(guarded: Guarded, flowgauge: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded.as_user("administrator"):
        monkeypatch.setenv("FLOWGAUGE_TOPIC_PREFIX", f"{guarded.prefix}more.")
        made = flowgauge("topics", "create", "--store", guarded.cluster.uri, "--json")
        assert made.json["created"] == sorted(f"{guarded.prefix}more.{name}" for name in TOPICS)


@pytest.mark.parametrize("user", ["line", "worker", "reader"])
def test_only_an_administrator_makes_buckets(guarded: Guarded, user: str) -> None:
    with guarded.as_user(user), closing(another_bucket()) as objects, pytest.raises(AuthorizationFailed):
        objects.ensure_bucket()


def another_bucket() -> S3Objects:
    return S3Objects(s3_settings(os.environ), f"new-{uuid4().hex}")


COMMANDS = {
    ("worker", "scoring", "--store", "STORE"): "Read on the group PREFIXscoring and the topic PREFIXimages",
    ("publish", "IMAGES", "--line", "press-3"): "Write on the topic PREFIXimages",
    ("topics", "check"): "DescribeConfigs on the topics that begin with PREFIX",
    ("topics", "create"): "Create on the topics that begin with PREFIX",
    ("status", "--store", "STORE"): "Describe on the topic PREFIXimages",
}


@pytest.mark.parametrize(("command", "right"), COMMANDS.items(), ids=[" ".join(words[:2]) for words in COMMANDS])
def test_a_command_without_its_right_ends_and_names_it(
    guarded: Guarded, flowgauge: Shell, tmp_path: Path, command: tuple[str, ...], right: str
) -> None:
    (tmp_path / "a.png").write_bytes(b"an image")
    words = {"IMAGES": str(tmp_path), "STORE": guarded.cluster.uri}
    with guarded.as_user("stranger"):
        done = flowgauge(*(words.get(word, word) for word in command))
    assert done.code == 1
    assert right.replace("PREFIX", guarded.prefix) in done.err
    assert "kafka-acls" in done.err
