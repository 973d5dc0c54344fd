from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import current_thread
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from flowgauge.domain.dead_letters import OFFSET, PARTITION, REASON, TOPIC
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import ALERTS, DEAD_LETTERS, IMAGES, VERDICTS, Alert, AlertKind, Decision, Verdict
from flowgauge.domain.ports import Log, Objects, Outgoing, Record
from flowgauge.local.log import LocalLog
from flowgauge.models.prediction import Prediction
from flowgauge.processors.scoring import NO_GAUGE, Scoring
from flowgauge.registry.gauges import Gauges
from flowgauge.registry.lines import set_line
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.events import image_record
from flowgauge.runtime.worker import Worker
from flowgauge.vision.decoding import Picture, SixteenBit, decode
from flowgauge.vision.heatmaps import heatmap_png
from tests.support.failing import Failing
from tests.support.files import encoded
from tests.support.streaming import (
    LINE,
    BrightnessGauge,
    SetClock,
    event,
    fitted,
    load,
    opened,
    png,
    records,
    send,
    verdicts,
)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return fitted(opened(tmp_path / "plant", clock))


def score(store: Store, batch: int = 16) -> Scoring:
    """A new scoring worker, as after a restart, works off what is there."""
    scoring = Scoring(store, Gauges(store.log, store.objects, load))
    worker = Worker(scoring, store.log, store.clock, batch)
    while worker.step():
        pass
    if worker.error is not None:
        raise worker.error
    return scoring


def reasons(store: Store) -> list[str]:
    return [letter.headers[REASON] for letter in records(store.log, DEAD_LETTERS)]


def raised(store: Store) -> list[Alert]:
    return [Alert.decode(record.value) for record in records(store.log, ALERTS)]


def test_every_image_gets_one_verdict_in_order_with_what_the_gauge_said(store: Store) -> None:
    send(store, [("good", png(100)), ("bright", png(200))])
    score(store)
    good, bright = verdicts(store.log)
    assert (good.image_id, good.decision, good.gauge_version) == ("good", Decision.PASS, "fit-1")
    assert (bright.image_id, bright.decision, bright.reasons) == ("bright", Decision.REJECT, ("too bright",))
    assert bright.score == pytest.approx(200, abs=3)
    assert [each.source.offset for each in (good, bright)] == [0, 1]
    assert good.image_sha256 == sha256(png(100)).hexdigest()


def test_verdicts_go_to_the_partition_of_their_images(tmp_path: Path, clock: SetClock) -> None:
    store = opened(tmp_path / "three", clock, partitions=3)
    for line in ("a", "b", "c", "d", "e"):
        fitted(store, line=line)
        send(store, [(f"{line}-1", png(100)), (f"{line}-2", png(100))], line=line)
    score(store)
    for partition in range(3):
        images = [record.offset for record in records(store.log, IMAGES, partition)]
        assert [each.source.offset for each in verdicts(store.log, partition)] == images
        assert {each.source.partition for each in verdicts(store.log, partition)} <= {partition}


def test_the_image_is_kept_for_all_and_the_heatmap_for_rejects(store: Store) -> None:
    send(store, [("good", png(100)), ("bright", png(200))])
    score(store)
    good, bright = verdicts(store.log)
    assert good.image_uri is not None
    assert store.objects.get(store.objects.name(good.image_uri)) == png(100)
    assert good.heatmap_uri is None
    assert bright.heatmap_uri is not None
    assert store.objects.get(store.objects.name(bright.heatmap_uri)).startswith(b"\x89PNG")


BAD = {
    "empty": b"",
    "truncated": png(100)[:60],
    "text": b"this is no image",
    "one pixel": png(100, side=1),
    "gif": b"GIF89a" + bytes(20),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_bad_image_is_a_dead_letter_and_its_neighbours_do_not_notice(store: Store, data: bytes) -> None:
    send(store, [("before", png(100)), ("bad", data), ("after", png(100))])
    score(store)
    assert [each.image_id for each in verdicts(store.log)] == ["before", "after"]
    assert [letter.value for letter in records(store.log, DEAD_LETTERS)] == [data]
    assert len(reasons(store)[0]) > 10


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [
        ({}, "ce_id"),
        ({"ce_id": "x", "ce_time": "yesterday"}, "ce_time"),
        ({"ce_id": "x" * 2000}, "ce_id"),
        ({"ce_id": ""}, "ce_id"),
    ],
)
def test_headers_that_describe_no_image_are_a_dead_letter(
    store: Store, headers: dict[str, str], complaint: str
) -> None:
    store.log.append([Outgoing(IMAGES, LINE, png(100), headers)])
    score(store)
    assert verdicts(store.log) == []
    assert complaint in reasons(store)[0]


