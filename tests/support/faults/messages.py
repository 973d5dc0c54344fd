"""Messages that are wrong, too large, or too many."""

import os
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from random import Random

import pytest

from flowgauge.domain.errors import Unavailable, UserError
from flowgauge.domain.messages import IMAGES, AlertKind, Decision
from flowgauge.kafka.publisher import INLINE_LIMIT, ImagePublisher
from flowgauge.kafka.settings import LARGEST_MESSAGE
from flowgauge.registry.lines import line_settings
from flowgauge.runtime.alerts import window_start
from flowgauge.settings.environment import kafka_settings
from tests.support.camera import BAD, GOOD, Fate
from tests.support.clusters import LINES
from tests.support.counts import latest_alerts
from tests.support.faults.scene import Scene
from tests.support.streaming import event, png

_ENVELOPE = 400  # bytes for key, headers and their batch: enough for an image, too few for a letter with its reason
_REJECTS = 1_000


def poison_among_good_ones(scene: Scene) -> datetime:
    for number, data in enumerate((b"no image at all", b"", png(GOOD)[:60], b"\x89PNG\r\n\x1a\n" + bytes(5_000))):
        for line in LINES:
            scene.cameras.send(line, f"poison-{number}-{line}", data, Fate.LETTER)
        scene.hesitate(0.5)
    return datetime.now(UTC)


def messages_above_the_limit(scene: Scene) -> datetime:
    """Ours travel by claim check, which takes a store; those of a producer that ignores the limit are scored, or dead
    letters, up to what a topic takes, and beyond it they are refused."""
    line = scene.dice.choice(LINES)
    large, huge = png(GOOD, seed=1, side=1_600), png(GOOD, seed=2, side=4_000)
    assert INLINE_LIMIT < len(large) < len(huge) < LARGEST_MESSAGE
    with (
        ImagePublisher(kafka_settings(os.environ)) as storeless,
        pytest.raises(UserError, match="need an object store"),
    ):
        storeless.publish(event("nowhere", line), large)
    scene.cameras.send(line, "by-claim-check", large)
    with scene.cameras.held(inline_limit=LARGEST_MESSAGE) as raw:
        scene.cameras.send(line, "huge-and-inline", huge, publisher=raw)
        poison = Random(0).randbytes(LARGEST_MESSAGE - _ENVELOPE)
        scene.cameras.send(line, "huge-poison", poison, Fate.LETTER, publisher=raw)
        with pytest.raises(Unavailable, match=r"Raise max\.message\.bytes"):
            raw.publish(event("beyond", line), bytes(LARGEST_MESSAGE), LINES.index(line))
    scene.checks.append(partial(_travelled_by_claim_check, scene, "by-claim-check"))
    return datetime.now(UTC)


def many_rejects(scene: Scene) -> datetime:
    """A thousand on one line within a minute: one alert for each window that they fall into, with its count."""
    line = scene.dice.choice(LINES)
    tenths = sorted(scene.dice.uniform(0, 50) for _ in range(10))
    for number, (last, tenth) in enumerate(zip([0.0, *tenths], tenths, strict=False)):
        if scene.long:
            scene.outlast(tenth - last)
        for index in range(_REJECTS // 10):
            image_id = f"burst-{number}-{index:02d}"
            scene.cameras.send(line, image_id, png(BAD, seed=index, side=64), Fate.REJECT)
    scene.checks.append(partial(_one_alert_for_each_window, scene, line))
    return datetime.now(UTC)


def _travelled_by_claim_check(scene: Scene, image_id: str) -> None:
    (record,) = (record for record in scene.cluster.records(IMAGES) if record.headers["ce_id"] == image_id)
    assert record.value == b""
    assert "ce_dataref" in record.headers


def _one_alert_for_each_window(scene: Scene, line: str) -> None:
    seconds = line_settings(scene.cluster.store.objects, line).alert_window_seconds
    rejects = [item for item in scene.verdicts.counted[line] if item.verdict.decision is Decision.REJECT]
    windows = Counter(window_start(item.record.at, seconds) for item in rejects)
    alerts = [alert for alert in latest_alerts(scene.cluster, AlertKind.REJECT) if alert.line == line]
    assert {alert.at: alert.count for alert in alerts} == windows
    assert len(alerts) == len(windows)
    assert windows.total() >= _REJECTS
