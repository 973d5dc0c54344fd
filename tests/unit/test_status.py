"""The latest alerts of a store, and those that come after."""

from datetime import timedelta
from pathlib import Path

from flowgauge.domain.messages import ALERTS, AlertKind
from flowgauge.domain.ports import Outgoing
from flowgauge.runtime.alerts import alert
from flowgauge.services.status import latest_alerts
from tests.support.streaming import LINE, START, SetClock, opened


def test_the_latest_alerts_come_first_and_each_new_one_follows_once(tmp_path: Path) -> None:
    with opened(tmp_path, SetClock()) as store:

        def tell(number: int, line: str = LINE) -> None:
            at = START + timedelta(seconds=number)
            store.log.append([alert(line, AlertKind.DRIFT, f"image-{number}", at, f"alert {number}")])

        for number in range(5):
            tell(number)
        assert [each.message for each in latest_alerts(store.log, 3)] == ["alert 2", "alert 3", "alert 4"]
        following = latest_alerts(store.log, 2, LINE, follow=True)
        assert [next(following).message for _ in range(2)] == ["alert 3", "alert 4"]
        tell(5, "another")
        store.log.append([Outgoing(ALERTS, LINE, b"no alert")])
        for number in (6, 7, 8):
            tell(number)
        assert [next(following).message for _ in range(3)] == ["alert 6", "alert 7", "alert 8"]
