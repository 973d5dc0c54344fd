"""What people are told of alerts: once each, as few messages as it takes, and nothing lost."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flowgauge.domain.alert_kinds import ABOUT, Ending, Severity
from flowgauge.domain.messages import ALERTS, DEAD_LETTERS, Alert, AlertKind
from flowgauge.domain.ports import Outgoing, State
from flowgauge.processors.delivery import Delivery
from flowgauge.processors.notices import Ledger, LedgerState
from flowgauge.processors.notifying import Notifying
from flowgauge.runtime.alerts import NO_LINE
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.services.status import group_statuses
from tests.support.failing import Failing
from tests.support.messages import ROUTE, Memory, notify, raise_alert, routes_of, work
from tests.support.streaming import LINE, START, SetClock, fitted, opened, records

GATHERED = 90
"""Seconds after which a route tells what it has gathered."""
SILENCE = 180
"""Seconds without a sign of life after which a problem is over."""
AT_ONCE = f"{ROUTE}digest_seconds = 0\n"


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return opened(tmp_path / "plant", clock)


@pytest.fixture
def memory() -> Memory:
    return Memory()


def later(worker: Worker, clock: SetClock, seconds: float) -> None:
    clock.advance(seconds)
    work(worker)


def committed(store: Store) -> int:
    return store.log.position(Notifying.name, ALERTS, 0)


def test_a_message_says_what_happened_where_since_when_how_often_and_links_to_the_console(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, f'console = "http://plant:8080/"\n{ROUTE}'), memory)
    raise_alert(store, AlertKind.NO_GAUGE, "06:00", count=12)
    work(worker)
    later(worker, clock, GATHERED)
    (sent,) = memory.sent
    assert sent.title == "[critical] press-3: no gauge"
    assert sent.severity is Severity.CRITICAL
    assert sent.body == (
        "press-3: no_gauge 06:00.\n\n"
        "line press-3, kind no_gauge, 12 since 2026-03-01 06:00:00 UTC\n"
        "http://plant:8080/lines/press-3"
    )


def test_what_belongs_to_no_line_links_to_the_console_itself(store: Store, memory: Memory, tmp_path: Path) -> None:
    worker = notify(store, routes_of(tmp_path, f'console = "http://plant:8080"\n{AT_ONCE}'), memory)
    raise_alert(store, AlertKind.RECORDS_EXPIRED, line=NO_LINE)
    work(worker)
    assert memory.bodies()[0].endswith("\nhttp://plant:8080")


def test_a_thousand_alerts_of_a_minute_are_one_message_of_each_line_and_kind(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path), memory)
    for number in range(1_000):
        kind = AlertKind.REJECT if number % 4 else AlertKind.DEAD_LETTER
        raise_alert(store, kind, str(number), line=f"press-{number % 2}")
        clock.advance(0.06)
    work(worker)
    later(worker, clock, GATHERED)
    counts = [body.splitlines()[2] for body in memory.bodies()]
    assert sorted(text.split(" since")[0] for text in counts) == [
        "line press-0, kind dead_letter, 250",
        "line press-0, kind reject, 250",
        "line press-1, kind reject, 500",
    ]


def test_an_outage_that_all_lines_share_is_one_message_of_each_end(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path), memory)
    for number in range(40):
        raise_alert(store, AlertKind.STORE_UNAVAILABLE, line=f"press-{number}")
    work(worker)
    later(worker, clock, GATHERED)
    later(worker, clock, SILENCE)
    assert memory.titles() == ["[critical] 40 alerts of 40 lines", "[resolved] 40 alerts of 40 lines"]
    assert memory.bodies()[0].count("store unavailable") == 20
    assert "And 20 more" in memory.bodies()[0]


def test_a_window_that_comes_twice_is_one_alert_whose_highest_count_holds(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path), memory)
    for count in (1, 20, 7, 20):
        raise_alert(store, AlertKind.REJECT, "06:00", count=count, at=START)
        later(worker, clock, 20)
    later(worker, clock, GATHERED)
    (body,) = memory.bodies()
    assert "kind reject, 20 since" in body


def test_a_count_that_grows_after_its_message_is_sent_as_the_difference(
    store: Store, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, AT_ONCE), memory)
    for count in (1, 20):
        raise_alert(store, AlertKind.REJECT, "06:00", count=count, at=START)
        work(worker)
    assert [body.split(" since")[0].rpartition(", ")[2] for body in memory.bodies()] == ["1", "19"]


def test_alerts_that_a_replay_brings_again_are_not_sent_again(store: Store, memory: Memory, tmp_path: Path) -> None:
    worker = notify(store, routes_of(tmp_path, AT_ONCE), memory)
    for _ in range(2):
        for number in range(500):
            raise_alert(store, AlertKind.REJECT, str(number), at=START)
        work(worker)
    assert sum(int(body.split(" since")[0].rpartition(", ")[2]) for body in memory.bodies()) == 500


def test_quiet_hours_end_with_one_message_of_what_was_held_back(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, f'{ROUTE}quiet = "05:00-08:00 UTC"\n'), memory)
    for number in range(3):
        raise_alert(store, AlertKind.REJECT, f"a{number}")
        raise_alert(store, AlertKind.CLOCK_OFF, f"b{number}", line="press-4")
        work(worker)
        later(worker, clock, 600)
    assert memory.sent == []
    clock.advance((START.replace(hour=8) - clock.now()).total_seconds() - 1)
    work(worker)
    assert memory.sent == []
    later(worker, clock, 1)
    (sent,) = memory.sent
    assert sent.title == "[warning] 2 alerts of 2 lines, held back until now"
    assert "kind reject, 3 since 2026-03-01 06:00:00" in sent.body
    assert "kind clock_off, 3 since" in sent.body
    assert committed(store) == 6


def test_what_is_critical_passes_quiet_hours_and_the_rest_waits(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, f'{ROUTE}quiet = "05:00-08:00 UTC"\n'), memory)
    raise_alert(store, AlertKind.REJECT)
    raise_alert(store, AlertKind.FROZEN_CAMERA)
    work(worker)
    later(worker, clock, GATHERED)
    assert memory.titles() == ["[critical] press-3: frozen camera"]


def test_what_is_held_back_survives_a_restart(store: Store, clock: SetClock, memory: Memory, tmp_path: Path) -> None:
    routes = routes_of(tmp_path, f'{ROUTE}quiet = "05:00-08:00 UTC"\n')
    worker = notify(store, routes, memory)
    raise_alert(store, AlertKind.REJECT)
    work(worker)
    later(worker, clock, GATHERED)
    worker.flush()
    assert memory.sent == []
    later(notify(store, routes, memory), clock, 2 * 3_600)
    assert memory.titles() == ["[info] press-3: reject, held back until now"]


def test_a_problem_that_goes_on_is_repeated_when_it_is_time(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, f'{ROUTE}repeat_after = "1h"\n'), memory)
    for minute in range(150):
        raise_alert(store, AlertKind.STORE_UNAVAILABLE, str(minute))
        work(worker)
        later(worker, clock, 60)
    assert memory.titles() == [
        "[critical] press-3: store unavailable",
        "[critical] press-3: store unavailable, goes on",
        "[critical] press-3: store unavailable, goes on",
    ]
    assert "kind store_unavailable, 122 since 2026-03-01 06:00:00" in memory.bodies()[-1]


def test_without_a_time_to_repeat_a_problem_is_sent_once(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path), memory)
    for minute in range(150):
        raise_alert(store, AlertKind.STORE_UNAVAILABLE, str(minute))
        later(worker, clock, 60)
    assert memory.titles() == ["[critical] press-3: store unavailable"]
    assert committed(store) == 150, "an alert that asks for no message holds the commit back"


def test_silence_ends_what_workers_report_while_it_lasts(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, AT_ONCE), memory)
    raise_alert(store, AlertKind.STORE_UNAVAILABLE, "1")
    work(worker)
    later(worker, clock, SILENCE - 60)
    assert len(memory.sent) == 1
    later(worker, clock, 60)
    assert memory.titles()[1:] == ["[resolved] press-3: store unavailable, resolved"]
    assert memory.sent[1].severity is None
    assert "Over: it was last reported at 2026-03-01 06:00:00 UTC." in memory.bodies()[1]
    raise_alert(store, AlertKind.STORE_UNAVAILABLE, "2")
    work(worker)
    assert memory.titles()[2:] == ["[critical] press-3: store unavailable"]


def test_alerts_that_are_still_to_be_read_are_no_silence(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    processor = Notifying(store, routes_of(tmp_path, AT_ONCE), Delivery(memory, store.state, clock))
    processor.start_offset(ALERTS, 0, 0)
    for number in range(2):
        raise_alert(store, AlertKind.STORE_UNAVAILABLE, str(number))
        clock.advance(SILENCE - 1)
    first, second = records(store.log, ALERTS)
    processor.process([first])
    processor.punctuate(clock.now())
    assert len(memory.sent) == 1
    processor.process([second])
    processor.punctuate(clock.now())
    assert len(memory.sent) == 1
    clock.advance(10)
    processor.punctuate(clock.now())
    assert memory.titles()[1:] == ["[resolved] press-3: store unavailable, resolved"]


@pytest.mark.parametrize("kind", [kind for kind in AlertKind if ABOUT[kind].ending in (Ending.GAUGE, Ending.DECISION)])
def test_the_next_gauge_ends_what_it_mends(
    kind: AlertKind, store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, AT_ONCE), memory)
    fitted(store, "fit-1")
    raise_alert(store, kind)
    work(worker)
    later(worker, clock, 3_600)
    assert len(memory.sent) == 1
    fitted(store, "fit-2", line="press-4")
    later(worker, clock, 3_600)
    assert len(memory.sent) == 1, "the gauge of another line"
    fitted(store, "fit-2")
    later(worker, clock, SILENCE)
    assert len(memory.sent) == 2
    assert memory.titles()[1].startswith("[resolved]")
    assert "Over: the line got another gauge at 2026-03-01 08:00:00 UTC." in memory.bodies()[1]


def test_a_gauge_that_does_not_load_ends_nothing(store: Store, clock: SetClock, memory: Memory, tmp_path: Path) -> None:
    worker = notify(store, routes_of(tmp_path, AT_ONCE), memory)
    raise_alert(store, AlertKind.NO_GAUGE, "0")
    later(worker, clock, 30)
    fitted(store)
    for minute in range(1, 20):
        clock.advance(60)
        raise_alert(store, AlertKind.NO_GAUGE, str(minute))
        work(worker)
    assert memory.titles() == ["[critical] press-3: no gauge"]


def test_the_last_count_of_a_window_that_began_before_the_end_begins_nothing_anew(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, AT_ONCE), memory)
    raise_alert(store, AlertKind.NO_GAUGE, "06:00", at=START)
    work(worker)
    clock.advance(30)
    fitted(store)
    later(worker, clock, SILENCE)
    raise_alert(store, AlertKind.NO_GAUGE, "06:00", count=40, at=START)
    later(worker, clock, 600)
    assert memory.titles() == ["[critical] press-3: no gauge", "[resolved] press-3: no gauge, resolved"]


@pytest.mark.parametrize("decision", [AlertKind.ADAPTATION_ACCEPTED, AlertKind.ADAPTATION_REFUSED])
def test_a_proposal_is_over_once_it_is_decided(
    decision: AlertKind, store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    only = f'{AT_ONCE}kinds = ["adaptation_proposed"]\n'
    worker = notify(store, routes_of(tmp_path, only), memory)
    first, second = (str(uuid4()) for _ in range(2))
    for request in (first, second):
        raise_alert(store, AlertKind.ADAPTATION_PROPOSED, request, request={"request_id": request})
    work(worker)
    raise_alert(store, decision, first)
    later(worker, clock, 10)
    assert memory.titles() == ["[warning] press-3: adaptation proposed"]
    raise_alert(store, decision, second)
    later(worker, clock, 10)
    assert memory.titles()[1:] == ["[resolved] press-3: adaptation proposed, resolved"]


def test_a_proposal_that_comes_with_the_decision_on_the_last_one_is_sent(
    store: Store, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, f'{AT_ONCE}kinds = ["adaptation_proposed"]\n'), memory)
    first, second = (str(uuid4()) for _ in range(2))
    raise_alert(store, AlertKind.ADAPTATION_PROPOSED, first, request={"request_id": first})
    work(worker)
    raise_alert(store, AlertKind.ADAPTATION_REFUSED, first)
    raise_alert(store, AlertKind.ADAPTATION_PROPOSED, second, at=START.replace(hour=7), request="of another make")
    work(worker)
    assert memory.titles() == ["[warning] press-3: adaptation proposed"] * 2


@pytest.mark.parametrize("kind", [kind for kind in AlertKind if ABOUT[kind].ending is Ending.NONE])
def test_a_kind_without_an_end_is_never_called_over(
    kind: AlertKind, store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, f'{AT_ONCE}repeat_after = "1h"\n'), memory)
    raise_alert(store, kind)
    work(worker)
    fitted(store)
    for _ in range(5):
        later(worker, clock, 3_600)
    assert len(memory.sent) == 1


def test_a_problem_that_ends_before_it_was_sent_becomes_one_message(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, f"{ROUTE}digest_seconds = 3600\n"), memory)
    raise_alert(store, AlertKind.BACKLOG)
    work(worker)
    later(worker, clock, SILENCE)
    assert memory.titles() == ["[resolved] press-3: backlog, resolved"]
    assert "It was: press-3: backlog 1." in memory.bodies()[0]


TWO = '[routes.all]\nto = ["memory:a", "memory:b"]\nseverity = "info"\ndigest_seconds = 0\n'


def test_a_dead_address_holds_no_other_up_and_gets_everything_in_order_when_it_is_back(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, TWO), memory)
    memory.dead.add("memory:a")
    for number in range(5):
        raise_alert(store, AlertKind.REJECT, str(number))
        later(worker, clock, 30)
    assert len(memory.titles("memory:b")) == 5
    assert memory.titles("memory:a") == []
    assert committed(store) == 0
    memory.dead.clear()
    later(worker, clock, 60)
    assert memory.bodies("memory:a") == memory.bodies("memory:b")
    assert committed(store) == 5


def test_a_dead_address_is_tried_again_with_growing_pauses(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, AT_ONCE), memory)
    memory.dead.add("memory:a")
    raise_alert(store, AlertKind.REJECT)
    tried: list[float] = []
    for tenth in range(2_000):
        before = len(memory.tries)
        work(worker)
        tried += [tenth / 10] * (len(memory.tries) - before)
        clock.advance(0.1)
    pauses = [after - before for before, after in pairwise(tried)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.5
    assert max(pauses) == pytest.approx(60, abs=0.2)


def test_what_waits_for_a_dead_address_has_a_bound_and_no_count_is_lost(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    worker = notify(store, routes_of(tmp_path, AT_ONCE), memory)
    memory.dead.add("memory:a")
    for number in range(300):
        raise_alert(store, AlertKind.REJECT, str(number), count=2)
        later(worker, clock, 61)
    stored = store.state.get("notify/0")
    assert stored is not None
    assert len(LedgerState.model_validate_json(stored).pending.popitem()[1]) <= 51
    memory.dead.clear()
    later(worker, clock, 61)
    counts = [int(body.split(" since")[0].rpartition(", ")[2]) for body in memory.bodies()]
    assert sum(counts) == 600
    assert memory.titles()[0] == "[info] press-3: reject, held back until now"


def test_a_restart_repeats_nothing_and_loses_nothing(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    routes = routes_of(tmp_path, TWO)
    memory.dead.add("memory:a")
    for number in range(8):
        raise_alert(store, AlertKind.REJECT, str(number))
        work(notify(store, routes, memory))
    assert len(memory.titles("memory:b")) == 8
    memory.dead.clear()
    later(notify(store, routes, memory), clock, 60)
    later(notify(store, routes, memory), clock, 60)
    assert len(memory.titles("memory:b")) == 8
    assert len(memory.titles("memory:a")) == 8


def test_state_that_is_lost_costs_repeated_messages_and_no_alert(
    tmp_path: Path, clock: SetClock, memory: Memory
) -> None:
    store = opened(tmp_path / "plant", clock)
    routes = routes_of(tmp_path, TWO)
    memory.dead.add("memory:a")
    for number in range(3):
        raise_alert(store, AlertKind.REJECT, str(number))
        work(notify(store, routes, memory))
    store.close()
    for path in (tmp_path / "plant").glob("state.db*"):
        path.unlink()
    store = opened(tmp_path / "plant", clock)
    memory.dead.clear()
    work(notify(store, routes, memory))
    assert sum(int(body.split(" since")[0].rpartition(", ")[2]) for body in memory.bodies("memory:a")) == 3
    assert sum(int(body.split(" since")[0].rpartition(", ")[2]) for body in memory.bodies("memory:b")) == 6


def test_state_of_a_version_that_knew_more_kinds_costs_no_alert(store: Store, memory: Memory, tmp_path: Path) -> None:
    problem = {"line": LINE, "kind": "unheard_of", "since": START, "at": START, "seen_at": START, "message": ""}
    state = LedgerState().model_dump() | {"position": 1, "problems": {"1": problem}}
    raise_alert(store, AlertKind.REJECT, "1")
    store.state.put("notify/0", json.dumps(state, default=str).encode(), 60)
    work(notify(store, routes_of(tmp_path, AT_ONCE), memory))
    assert len(memory.sent) == 1


def test_nothing_is_sent_before_it_is_kept(store: Store, clock: SetClock, memory: Memory, tmp_path: Path) -> None:
    away = Failing(store.state, ["put"], times=1_000)
    kept = Store(store.uri, store.log, store.objects, away, clock)
    worker = notify(kept, routes_of(tmp_path, AT_ONCE), memory)
    raise_alert(store, AlertKind.REJECT)
    for _ in range(10):
        worker.step()
        clock.advance(11)
    assert worker.error is not None
    assert memory.sent == []
    away.left = 0
    work(worker)
    assert memory.titles() == ["[info] press-3: reject"]


def test_a_delivery_that_cannot_be_recorded_is_not_made_again(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    away = Failing(store.state, ["put"], times=1)
    delivery = Delivery(memory, away, clock)
    worker = Worker(Notifying(store, routes_of(tmp_path, AT_ONCE), delivery), store.log, clock, 256)
    raise_alert(store, AlertKind.REJECT)
    work(worker)
    later(worker, clock, 60)
    assert away.left == 0
    assert len(memory.sent) == 1


@dataclass
class Dying:
    """The process dies at this write to its state, before it is there."""

    state: State
    at: int
    writes: int = 0

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        self.writes += 1
        if self.writes == self.at:
            raise KeyboardInterrupt
        self.state.put(key, value, ttl_seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)


@pytest.mark.parametrize(
    ("at", "sent"),
    [
        pytest.param(1, 1, id="before-the-alert-is-kept"),
        pytest.param(2, 1, id="before-the-message-is-kept"),
        pytest.param(3, 2, id="between-sending-and-recording"),
        pytest.param(4, 1, id="before-the-message-is-crossed-off"),
    ],
)
def test_a_process_that_dies_repeats_a_message_only_where_it_was_not_recorded(
    at: int, sent: int, store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    routes = routes_of(tmp_path, AT_ONCE)
    dying = Store(store.uri, store.log, store.objects, Dying(store.state, at), clock)
    raise_alert(store, AlertKind.REJECT)
    with pytest.raises(KeyboardInterrupt):
        work(notify(dying, routes, memory))
    for _ in range(2):
        later(notify(store, routes, memory), clock, 60)
    assert len(memory.sent) == sent
    assert committed(store) == 1


def test_what_sending_raises_ends_the_worker(store: Store, clock: SetClock, tmp_path: Path) -> None:
    class Broken(Memory):
        def send(self, address: str, title: str, body: str, severity: Severity | None) -> None:
            raise RuntimeError("a fault of our own")

    worker = notify(store, routes_of(tmp_path, AT_ONCE), Broken())
    raise_alert(store, AlertKind.REJECT)
    with pytest.raises(RuntimeError, match="a fault of our own"):
        work(worker)


def test_what_waits_for_an_address_that_is_no_longer_in_the_file_is_dropped(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    memory.dead.add("memory:a")
    raise_alert(store, AlertKind.REJECT)
    work(notify(store, routes_of(tmp_path, TWO), memory))
    assert committed(store) == 0
    work(notify(store, routes_of(tmp_path, TWO.replace('"memory:a", ', "")), memory))
    assert committed(store) == 1


def test_a_first_start_does_not_tell_what_a_plant_has_long_forgotten(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    raise_alert(store, AlertKind.REJECT, "old")
    clock.advance(2 * 3_600)
    raise_alert(store, AlertKind.REJECT, "new")
    work(notify(store, routes_of(tmp_path, AT_ONCE), memory))
    (body,) = memory.bodies()
    assert body.startswith("press-3: reject new.")
    assert "kind reject, 1 since" in body
    assert committed(store) == 2


def test_a_worker_that_was_away_for_days_tells_all_of_it(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    routes = routes_of(tmp_path, AT_ONCE)
    raise_alert(store, AlertKind.REJECT, "friday")
    work(notify(store, routes, memory))
    clock.advance(3_600)
    raise_alert(store, AlertKind.REJECT, "saturday")
    clock.advance(2 * 86_400)
    work(notify(store, routes, memory))
    assert len(memory.sent) == 2


def test_a_record_that_is_no_alert_is_a_dead_letter(store: Store, memory: Memory, tmp_path: Path) -> None:
    store.log.append([Outgoing(ALERTS, LINE, b"{}")])
    raise_alert(store, AlertKind.REJECT)
    work(notify(store, routes_of(tmp_path, AT_ONCE), memory))
    assert len(memory.sent) == 1
    assert "This is no alert" in str(records(store.log, DEAD_LETTERS)[0].headers)


def test_a_stop_tells_what_is_gathered_without_waiting(store: Store, memory: Memory, tmp_path: Path) -> None:
    worker = notify(store, routes_of(tmp_path), memory)
    raise_alert(store, AlertKind.REJECT)
    work(worker)
    assert memory.sent == []
    worker.flush()
    assert memory.titles() == ["[info] press-3: reject"]


def test_a_topic_that_was_made_anew_holds_back_no_commit_of_the_former_one(tmp_path: Path, clock: SetClock) -> None:
    ledger = Ledger(routes_of(tmp_path, f'{ROUTE}quiet = "05:00-08:00 UTC"\n'), LedgerState(topic_id="former"))
    for alert in alerts_of(tmp_path, clock, 2):
        ledger.take(10, clock.now(), alert)
    assert ledger.first_offset() == 10
    ledger.restart("new")
    assert ledger.first_offset() is None
    clock.advance(3 * 3_600)
    ledger.compose(clock.now())
    assert sum(len(waiting) for waiting in ledger.state.pending.values()) == 1


def alerts_of(folder: Path, clock: SetClock, number: int) -> list[Any]:
    with opened(folder / "other", clock) as store:
        for each in range(number):
            raise_alert(store, AlertKind.REJECT, str(each))
        return [Alert.decode(record.value) for record in records(store.log, ALERTS)]


def test_lines_that_somebody_invents_take_no_memory_without_bound(
    store: Store, clock: SetClock, memory: Memory, tmp_path: Path
) -> None:
    routes = routes_of(tmp_path, f'{ROUTE}quiet = "05:00-08:00 UTC"\ncritical_passes = false\n')
    worker = notify(store, routes, memory)
    for number in range(3_000):
        raise_alert(store, AlertKind.NO_GAUGE, line=f"line-{number}")
        raise_alert(store, AlertKind.REJECT, line=f"line-{number}")
    work(worker)
    later(worker, clock, GATHERED)
    stored = store.state.get("notify/0")
    assert stored is not None
    state = LedgerState.model_validate_json(stored)
    assert len(state.problems) <= 1_000
    assert len(state.held["all"]) <= 1_002
    assert sum(notice.count for notice in state.held["all"].values()) == 6_000
    later(worker, clock, 3 * 3_600)
    (sent,) = memory.sent
    assert "And 982 more" in sent.body


def test_a_plant_that_tells_nobody_has_no_group_for_it(store: Store, memory: Memory, tmp_path: Path) -> None:
    raise_alert(store, AlertKind.REJECT)
    assert Notifying.name not in {status.group for status in group_statuses(store)}
    work(notify(store, routes_of(tmp_path, AT_ONCE), memory))
    (status,) = (status for status in group_statuses(store) if status.group == Notifying.name)
    assert status.lag == 0