def test_a_key_that_names_no_line_is_a_dead_letter(store: Store) -> None:
    store.log.append([Outgoing(IMAGES, "../etc", png(100), {"ce_id": "x"})])
    score(store)
    assert "cannot name a line" in reasons(store)[0]


def test_an_id_that_climbs_stays_in_its_folder(store: Store, tmp_path: Path) -> None:
    send(store, [("../../../escaped", png(200)), ("..", png(200))])
    score(store)
    assert len(verdicts(store.log)) == 2
    assert all((each.image_uri or "").startswith(f"store:///images/{LINE}/2026-03-01/") for each in verdicts(store.log))
    assert not list(tmp_path.rglob("escaped*"))


def test_an_event_that_is_sent_twice_is_skipped_and_counted(store: Store) -> None:
    send(store, [("x", png(100)), ("x", png(100)), ("y", png(100))])
    send(store, [("x", png(100))])
    assert score(store, batch=2).skipped == 2
    assert [each.image_id for each in verdicts(store.log)] == ["x", "y"]
    assert records(store.log, DEAD_LETTERS) == []


def test_duplicates_are_recognised_after_a_restart(store: Store) -> None:
    send(store, [("x", png(100))])
    score(store)
    send(store, [("x", png(100)), ("x", png(120))])
    assert score(store).skipped == 1
    assert len(verdicts(store.log)) == 1
    assert reasons(store) == ["Another image was sent under the same id."]


def test_the_same_id_with_other_bytes_is_a_dead_letter(store: Store) -> None:
    send(store, [("x", png(100)), ("x", png(120))])
    score(store)
    assert len(verdicts(store.log)) == 1
    assert reasons(store) == ["Another image was sent under the same id."]


def test_a_restart_goes_on_after_the_last_verdict_whatever_was_committed(store: Store) -> None:
    send(store, [("a", png(100)), ("b", png(100))])
    score(store)
    store.log.commit("scoring", IMAGES, 0, 0)
    score(store)
    assert [each.image_id for each in verdicts(store.log)] == ["a", "b"]


def test_dead_letter_after_the_last_verdict_are_not_repeated_at_a_restart(store: Store) -> None:
    send(store, [("a", png(100)), ("bad", b"no"), ("worse", b"")])
    score(store)
    score(store)
    assert len(reasons(store)) == 2


@pytest.mark.parametrize(
    "foreign",
    [
        Outgoing(VERDICTS, "x", b"no verdict", partition=0),
        Outgoing(DEAD_LETTERS, "x", b"of nobody", {TOPIC: IMAGES}, partition=0),
        Outgoing(DEAD_LETTERS, "x", b"of nobody", {TOPIC: IMAGES, PARTITION: "first", OFFSET: "last"}, partition=0),
    ],
)
def test_a_foreign_record_among_results_does_not_keep_a_worker_from_starting(store: Store, foreign: Outgoing) -> None:
    send(store, [("a", png(100)), ("bad", b"no")])
    score(store)
    store.log.append([foreign])
    send(store, [("b", png(100)), ("bad", b"no")])
    score(store)
    ours = [record for record in records(store.log, VERDICTS) if record.key == LINE]
    assert [Verdict.decode(record.value).image_id for record in ours] == ["a", "b"]


