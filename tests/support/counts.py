"""What every fault must leave right, counted from the outside."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime

from flowgauge.domain.dead_letters import OFFSET
from flowgauge.domain.messages import DEAD_LETTERS, VERDICTS, Alert, AlertKind, Decision, Verdict
from flowgauge.domain.ports import Log
from flowgauge.processors.archive import archived
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.fencing import NOTHING_COUNTED, Counted, count
from tests.support.camera import Cameras
from tests.support.clusters import LINES, PARTITIONS, Cluster

_PAGE = 10_000


class Verdicts:
    """The verdicts topic as far as it has been read: by line, those that count, and how many are void."""

    def __init__(self, log: Log) -> None:
        self.counted: dict[str, list[Counted]] = {line: [] for line in LINES}
        self.void = 0
        self._log = log
        self._next = [0] * PARTITIONS
        self._highest = [NOTHING_COUNTED] * PARTITIONS

    def read(self) -> "Verdicts":
        """What came since the last call."""
        for partition in range(PARTITIONS):
            while records := self._log.read(VERDICTS, partition, self._next[partition], _PAGE):
                found = count(records, self._highest[partition])
                self._next[partition] = records[-1].offset + 1
                self._highest[partition] = found.highest
                self.counted[LINES[partition]] += found.counted
                self.void += len(records) - len(found.counted)
        return self

    def images(self) -> dict[str, list[str]]:
        return {line: [item.verdict.image_id for item in items] for line, items in self.counted.items()}

    def all(self) -> Iterator[Verdict]:
        return (item.verdict for items in self.counted.values() for item in items)

    def rejects(self) -> Counter[str]:
        """By line."""
        return Counter(verdict.line for verdict in self.all() if verdict.decision is Decision.REJECT)

    def first_after(self, line: str, moment: datetime, now: datetime) -> Verdict | None:
        """The first of `line` scored between the two, whatever a clock said in between."""
        return next(
            (item.verdict for item in self.counted[line] if moment <= item.verdict.scored_at <= now),
            None,
        )


def rejects_reported(cluster: Cluster) -> Counter[str]:
    """By line: the rejects of all windows."""
    reported: Counter[str] = Counter()
    for alert in latest_alerts(cluster, AlertKind.REJECT):
        reported[alert.line] += alert.count
    return reported


def latest_alerts(cluster: Cluster, kind: AlertKind) -> list[Alert]:
    """As a person sees them."""
    return [alert for alert in alerts(cluster.store.log) if alert.kind is kind]


def assert_all_is_there(cluster: Cluster, cameras: Cameras) -> Verdicts:
    """One verdict that counts for every image and in its order, all of them in the archive, all rejects told, what was
    poison in the dead letters, and what verdicts name in the store."""
    verdicts = Verdicts(cluster.store.log).read()
    assert verdicts.images() == cameras.images
    assert _by_id(archived(cluster.store.objects)) == _by_id(verdicts.all())
    assert rejects_reported(cluster) == verdicts.rejects()
    if not any(verdict.trial_id for verdict in verdicts.all()):  # then every line's gauge is as good as at the start
        assert verdicts.rejects() == cameras.rejects
    assert _dead_lettered(cluster) == sorted(cameras.dead_letters)
    assert _named(verdicts) <= set(cluster.store.objects.names(""))
    return verdicts


def _by_id(verdicts: Iterator[Verdict]) -> list[Verdict]:
    return sorted(verdicts, key=lambda verdict: (verdict.line, verdict.source.offset))


def _dead_lettered(cluster: Cluster) -> list[str]:
    """The ids of what was buried; a worker that died in between may have buried the same record again."""
    of_source: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for letter in cluster.records(DEAD_LETTERS):
        of_source[letter.partition, letter.headers[OFFSET]].add(letter.headers["ce_id"])
    return sorted(image_id for ids in of_source.values() for image_id in ids)


def _named(verdicts: Verdicts) -> set[str]:
    uris = {uri for verdict in verdicts.all() for uri in (verdict.image_uri, verdict.heatmap_uri) if uri is not None}
    return {uri.split("/", 3)[3] for uri in uris}
