"""Any instant that a camera can send."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowgauge.domain.buffer import to_evict
from flowgauge.domain.dead_letters import REASON
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.messages import (
    DEAD_LETTERS,
    IMAGES,
    Alert,
    AlertKind,
    Event,
    Verdict,
    from_epoch,
    header_text,
)
from flowgauge.domain.object_keys import image_object, verdicts_folder
from flowgauge.domain.ports import Buffered, Objects, Outgoing, Record
from flowgauge.local.objects import LocalObjects
from flowgauge.processors.alerting import Alerting
from flowgauge.processors.archive import Archive, archived, archived_days
from flowgauge.processors.observing import Observing
from flowgauge.processors.scoring import Scoring
from flowgauge.registry.gauges import Gauges
from flowgauge.registry.lines import set_line
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import Image, opened
from flowgauge.runtime.worker import Worker
from flowgauge.services.retention import PassRetention
from tests.support.long_runs import examples
from tests.support.shell import Shell
from tests.support.streaming import (
    LINE,
    START,
    SetClock,
    append_verdicts,
    fitted,
    load,
    png,
    records,
    verdict,
    verdicts,
)
from tests.support.streaming import opened as opened_store

DAY = 86_400.0
IMAGE = png(100)
FAR = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+01:00",
    "0001-01-01T00:00:00",
    "9999-12-31T23:59:59-05:00",
    "9999-12-31T23:59:59Z",
    "2099-01-01T00:00:00Z",
    "0",
    "-62135596800",
    "yesterday",
    "0000-00-00T00:00:00",
    "NaN",
    "1e400",
    "9" * 19,
]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return LocalObjects(tmp_path_factory.mktemp("objects"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return fitted(opened_store(tmp_path / "plant", SetClock()))


def send(store: Store, image_id: str, ce_time: str | None, seed: int = 0) -> None:
    headers = {"ce_id": image_id} | ({} if ce_time is None else {"ce_time": ce_time})
    store.log.append([Outgoing(IMAGES, LINE, png(100, seed), headers)])


def run(store: Store) -> None:
    """Score what is there, and let everything read the verdicts that reads them."""
    processors = (
        Scoring(store, Gauges(store.log, store.objects, load)),
        Alerting(store),
        Observing(store),
        Archive(store, rows=100),
    )
    for processor in processors:
        worker = Worker(processor, store.log, store.clock, 4)
        while worker.step():
            pass
        assert worker.error is None
        worker.flush()
    PassRetention(store).tidy()


def captured(ce_time: str) -> datetime:
    return Event.from_headers({"ce_id": "x", "ce_time": ce_time}, LINE, START).captured_at


def of_kind(store: Store, kind: AlertKind) -> list[Alert]:
    return [each for each in alerts(store.log) if each.kind is kind]


@pytest.mark.parametrize("ce_time", FAR)
def test_a_time_is_accepted_or_one_dead_letter_that_names_its_header_and_neighbours_are_scored(
    store: Store, ce_time: str
) -> None:
    set_line(store.objects, LINE, pass_retention_days=1, buffer_minimum=1)
    for seed, (image_id, time) in enumerate((("before", None), ("odd", ce_time), ("after", None))):
        send(store, image_id, time, seed)
    run(store)
    judged = {each.image_id for each in verdicts(store.log)}
    refused = [letter.headers[REASON] for letter in records(store.log, DEAD_LETTERS)]
    assert {"before", "after"} <= judged
    assert len(judged) + len(refused) == 3
    assert all("ce_time" in reason for reason in refused)
    assert {entry.image_id for entry in store.state.buffer(LINE)} == judged
    assert {each.image_id for each in archived(store.objects, LINE, START.date())} == judged


@pytest.mark.parametrize("ce_time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_line_that_only_ever_sends_an_unset_time_fills_buffer_and_archive_as_any_other(
    store: Store, ce_time: str
) -> None:
    for number in range(5):
        send(store, str(number), ce_time, number)
    run(store)
    assert len(store.state.buffer(LINE)) == 5
    assert archived_days(store.objects) == [START.date()]
    assert {str(each.image_uri).rpartition("images/")[2].split("/")[1] for each in verdicts(store.log)} == {
        START.date().isoformat()
    }


@pytest.mark.parametrize(
    "ce_time",
    [
        "2026-03-01T06:00:00",
        "2026-03-01 06:00:00",
        "2026-03-01T06:00:00Z",
        "2026-03-01T07:00:00+01:00",
        "1772344800",
        "1772344800.000",
        " 1772344800000 ",
        "1772344800000000",
        "1772344800000000000",
        "",
        " ",
    ],
)
def test_without_a_zone_a_time_is_utc_and_a_number_counts_since_1970_in_the_unit_of_its_size(ce_time: str) -> None:
    assert captured(ce_time) == START


def test_a_number_keeps_its_microseconds() -> None:
    assert captured("1772344800123456") == START + timedelta(microseconds=123_456)
    assert captured("1772344800.123456") == START + timedelta(microseconds=123_456)


def test_a_program_must_give_its_own_times_a_zone() -> None:
    with pytest.raises(ValueError, match="needs its zone"):
        Event(image_id="x", source="/", line=LINE, captured_at=datetime(2026, 3, 1))


def test_one_image_from_the_future_throws_no_other_out_of_the_buffer_and_one_alert_says_so(store: Store) -> None:
    for number in range(9):
        send(store, str(number), "2099-01-01T00:00:00Z" if number in (3, 4) else None, number)
    run(store)
    assert len(store.state.buffer(LINE)) == 9
    [alert] = of_kind(store, AlertKind.CLOCK_OFF)
    ahead = datetime(2099, 1, 1, tzinfo=UTC) - START
    assert (alert.line, alert.count, alert.detail["examples"]) == (LINE, 2, ["3", "4"])
    assert alert.detail["off_seconds"] == ahead.total_seconds()
    assert f"clock is {ahead} ahead" in alert.message


def test_a_clock_that_is_behind_is_reported_as_such_and_one_within_the_bound_is_not(store: Store) -> None:
    set_line(store.objects, LINE, clock_tolerance_seconds=60)
    for number, seconds in enumerate((-60, 60, -61)):
        send(store, str(number), (START + timedelta(seconds=seconds)).isoformat(), number)
    run(store)
    [alert] = of_kind(store, AlertKind.CLOCK_OFF)
    assert alert.detail["examples"] == ["2"]
    assert "clock is 0:01:01 behind" in alert.message
    assert [each.clock_off for each in verdicts(store.log)] == [False, False, True]


def test_drift_and_lateness_go_by_the_arrival_where_the_clock_is_off(store: Store) -> None:
    set_line(store.objects, LINE, deadline_seconds=5)
    send(store, "a", "0001-01-01T00:00:00Z")
    run(store)
    [found] = verdicts(store.log)
    assert (found.event_time, found.late) == (START, False)
    assert found.captured_at.year == 1


def entry(image_id: str, at: datetime) -> Buffered:
    return Buffered(image_id, f"store:///{image_id}", "ab", at, 1.0, "pass", "")


def test_a_buffer_that_already_holds_an_image_from_the_future_is_mended(store: Store) -> None:
    store.state.buffer_add(LINE, [entry("old", datetime(2099, 1, 1, tzinfo=UTC))], 400)
    for number in range(3):
        send(store, str(number), None, number)
    run(store)
    assert [each.image_id for each in store.state.buffer(LINE)] == ["0", "1", "2"]


def test_an_archive_that_already_holds_the_year_1_is_still_read(store: Store) -> None:
    append_verdicts(store.log, [verdict(0)])
    run(store)
    [name] = store.objects.names("verdicts/")
    store.objects.put(f"verdicts/date=1-01-01/{name.rpartition('/')[2]}", store.objects.get(name))
    assert [day.year for day in archived_days(store.objects)] == [1, 2026]
    assert len(list(archived(store.objects))) == 2


@given(st.lists(st.datetimes(timezones=st.just(UTC)), max_size=6), st.floats(1e-3, 3e9), st.floats(1e-3, 3e9))
def test_any_captures_in_any_buffer_are_tested_without_a_fault(
    times: list[datetime], age: float, tolerance: float
) -> None:
    held = [entry(str(number), at) for number, at in enumerate(sorted(times))]
    line = LineSettings(buffer_max_age_seconds=age, clock_tolerance_seconds=tolerance)
    gone = set(to_evict(held, line, START))
    for each in held:
        if (each.captured_at - START).total_seconds() > tolerance:
            assert each.image_uri in gone
        elif (each.captured_at - START).total_seconds() >= 0:
            assert each.image_uri not in gone


@given(st.one_of(st.datetimes().map(str), st.datetimes(timezones=st.timezones()).map(datetime.isoformat), st.text()))
def test_any_text_in_ce_time_is_an_instant_in_utc_or_a_refusal_that_names_it(empty: Objects, text: str) -> None:
    record = Record(IMAGES, 0, 0, LINE, IMAGE, {"ce_id": "x", "ce_time": text}, START)
    found = opened(record, empty)
    if isinstance(found, Image):
        at = found.event.captured_at
        assert at.utcoffset() == timedelta()
        assert image_object(LINE, at, "x").split("/")[2] == at.date().isoformat()
        assert datetime.fromisoformat(found.event.headers()["ce_time"]) == at
    else:
        assert "ce_time" in found.reason


@given(st.integers(-(10**19), 10**19))
def test_any_number_of_a_camera_is_an_instant(empty: Objects, number: int) -> None:
    record = Record(IMAGES, 0, 0, LINE, IMAGE, {"ce_id": "x", "ce_time": str(number)}, START)
    found = opened(record, empty)
    assert isinstance(found, Image) or "ce_time" in found.reason


@given(st.binary())
def test_any_bytes_in_ce_time_are_accepted_or_refused_by_name(empty: Objects, value: bytes) -> None:
    record = Record(IMAGES, 0, 0, LINE, IMAGE, {"ce_id": "x", "ce_time": header_text(value)}, START)
    found = opened(record, empty)
    assert isinstance(found, Image) or "ce_time" in found.reason


@given(st.floats(allow_nan=False))
def test_any_time_of_a_record_or_a_file_is_an_instant(seconds: float) -> None:
    assert from_epoch(seconds).utcoffset() == timedelta()


@given(st.datetimes(timezones=st.just(UTC)))
def test_any_instant_names_a_folder_that_reads_back(at: datetime) -> None:
    assert verdicts_folder(at.date()) == f"verdicts/date={at.year:04}-{at.month:02}-{at.day:02}/"


@given(st.datetimes(), st.datetimes())
def test_any_verdict_on_the_wire_is_read_or_refused(captured_at: datetime, arrived_at: datetime) -> None:
    hours = timedelta(hours=14)
    times = {"captured_at": f"{captured_at.isoformat()}+14:00", "arrived_at": f"{arrived_at.isoformat()}-14:00"}
    facts = verdict(0).model_dump(mode="json") | times
    if captured_at - datetime.min >= hours and datetime.max - arrived_at >= hours:
        assert Verdict.model_validate(facts).captured_at == (captured_at - hours).replace(tzinfo=UTC)
    else:
        with pytest.raises(ValueError, match="years 1 to 9999"):
            Verdict.model_validate(facts)


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.datetimes(timezones=st.just(UTC)), min_size=1, max_size=3))
def test_any_captures_go_through_the_whole_pipeline(
    tmp_path_factory: pytest.TempPathFactory, times: list[datetime]
) -> None:
    store = fitted(opened_store(tmp_path_factory.mktemp("plant"), SetClock()))
    for number, at in enumerate(times):
        send(store, str(number), at.isoformat(), number)
    run(store)
    assert len(verdicts(store.log)) == len(times)
    assert len(store.state.buffer(LINE)) == len(times)
    off = sum(abs((at - START).total_seconds()) > DAY for at in times)
    assert sum(alert.count for alert in of_kind(store, AlertKind.CLOCK_OFF)) == off


def test_the_command_says_which_clock_is_off_and_keeps_the_buffer(flowgauge: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(png(100, number))
    far = datetime(2099, 1, 1, tzinfo=UTC).timestamp()
    os.utime(folder / "3.png", (far, far))
    done = flowgauge("run", folder, "--line", LINE, "--store", tmp_path / "plant", "--once")
    assert done.code == 0
    assert "the camera's clock is" in done.out
    [line] = flowgauge("lines", "list", "--store", tmp_path / "plant", "--json").json
    assert line["buffered"] == 6