class Pages:
    """`log`, of which a read gives two records at most, as brokers give what fits into one fetch."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        return self._log.read(topic, partition, offset, min(limit, 2))


def test_a_restart_knows_all_results_though_a_read_gives_fewer(store: Store) -> None:
    send(store, [(str(number), png(100)) for number in range(5)] + [(f"bad-{number}", b"no") for number in range(5)])
    score(store)
    paged = replace(store, log=cast(Log, Pages(store.log)))
    score(paged)
    assert (len(verdicts(store.log)), len(reasons(store))) == (5, 5)


def test_images_that_expired_are_counted_from_the_last_that_was_read_be_it_a_dead_letter(store: Store) -> None:
    send(store, [("a", png(100)), ("bad", b"no"), ("worse", b"")])
    score(store)
    send(store, [("lost", png(100)), ("kept", png(100))])
    trim(store, before=4)
    score(store)
    [expired] = [each for each in alerts(store.log) if each.kind is AlertKind.RECORDS_EXPIRED]
    assert (expired.detail["first"], expired.detail["expired"]) == (3, 1)
    assert [each.image_id for each in verdicts(store.log)] == ["a", "kept"]


def trim(store: Store, before: int) -> None:
    assert isinstance(store.log, LocalLog)
    store.log.trim(IMAGES, 0, before)


def test_a_line_without_a_gauge_gets_reviews_without_scores(store: Store) -> None:
    send(store, [("x", png(100))], line="new")
    score(store)
    [review] = verdicts(store.log)
    assert (review.decision, review.reasons, review.score) == (Decision.REVIEW, (NO_GAUGE,), None)
    assert review.image_uri is not None


def test_lines_in_one_batch_are_each_tested_by_their_own_gauge(store: Store) -> None:
    fitted(store, "strict-1", threshold=90, line="strict")
    for line in (LINE, "strict", LINE):
        send(store, [(f"{line}-{store.log.end(IMAGES, 0)}", png(100))], line=line)
    score(store)
    assert [each.decision for each in verdicts(store.log)] == ["pass", "reject", "pass"]


def test_images_of_all_lines_in_a_batch_are_scored_in_one_call(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(store, "other-1", line="other")
    for line in (LINE, "other", "no-gauge", LINE):
        send(store, [(f"{line}-{store.log.end(IMAGES, 0)}", png(100))], line=line)
    calls: list[list[str]] = []
    plain = BrightnessGauge.predict_each

    def counted(self: BrightnessGauge, items: Sequence[tuple[BrightnessGauge, Picture]]) -> list[Prediction]:
        calls.append([gauge.version for gauge, _ in items])
        return plain(self, items)

    monkeypatch.setattr(BrightnessGauge, "predict_each", counted)
    score(store)
    assert calls == [["fit-1", "other-1", "fit-1"]]
    assert [each.gauge_version for each in verdicts(store.log)] == ["fit-1", "other-1", None, "fit-1"]


def test_a_gauge_is_swapped_between_two_batches(store: Store) -> None:
    send(store, [("a", png(100))])
    score(store)
    fitted(store, "fit-2", threshold=50)
    send(store, [("b", png(100))])
    score(store)
    assert [each.gauge_version for each in verdicts(store.log)] == ["fit-1", "fit-2"]


def test_a_verdict_past_the_deadline_is_late(store: Store, clock: SetClock) -> None:
    set_line(store.objects, LINE, deadline_seconds=5)
    send(store, [("in time", png(100))])
    score(store)
    send(store, [("late", png(100))])
    clock.advance(6)
    score(store)
    assert [each.late for each in verdicts(store.log)] == [False, True]


def test_a_backlog_that_outgrows_the_deadline_is_reported_once_in_a_window(store: Store, clock: SetClock) -> None:
    set_line(store.objects, LINE, deadline_seconds=5)
    send(store, [("in time", png(100))])
    clock.advance(5)
    score(store)
    assert raised(store) == []
    send(store, [(str(number), png(100)) for number in range(10)])
    clock.advance(12.5)
    score(store, batch=4)
    [backlog] = raised(store)
    assert (backlog.kind, backlog.line) == (AlertKind.BACKLOG, LINE)
    assert "images wait 12.5 s to be scored, longer than the line's deadline of 5 s, and 6 more wait" in backlog.message
    assert backlog.detail == {"waited_seconds": 12.5, "deadline_seconds": 5.0, "behind": 6}


def test_a_backlog_is_reported_of_each_line_with_a_deadline_and_says_what_to_do(
    tmp_path: Path, clock: SetClock
) -> None:
    store = opened(tmp_path / "two", clock, partitions=2)
    for line, deadline in (("quick", 1), ("slow", 60), ("patient", None)):
        set_line(store.objects, line, deadline_seconds=deadline)
        store.log.append([replace(image_record(event(line, line), png(100)), partition=1)])
    clock.advance(30)
    score(store)
    alerts = [Alert.decode(record.value) for record in [*records(store.log, ALERTS, 0), *records(store.log, ALERTS, 1)]]
    assert [(each.line, each.kind) for each in alerts] == [("quick", AlertKind.BACKLOG)]
    assert "Start more scoring workers" in alerts[0].message


def test_an_end_that_cannot_be_read_costs_no_verdict(store: Store, clock: SetClock) -> None:
    set_line(store.objects, LINE, deadline_seconds=5)
    send(store, [("a", png(100)), ("b", png(100))])
    clock.advance(9)
    log = Failing(store.log, ["end"], times=0)
    scoring = Scoring(Store(store.uri, log, store.objects, store.state, clock), Gauges(store.log, store.objects, load))
    worker = Worker(scoring, store.log, clock, 16)
    scoring.start_offset(IMAGES, 0, 0)
    log.left = 2
    for _ in range(6):
        worker.step()
        clock.advance(20)
    assert [each.image_id for each in verdicts(store.log)] == ["a", "b"]
    assert [each.kind for each in raised(store)] == [AlertKind.BACKLOG]


def test_each_line_that_waits_has_its_alert_though_an_end_cannot_be_read(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path / "both", clock, partitions=2)
    for partition, line in enumerate(("a", "b")):
        set_line(store.objects, line, deadline_seconds=5)
        record = image_record(event("1", line, at=clock.now()), png(100))
        store.log.append([replace(record, partition=partition)])
    clock.advance(9)
    scoring = Scoring(store, Gauges(store.log, store.objects, load))
    for partition in (0, 1):
        scoring.start_offset(IMAGES, partition, 0)
    batch = [*store.log.read(IMAGES, 0, 0, 1), *store.log.read(IMAGES, 1, 0, 1)]
    plain, asked = store.log.end, list[int]()

    def second_is_away(topic: str, partition: int) -> int:
        asked.append(partition)
        if len(asked) == 2:
            raise Unavailable("It is away.", "Wait.")
        return plain(topic, partition)

    monkeypatch.setattr(store.log, "end", second_is_away)
    with pytest.raises(Unavailable):
        scoring.process(batch)
    alerts = [Alert.decode(each.value) for each in scoring.process(batch) if each.topic == ALERTS]
    assert [each.line for each in alerts if each.kind is AlertKind.BACKLOG] == ["a", "b"]


def test_a_sixteen_bit_image_becomes_what_its_gauge_sees_on_the_decoding_threads(store: Store) -> None:
    converted: list[str] = []

    class TwelveBit(BrightnessGauge):
        def seen(self, picture: Picture) -> Picture:
            if picture.sixteen_bit is not SixteenBit.TWELVE_BIT:
                converted.append(current_thread().name)
            return picture.by(SixteenBit.TWELVE_BIT)

    def twelve_bit(manifest: bytes, weights: bytes) -> TwelveBit:
        return TwelveBit(**vars(load(manifest, weights)))

    deep = encoded(Image.fromarray(np.full((16, 16), 2_048, np.uint16)), "TIFF")
    with ThreadPoolExecutor(2, thread_name_prefix="decode") as decoders:
        scoring = Scoring(store, Gauges(store.log, store.objects, twelve_bit), decoders)
        worker = Worker(scoring, store.log, store.clock, 16)
        send(store, [("before its gauge is in memory", deep)])
        worker.step()
        converted.clear()
        send(store, [(str(number), deep) for number in range(4)])
        scoring.prefetch(records(store.log, IMAGES)[1:])
        worker.step()
    assert [each.score for each in verdicts(store.log)] == [128.0] * 5
    assert len(converted) == 4
    assert all(name.startswith("decode") for name in converted)


def test_an_image_that_must_not_train_says_so_in_its_verdict(store: Store) -> None:
    send(store, [("judge", png(100))], use_for_training=False)
    score(store)
    assert not verdicts(store.log)[0].use_for_training


@pytest.mark.parametrize("full", [True, False])
def test_a_store_that_is_away_does_not_stop_scoring_and_is_reported_once(
    store: Store, clock: SetClock, full: bool
) -> None:
    send(store, [(name, png(200)) for name in "abc"])
    objects = Failing(store.objects, ["put"], 1_000, full)
    broken = Store(store.uri, store.log, objects, store.state, store.clock)
    worker = Worker(Scoring(broken, Gauges(store.log, store.objects, load)), store.log, clock, 1)
    for _ in range(6):
        worker.step()
        clock.advance(1)
    assert [each.decision for each in verdicts(store.log)] == ["reject"] * 3
    assert [each.kind for each in raised(store)] == [AlertKind.STORE_UNAVAILABLE]
    assert kept(store) == []
    assert store.log.position("scoring", IMAGES, 0) == 0, "a restart would not know what is owed"

    objects.left = 0
    clock.advance(20)
    worker.step()
    assert kept(store) == ["a", "b", "c", "a.png", "b.png", "c.png"]
    assert store.log.position("scoring", IMAGES, 0) == 3


def test_what_was_pending_when_a_worker_was_killed_is_stored_by_the_next(store: Store, clock: SetClock) -> None:
    send(store, [("good", png(100)), ("bright", png(200))])
    away = Failing(store.objects, ["put"], 1_000)
    broken = Store(store.uri, store.log, away, store.state, store.clock)
    Worker(Scoring(broken, Gauges(store.log, store.objects, load)), store.log, clock, 16).step()
    assert (len(verdicts(store.log)), kept(store)) == (2, [])

    fitted(store, "fit-2", threshold=500)
    score(store)
    assert kept(store) == ["bright", "good", "bright.png"]
    assert len(verdicts(store.log)) == 2
    (heatmap,) = store.objects.names("heatmaps/")
    (prediction,) = BrightnessGauge(LINE, "fit-1", 150).predict([decode(png(200))])
    expected = heatmap_png(decode(png(200)), prediction.anomaly_map, prediction.map_ceiling)
    assert store.objects.get(heatmap) == expected, "it is not that of the gauge that rejected the image"


def test_what_two_workers_believed_to_be_theirs_is_stored_by_the_next(store: Store, clock: SetClock) -> None:
    send(store, [("bright", png(200))])
    away = Failing(store.objects, ["put"], 1_000)
    broken = Store(store.uri, store.log, away, store.state, store.clock)
    Worker(Scoring(broken, Gauges(store.log, store.objects, load)), store.log, clock, 16).step()
    (written,) = records(store.log, VERDICTS)
    store.log.append([Outgoing(VERDICTS, LINE, written.value, partition=0)])
    score(store)
    assert kept(store) == ["bright", "bright.png"]
    assert store.log.position("scoring", IMAGES, 0) == 1


def test_what_has_no_room_in_memory_is_read_again_from_the_log(store: Store, clock: SetClock) -> None:
    send(store, [(f"{number:02d}", png(200)) for number in range(40)])
    objects = Failing(store.objects, ["put"], 1)
    broken = Store(store.uri, store.log, objects, store.state, store.clock)
    scoring = Scoring(broken, Gauges(store.log, store.objects, load), room_bytes=1_000)
    worker = Worker(scoring, store.log, clock, 40)
    worker.step()
    assert scoring.artifacts.outbox.size < 3_000
    assert scoring.artifacts.pending == 40
    for _ in range(50):
        clock.advance(1)
        worker.step()
    assert scoring.artifacts.pending == 0
    assert len(kept(store)) == 80


def test_uploaders_store_beside_scoring(store: Store) -> None:
    send(store, [(f"{number:02d}", png(200)) for number in range(20)])
    with ThreadPoolExecutor(4) as uploaders:
        scoring = Scoring(store, Gauges(store.log, store.objects, load), uploaders=uploaders)
        worker = Worker(scoring, store.log, store.clock, 4)
        while worker.step():
            pass
        worker.flush()
        assert len(kept(store)) == 40
        worker.step()
        assert store.log.position("scoring", IMAGES, 0) == 20


class Broken:
    """Objects with a fault of ours in `put`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def put(self, name: str, data: bytes, tags: Mapping[str, str] | None = None) -> str:
        raise ZeroDivisionError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)


