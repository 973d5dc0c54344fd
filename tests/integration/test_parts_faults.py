"""Parts on real servers: views get lost, come late or twice, workers are killed, and each part has one verdict.

`make test` runs them short; `--long` with 5,000 parts of three views and three seeds.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from time import sleep

import pytest

from flowgauge.domain.messages import PART_VERDICTS, VERDICTS, AlertKind, Decision, PartVerdict, Verdict
from flowgauge.domain.object_keys import verdict_id
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.kafka.publisher import ImagePublisher
from flowgauge.registry.lines import set_line
from flowgauge.runtime.fencing import NOTHING_COUNTED, fenced
from flowgauge.runtime.roles import Role
from flowgauge.settings.environment import kafka_settings
from tests.support.clusters import LINES, PARTITIONS, Cluster, plant
from tests.support.counts import Verdicts, latest_alerts
from tests.support.part_verdicts import summary, wanted
from tests.support.servers import S3Address, plant_variables
from tests.support.streaming import START, event, png, verdict

pytestmark = pytest.mark.slow

SECONDS, REPEAT_SECONDS = 600.0, 7_200.0
"""Of verdicts whose times are made: much longer than a test, which must not look like a line that stopped."""
_CHUNK = 60  # verdicts that are appended at once


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("seed", range(3) if metafunc.config.getoption("--long") else range(1))


@pytest.fixture
def cluster(
    kafka_bootstrap: str, redis_url: str, s3_address: S3Address, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    for variable, value in plant_variables(kafka_bootstrap, redis_url, s3_address).items():
        monkeypatch.setenv(variable, value)
    with plant() as found:
        yield found


@dataclass
class Flow:
    """The views of one line as they arrive: some lost, some late, some twice."""

    number: int
    dice: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    def verdicts(self, parts: int) -> list[Verdict]:
        """In order of arrival. One part begins each second, and the last one whole, long after all others."""
        due: list[tuple[float, str, int, Decision]] = []
        for part in range(parts):
            subject = f"S{part:05d}"
            for view in range(3):
                fate = self.dice.choices(("", "lost", "late", "repeated"), (90, 4, 3, 3))[0]
                self.counts[fate] += 1
                at = part + self.dice.uniform(0, 20)
                decision = self.dice.choices(list(Decision), (90, 6, 4))[0]
                if fate == "late":
                    at += SECONDS + 100
                due += [] if fate == "lost" else [(at, subject, view, decision)]
                due += [(at + self.dice.uniform(0, 30), subject, view, Decision.PASS)] if fate == "repeated" else []
        due += [(parts + 2 * SECONDS + view, "last", view, Decision.PASS) for view in range(3)]
        return [self._verdict(offset, *each) for offset, each in enumerate(sorted(due))]

    def _verdict(self, offset: int, at: float, subject: str, view: int, decision: Decision) -> Verdict:
        line, image_id = LINES[self.number], f"{subject}-{view}"
        return verdict(
            offset,
            image_id,
            line=line,
            verdict_id=verdict_id(f"/lines/{line}", image_id),
            subject=subject,
            decision=decision,
            arrived_at=START + timedelta(seconds=at),
            source={"topic": "images", "partition": self.number, "offset": offset},
            image_uri=None,
            use_for_training=False,
        )


def that_count(cluster: Cluster) -> tuple[list[list[PartVerdict]], int]:
    """The part verdicts of each partition that count, and how many are void."""
    found, records = [], 0
    for number in range(PARTITIONS):
        there: list[Record] = list(cluster.of_partition(PART_VERDICTS, number))
        found.append([part for _, part in fenced(there, NOTHING_COUNTED, PartVerdict)[0]])
        records += len(there)
    return found, records - sum(map(len, found))


def assert_each_part_has_one_verdict(
    cluster: Cluster, verdicts: Sequence[Sequence[Verdict]], seconds: float, repeat_seconds: float
) -> tuple[Counter[Decision], int, int]:
    """The right one, and alerts tell of every reject and late view; the decisions, late views and void records."""
    found, void = that_count(cluster)
    late_views, rejects = Counter[str](), Counter[str]()
    decisions = Counter[Decision]()
    for line, parts, of_line in zip(LINES, found, verdicts, strict=True):
        expected, late_views[line] = wanted(of_line, seconds, repeat_seconds)
        assert list(map(summary, parts)) == [each.summary for each in expected], line
        decisions += Counter(part.decision for part in parts)
        rejects[line] = sum(part.decision is Decision.REJECT for part in parts)
    assert len({part.part_id for parts in found for part in parts}) == sum(map(len, found))
    assert _alerted(cluster, AlertKind.REJECT) == +rejects
    assert _alerted(cluster, AlertKind.LATE_VIEW) == +late_views
    return decisions, late_views.total(), void


def _alerted(cluster: Cluster, kind: AlertKind) -> Counter[str]:
    counts: Counter[str] = Counter()
    for alert in latest_alerts(cluster, kind):
        counts[alert.line] += alert.count
    return counts


def test_parts_of_made_verdicts_while_workers_are_killed(
    cluster: Cluster, seed: int, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]
) -> None:
    long = bool(pytestconfig.getoption("--long"))
    parts, kills, freezes = (5_000, 6, 2) if long else (600, 1, 0)
    dice = random.Random(seed)
    flows = [Flow(number, random.Random(f"{seed}/{number}")) for number in range(PARTITIONS)]
    for line in LINES:
        set_line(cluster.store.objects, line, part_views=3, part_seconds=SECONDS, part_repeat_seconds=REPEAT_SECONDS)
    verdicts = [flow.verdicts(parts // PARTITIONS) for flow in flows]
    workers = [cluster.start(Role.DOWNSTREAM) for _ in range(2)]
    cluster.wait("both workers", lambda: cluster.members("parts") == 2)
    for chunk in _chunks(verdicts, dice):
        cluster.store.log.append(chunk)
    deeds = dice.sample(["kill"] * kills + ["freeze"] * freezes, kills + freezes)
    for number, deed in enumerate(deeds, start=1):
        # while there is work for all of them
        done = parts * (number - dice.random()) / (len(deeds) + 1)
        cluster.wait("part verdicts", lambda done=done: cluster.ends(PART_VERDICTS) >= done)  # type: ignore[misc]
        victim = workers.pop(dice.randrange(2))
        if deed == "kill":
            cluster.kill(victim)
            workers.append(cluster.start(Role.DOWNSTREAM))
        else:
            victim.send_signal(signal.SIGSTOP)
            cluster.wait("the group without it", lambda: cluster.members("parts") == 1)
            sleep(dice.uniform(0, 1))
            victim.send_signal(signal.SIGCONT)
            workers.append(victim)
    _finish(cluster, verdicts, SECONDS, REPEAT_SECONDS)
    decisions, late, void = assert_each_part_has_one_verdict(cluster, verdicts, SECONDS, REPEAT_SECONDS)
    counts = sum((flow.counts for flow in flows), Counter[str]())
    row = (parts + PARTITIONS, sum(map(len, verdicts)), counts["lost"], counts["repeated"], late, kills, freezes)
    _report(record_property, "made verdicts", seed, *row, *(decisions[each] for each in Decision), void)


def _chunks(verdicts: Sequence[Sequence[Verdict]], dice: random.Random) -> list[list[Outgoing]]:
    """All lines side by side; now and then a worker that had lost its partition repeats verdicts, which are void."""
    chunks = []
    for first in range(0, max(map(len, verdicts)), _CHUNK // PARTITIONS):
        chunk = [each for of_line in verdicts for each in of_line[first : first + _CHUNK // PARTITIONS]]
        again = dice.sample(chunk, 3) if dice.random() < 0.1 and len(chunk) >= 3 else []
        chunks.append(
            [Outgoing(VERDICTS, each.line, each.encode(), partition=each.source.partition) for each in [*chunk, *again]]
        )
    return chunks


def _finish(cluster: Cluster, verdicts: Sequence[Sequence[Verdict]], seconds: float, repeat_seconds: float) -> None:
    """All parts are decided, all windows of alerts have passed, and all workers end gracefully."""
    expected = [wanted(each, seconds, repeat_seconds) for each in verdicts]
    parts, late = sum(len(of_line) for of_line, _ in expected), sum(late for _, late in expected)
    rejects = sum(part.summary[2] is Decision.REJECT for of_line, _ in expected for part in of_line)
    cluster.wait("all parts", lambda: sum(map(len, that_count(cluster)[0])) >= parts, 300)
    cluster.wait("the rejects", lambda: _alerted(cluster, AlertKind.REJECT).total() >= rejects)
    cluster.wait("the late views", lambda: _alerted(cluster, AlertKind.LATE_VIEW).total() >= late)
    cluster.stop()


def _report(record_property: Callable[[str, object], None], *cells: object) -> None:
    record_property("parts", f"| {' | '.join(map(str, cells))} |")


def test_parts_of_images_while_scoring_is_away_for_longer_than_a_part_takes(
    cluster: Cluster, seed: int, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]
) -> None:
    """Images wait for a worker, whose absence makes no view late; the last part of each line lacks a view and is
    decided although nothing comes after it; one view is no image."""
    parts, seconds = (40 if pytestconfig.getoption("--long") else 12), 4.0
    dice = random.Random(seed)
    for line in LINES:
        set_line(cluster.store.objects, line, part_views=3, part_seconds=seconds)
    scoring = cluster.start(Role.SCORING)
    downstream = [cluster.start(Role.DOWNSTREAM) for _ in range(2)]
    cluster.wait("scoring", lambda: cluster.members("scoring") == 1)
    counts = Counter[str]()
    with ImagePublisher(kafka_settings(os.environ), cluster.store.objects) as publisher:
        for part in range(parts):
            if part == parts // 2:
                publisher.flush()
                cluster.wait("verdicts", lambda: cluster.ends(VERDICTS) > 0)
                cluster.kill(scoring)
            for partition, line in enumerate(LINES):
                for view in range(3):
                    poison = part == 1 and view == 1
                    lost = not poison and ((part == parts - 1 and view == 2) or dice.random() < 0.05)
                    reject = dice.random() < 0.1
                    counts.update(images=not lost, lost=lost or poison)
                    if not lost:
                        data = b"no image" if poison else png(170 if reject else 100, seed=part, side=64)
                        of = event(f"S{part}-{view}", line, at=START).model_copy(update={"subject": f"S{part}"})
                        publisher.publish(of, data, partition)
    cluster.kill(downstream.pop())
    # longer than the parts that were open have time
    cluster.wait("the group without it", lambda: cluster.members("parts") == 1)
    cluster.start(Role.SCORING)
    scored = counts["images"] - PARTITIONS
    reader = Verdicts(cluster.store.log)
    cluster.wait("all verdicts", lambda: sum(map(len, reader.read().counted.values())) == scored)
    verdicts = [[item.verdict for item in reader.counted[line]] for line in LINES]
    _finish(cluster, verdicts, seconds, 3_600)
    decisions, late, void = assert_each_part_has_one_verdict(cluster, verdicts, seconds, 3_600)
    row = (parts * PARTITIONS, counts["images"], counts["lost"], 0, late, 2, 0)
    _report(record_property, "images", seed, *row, *(decisions[each] for each in Decision), void)
    assert decisions[Decision.REVIEW] >= PARTITIONS
