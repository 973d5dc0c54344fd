"""Snapshots that are broken, and adaptations that are interrupted or made twice."""

import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import cast
from uuid import UUID

from redis import Redis as RedisClient

from flowgauge.adaptation.contract import adapted_version
from flowgauge.domain.messages import AdaptationRequest, AlertKind, Reason
from flowgauge.processors.adaptation import audits, request_adaptation
from flowgauge.registry.snapshots import (
    active_snapshot,
    announce,
    announcement,
    announcements,
    fetch_snapshot,
    roll_back,
    store_snapshot,
)
from flowgauge.runtime.roles import Role
from tests.support.clusters import LINES, Worker
from tests.support.counts import latest_alerts
from tests.support.faults.scene import Scene
from tests.support.streaming import load, snapshot

_ADAPT_SECONDS = 4.0


def broken_snapshots(scene: Scene) -> datetime:
    """One whose objects are missing, one whose manifest is another: the gauge stays until a person rolls back."""
    store, line = scene.cluster.store, scene.dice.choice(LINES)
    good = active_snapshot(store.log, line).version
    missing, corrupt = (f"{kind}-{scene.dice.getrandbits(32):08x}" for kind in ("missing", "corrupt"))
    for version in (missing, corrupt):
        sha256 = snapshot(version, line=line).sha256
        announce(store, line, partial(announcement, store, line, version, sha256, good))
    store_snapshot(store.objects, line, corrupt, snapshot(corrupt, threshold=1, line=line))
    scene.cluster.wait("the alerts", lambda: {missing, corrupt} <= set(_invalid(scene)))
    scene.wait_for_verdicts(datetime.now(UTC))
    roll_back(store, line, good)
    scene.checks.append(partial(_never_used, scene, [missing, corrupt]))
    return datetime.now(UTC)


def adaptation_worker_is_killed(scene: Scene) -> datetime:
    """In the middle of its work. The next one waits until the lease has expired, here sooner than in five minutes."""
    request = _asked(scene, scene.dice.choice(LINES))
    first = _adapting(scene, request)
    scene.hesitate(_ADAPT_SECONDS / 2)
    scene.cluster.kill(first)
    over = datetime.now(UTC)
    second = _worker(scene)
    scene.outlast(30)
    assert _holder(scene, request.line) == first.pid
    _expire_lease(scene, request.line)
    _wait_for_gauge(scene, request)
    scene.cluster.stop([second])
    scene.checks.append(partial(_decided_once, scene, request))
    return over


def two_adapt_at_once(scene: Scene) -> datetime:
    """The first freezes in the middle, the second makes the same adaptation, and the first goes on with its own."""
    line, other = scene.dice.sample(LINES, 2)
    requests = [_asked(scene, line), _asked(scene, other)]
    first = _adapting(scene, requests[0])
    first.send_signal(signal.SIGSTOP)
    _expire_lease(scene, line)
    second = _worker(scene)
    for request in requests:
        _wait_for_gauge(scene, request)
    first.send_signal(signal.SIGCONT)
    over = datetime.now(UTC)
    scene.cluster.wait("the first to go on", lambda: _holder(scene, line) == first.pid)
    scene.cluster.wait("its end", lambda: _holder(scene, line) is None)
    scene.cluster.stop([first, second])
    scene.checks += [partial(_decided_once, scene, request) for request in requests]
    return over


def _asked(scene: Scene, line: str) -> AdaptationRequest:
    store = scene.cluster.store
    scene.cluster.wait(f"the buffer of {line}", lambda: len(store.state.buffer(line)) >= 8)
    request = AdaptationRequest(
        request_id=UUID(int=scene.dice.getrandbits(128)),
        line=line,
        reason=Reason.PERSON,
        requested_at=datetime.now(UTC),
        requested_by="a person",
    )
    request_adaptation(store, request)
    return request


def _worker(scene: Scene) -> Worker:
    return scene.cluster.start(Role.ADAPTATION, "--adapt-seconds", str(_ADAPT_SECONDS))


def _adapting(scene: Scene, request: AdaptationRequest) -> Worker:
    """A worker that is in the middle of `request`: its progress renews the lease."""
    worker = _worker(scene)
    scene.cluster.wait("the lease", lambda: _holder(scene, request.line) == worker.pid)
    began = _expires(scene, request.line)
    scene.cluster.wait("some progress", lambda: _expires(scene, request.line) != began)
    return worker


def _holder(scene: Scene, line: str) -> int | None:
    """The process that holds the line's lease."""
    owner = _of_lease(scene, line, "owner")
    return None if owner is None else int(owner.rpartition("-")[2])


def _expires(scene: Scene, line: str) -> str | None:
    return _of_lease(scene, line, "expires")


def _of_lease(scene: Scene, line: str, field: str) -> str | None:
    with RedisClient.from_url(scene.servers.redis.url, decode_responses=True) as client:
        return cast(str | None, client.hget(_lease(scene, line), field))


def _expire_lease(scene: Scene, line: str) -> None:
    with RedisClient.from_url(scene.servers.redis.url) as client:
        client.pexpire(_lease(scene, line), 1)


def _lease(scene: Scene, line: str) -> str:
    plant = scene.cluster.uri.removeprefix("s3://")
    return f"{plant}.state:lease:adaptation/{line}"


def _wait_for_gauge(scene: Scene, request: AdaptationRequest) -> None:
    """Until the line's verdicts come from what was adapted."""
    version = adapted_version(request)

    def swapped() -> bool:
        return scene.verdicts.read().counted[request.line][-1].verdict.gauge_version == version

    scene.cluster.wait(f"verdicts of {request.line} from {version}", swapped)


def _decided_once(scene: Scene, request: AdaptationRequest) -> None:
    store, version = scene.cluster.store, adapted_version(request)
    (report,) = (each for each in audits(store, request.line) if each.version == version)
    # a person who rolls back to it announces it again, with what was rolled back as its parent
    of_it = [each for each in announcements(store.log, request.line) if each.version == version]
    (announced,) = (each for each in of_it if each.parent == report.parent)
    files = fetch_snapshot(store.objects, request.line, version)
    assert files.sha256 == announced.sha256
    load(files.manifest, files.weights)
    assert report.accepted
    accepted = [alert.detail["version"] for alert in latest_alerts(scene.cluster, AlertKind.ADAPTATION_ACCEPTED)]
    assert accepted.count(version) == 1


def _invalid(scene: Scene) -> list[str]:
    return [str(alert.detail["version"]) for alert in latest_alerts(scene.cluster, AlertKind.SNAPSHOT_INVALID)]


def _never_used(scene: Scene, versions: Sequence[str]) -> None:
    assert all(_invalid(scene).count(version) == 1 for version in versions)
    assert not {verdict.gauge_version for verdict in scene.verdicts.all()} & set(versions)