def test_a_fault_of_ours_in_an_uploader_ends_the_worker(store: Store) -> None:
    send(store, [("x", png(100))])
    objects: Any = Broken(store.objects)
    with ThreadPoolExecutor(1) as uploaders:
        broken = Store(store.uri, store.log, objects, store.state, store.clock)
        worker = Worker(
            Scoring(broken, Gauges(store.log, store.objects, load), uploaders=uploaders), store.log, store.clock, 4
        )
        worker.step()
        with pytest.raises(ZeroDivisionError):
            worker.flush()


def kept(store: Store) -> list[str]:
    """The names of the images and heatmaps in the store, without their folders."""
    return [name.rpartition("/")[2] for prefix in ("images/", "heatmaps/") for name in store.objects.names(prefix)]


def claim(store: Store, data: bytes, uri: str | None = None, digest: str | None = None) -> Outgoing:
    claimed = {
        "ce_dataref": uri or store.objects.put("images/press-3/2026-03-01/large", data),
        "ce_datasha256": digest or sha256(data).hexdigest(),
        "ce_datasize": str(len(data)),
    }
    return Outgoing(IMAGES, LINE, b"", event("large").headers() | claimed)


def test_a_claim_check_is_fetched_from_our_store(store: Store) -> None:
    store.log.append([claim(store, png(200))])
    score(store)
    assert verdicts(store.log)[0].decision is Decision.REJECT
    assert verdicts(store.log)[0].image_uri == "store:///images/press-3/2026-03-01/large"


def test_a_claim_check_elsewhere_or_with_other_bytes_is_a_dead_letter(store: Store) -> None:
    foreign = claim(store, png(1), uri="https://elsewhere/x")
    absent = claim(store, png(1), uri="store:///images/absent")
    wrong = claim(store, png(1), digest="00")
    store.log.append([foreign, absent, wrong])
    score(store)
    assert verdicts(store.log) == []
    assert [("no object" in reason, "datasha256" in reason) for reason in reasons(store)] == [
        (True, False),
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ("1", "not what ce_datasize says"),
        ("9" * 5000, "not what ce_datasize says"),
        (None, "not what ce_datasize says"),
        ("999999999999", "ce_datasize announces 999999999999 bytes, more than the limit of 512000000"),
    ],
)
def test_a_claim_check_is_read_only_as_far_as_was_announced(store: Store, size: str | None, reason: str) -> None:
    sent = claim(store, png(1))
    headers = {name: value for name, value in sent.headers.items() if name != "ce_datasize"}
    store.log.append([replace(sent, headers=headers if size is None else headers | {"ce_datasize": size})])
    score(store)
    assert reason in reasons(store)[0]
    assert verdicts(store.log) == []


def test_a_claim_check_waits_for_a_store_that_is_away(store: Store, clock: SetClock) -> None:
    store.log.append([claim(store, png(100))])
    objects = Failing(store.objects, ["get"], times=0)
    broken = Store(store.uri, store.log, objects, store.state, store.clock)
    worker = Worker(Scoring(broken, Gauges(store.log, store.objects, load)), store.log, clock, 16)
    objects.left = 5  # the line's settings are asked for in between
    for _ in range(8):
        worker.step()
        clock.advance(20)
    assert len(verdicts(store.log)) == 1
    assert records(store.log, DEAD_LETTERS) == []


def test_images_of_several_partitions_are_predicted_together_and_each_has_its_verdict_in_its_own(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path / "shared", clock, partitions=2)
    together: list[int] = []
    plain = BrightnessGauge.predict_each

    def counted(self: BrightnessGauge, items: Sequence[tuple[BrightnessGauge, Picture]]) -> list[Prediction]:
        together.append(len(items))
        return plain(self, items)

    monkeypatch.setattr(BrightnessGauge, "predict_each", counted)
    for line in ("a", "b"):
        fitted(store, line=line)
    sent = [("a", "1", 0, png(100)), ("b", "1", 1, png(200)), ("b", "2", 1, b"no image"), ("a", "1", 0, png(100))]
    for line, image_id, partition, data in sent:
        record = image_record(event(image_id, line, at=clock.now()), data)
        store.log.append([replace(record, partition=partition)])
    scoring = Scoring(store, Gauges(store.log, store.objects, load))
    for partition in (0, 1):
        scoring.start_offset(IMAGES, partition, 0)
    first, second = (store.log.read(IMAGES, partition, 0, 10) for partition in (0, 1))
    outgoing = scoring.process([first[0], second[0], first[1], second[1]])
    assert together == [2]
    made = [(each.partition, Verdict.decode(each.value).decision) for each in outgoing if each.topic == VERDICTS]
    assert made == [(0, Decision.PASS), (1, Decision.REJECT)]
    assert [each.partition for each in outgoing if each.topic == DEAD_LETTERS] == [1]
    assert scoring.skipped == 1
