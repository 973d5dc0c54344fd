from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as running
from hypothesis import strategies as st
from pydantic import ValidationError

from flowgauge.domain import parts as domain
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.lines import LineSettings
from flowgauge.domain.messages import ALERTS, IMAGES, PART_VERDICTS, VERDICTS, AlertKind, Decision, Verdict
from flowgauge.domain.parts import part_decision
from flowgauge.domain.ports import Outgoing
from flowgauge.processors.alerting import Alerting
from flowgauge.processors.parts import Parts
from flowgauge.registry.lines import set_line
from flowgauge.runtime.alerts import alerts
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.services.overview import Overview
from tests.support.failing import Failing
from tests.support.long_runs import examples
from tests.support.part_verdicts import PARTS, SECONDS, part_verdicts, summary, view, wanted
from tests.support.shell import Shell
from tests.support.streaming import LINE, START, SetClock, append_verdicts, opened, records

P, J, V = Decision.PASS, Decision.REJECT, Decision.REVIEW


class Time:
    """Our own clock, which only measures how long nothing came."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    store = opened(tmp_path, clock)
    set_line(store.objects, LINE, **PARTS)
    return store


def worker(store: Store, time: Callable[[], float] = lambda: 0.0, batch: int = 16) -> Worker:
    return Worker(Parts(store, time), store.log, store.clock, batch)


def work(worker: Worker) -> None:
    while worker.step():
        pass
    assert worker.error is None


def decided(store: Store) -> list[tuple[str, Decision]]:
    return [(each.subject, each.decision) for each in part_verdicts(store.log)]


@pytest.mark.parametrize(
    ("decisions", "rejects", "decision", "reasons"),
    [
        ([P, P, P], 1, P, ()),
        ([P, J, P], 1, J, ("1 of 3 views is rejected.",)),
        ([P, J, P], 2, P, ()),
        ([J, J, P], 2, J, ("2 of 3 views are rejected.",)),
        ([P, V, P], 1, V, ("1 of 3 views is for review.",)),
        ([P, V, P], 2, P, ()),
        ([J, V, P], 2, V, ("1 of 3 views is rejected.", "1 of 3 views is for review.")),
        ([P, P], 1, V, ("1 of 3 views is missing.",)),
        ([P], 3, V, ("2 of 3 views are missing.",)),
        ([J, P], 1, J, ("1 of 3 views is rejected.", "1 of 3 views is missing.")),
        ([J, P], 2, V, ("1 of 3 views is rejected.", "1 of 3 views is missing.")),
    ],
)
def test_the_rule(decisions: list[Decision], rejects: int, decision: Decision, reasons: tuple[str, ...]) -> None:
    assert part_decision(decisions, 3, rejects) == (decision, reasons)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"part_views": 2, "part_rejects": 3}, "part_rejects (3) exceeds part_views (2)"),
        ({"part_seconds": 60, "part_repeat_seconds": 30}, "part_repeat_seconds (30) is less than part_seconds (60)"),
        ({"part_view_pattern": "top|side"}, "has 0 groups"),
        ({"part_view_pattern": "(top"}, "is no regular expression"),
        ({"part_views": 65}, "less than or equal to 64"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint.replace("(", r"\(").replace(")", r"\)")):
        LineSettings(**changes)


def test_a_part_is_decided_with_its_last_view(store: Store) -> None:
    append_verdicts(store.log, [view(0, "A", 0), view(1, "A", 1)])
    parts = worker(store)
    work(parts)
    assert decided(store) == []
    append_verdicts(store.log, [view(2, "A", 2, J, seconds=3)])
    work(parts)
    (part,) = part_verdicts(store.log)
    assert (part.decision, part.reasons) == (J, ("1 of 3 views is rejected.",))
    assert [each.image_id for each in part.views] == ["A-0", "A-1", "A-2"]
    assert (part.opened_at, part.decided_at) == (START, START + timedelta(seconds=3))
    assert store.log.position("parts", VERDICTS, 0) == 3


def test_nothing_comes_of_a_line_without_parts_or_an_image_without_a_serial(store: Store) -> None:
    append_verdicts(store.log, [view(n, None, n) for n in range(3)])
    append_verdicts(store.log, [view(3 + n, "A", n, line="other") for n in range(3)])
    work(worker(store))
    assert decided(store) == []
    assert store.log.position("parts", VERDICTS, 0) == 6


def test_a_view_that_is_repeated_counts_once_and_its_worse_decision_holds(store: Store) -> None:
    append_verdicts(store.log, [view(0, "A", 0), view(1, "A", 0, J), view(2, "A", 0), view(3, "A", 1)])
    parts = worker(store)
    work(parts)
    assert decided(store) == []
    append_verdicts(store.log, [view(4, "A", 2)])
    work(parts)
    assert decided(store) == [("A", J)]


def test_a_pattern_finds_the_view_in_the_image_id(store: Store) -> None:
    set_line(store.objects, LINE, part_view_pattern="-([0-9])")
    shots = [view(n, "A", number) for n, number in enumerate((0, 10, 1, 2))]  # A-10 is another shot of view 1
    append_verdicts(store.log, shots[:3])
    parts = worker(store)
    work(parts)
    assert decided(store) == []
    append_verdicts(store.log, shots[3:])
    work(parts)
    (part,) = part_verdicts(store.log)
    assert [(each.name, each.image_id) for each in part.views] == [("0", "A-0"), ("1", "A-10"), ("2", "A-2")]


def test_a_missing_view_leaves_the_part_to_a_person_once_a_later_image_has_come(store: Store) -> None:
    append_verdicts(store.log, [view(0, "A", 0), view(1, "A", 1), view(2, "B", 0, seconds=SECONDS)])
    parts = worker(store)
    work(parts)
    assert decided(store) == [], "an image that came just in time could still be A's"
    append_verdicts(store.log, [view(3, "B", 1, seconds=SECONDS + 1)])
    work(parts)
    assert decided(store) == [("A", V)]
    assert part_verdicts(store.log)[0].decided_at == START + timedelta(seconds=SECONDS)


def test_a_line_that_stops_has_its_last_part_decided_and_what_comes_later_changes_nothing(store: Store) -> None:
    time = Time()
    append_verdicts(store.log, [view(0, "A", 0)])
    parts = worker(store, time)
    work(parts)
    time.seconds = SECONDS + 5
    work(parts)
    assert decided(store) == [], "a broker may show a record some seconds after its time"
    time.seconds = SECONDS + 6
    work(parts)
    assert decided(store) == [("A", V)]
    append_verdicts(store.log, [view(1, "A", 1, seconds=20), view(2, "B", 0, seconds=200)])
    work(parts)
    work(worker(store))
    assert decided(store) == [("A", V)]


def test_no_part_is_given_up_while_images_wait_to_be_scored(store: Store) -> None:
    time = Time()
    append_verdicts(store.log, [view(0, "A", 0)])
    store.log.append([Outgoing(IMAGES, LINE, b"", partition=0)] * 2)  # the second is not scored yet
    parts = worker(store, time)
    work(parts)
    time.seconds = 1_000
    work(parts)
    assert decided(store) == []
    store.log.commit("scoring", IMAGES, 0, 2)  # it was a dead letter
    work(parts)
    assert decided(store) == [("A", V)]


def test_a_late_view_is_counted_and_makes_no_second_part(store: Store, clock: SetClock) -> None:
    append_verdicts(store.log, [view(n, "A", n) for n in range(3)])
    append_verdicts(store.log, [view(n, "A", n, J, seconds=n) for n in range(3, 8)])
    parts = worker(store)
    work(parts)
    clock.advance(66)
    work(parts)
    assert decided(store) == [("A", P)]
    (late,) = alerts(store.log)
    assert (late.kind, late.count, late.detail["examples"][0]) == (AlertKind.LATE_VIEW, 5, "A-3 (reject)")
    assert len(records(store.log, ALERTS)) == 2


def test_a_serial_that_comes_again_later_is_a_new_part(store: Store) -> None:
    for round_, seconds in enumerate((0, 61)):
        append_verdicts(store.log, [view(3 * round_ + n, "A", n, seconds=seconds) for n in range(3)])
    work(worker(store))
    assert decided(store) == [("A", P)] * 2
    assert len({each.part_id for each in part_verdicts(store.log)}) == 2
    assert alerts(store.log) == []


def test_a_restart_reads_open_parts_again_and_repeats_nothing(store: Store) -> None:
    append_verdicts(store.log, [view(0, "A", 0), *(view(1 + n, "B", n) for n in range(3)), view(4, "A", 1)])
    work(worker(store))
    assert store.log.position("parts", VERDICTS, 0) == 0
    append_verdicts(store.log, [view(5, "A", 2), view(6, "B", 7)])
    work(worker(store))
    assert decided(store) == [("B", P), ("A", P)]
    assert len(records(store.log, PART_VERDICTS)) == 2
    assert [each.kind for each in alerts(store.log)] == [AlertKind.LATE_VIEW]


def test_a_commit_that_was_lost_costs_nothing(store: Store) -> None:
    append_verdicts(store.log, [view(n, f"S{n // 3}", n % 3) for n in range(30)])
    append_verdicts(store.log, [view(30, "A", 0)])
    work(worker(store))
    store.log.commit("parts", VERDICTS, 0, 0)
    parts = Parts(store)
    assert parts.start_offset(VERDICTS, 0, 0) == 30, "the last part verdict knows which parts were open"
    append_verdicts(store.log, [view(31, "A", 1), view(32, "A", 2)])
    work(worker(store))
    assert len(records(store.log, PART_VERDICTS)) == 11


def test_what_is_written_stands_whatever_has_been_set_since(store: Store) -> None:
    append_verdicts(store.log, [view(0, "X", 0), *(view(1 + n, "A", n) for n in range(3)), view(4, "A", 3)])
    work(worker(store))
    set_line(store.objects, LINE, part_views=4)
    work(worker(store))
    assert decided(store) == [("A", P)]


def test_a_flood_of_serials_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "_MOST_OPEN", 5)
    append_verdicts(store.log, [view(n, f"S{n}", 0) for n in range(8)])
    work(worker(store))
    assert decided(store) == [(f"S{n}", V) for n in range(3)]
    assert part_verdicts(store.log)[0].reasons[-1] == "More than 5 parts wait for views."


def test_settings_that_cannot_be_read_hold_parts_up_and_lose_no_view(store: Store) -> None:
    append_verdicts(store.log, [view(n, "A", n) for n in range(3)])
    away = Failing(store.objects, ["get"])
    parts = worker(replace(store, objects=away))
    assert parts.step() == 0
    assert isinstance(parts.error, Unavailable)
    assert decided(store) == []
    work(worker(store))
    assert decided(store) == [("A", P)]


def test_a_topic_of_verdicts_that_was_made_anew_begins_a_new_generation(store: Store) -> None:
    append_verdicts(store.log, [view(n, "A", n) for n in range(3)])
    work(worker(store))
    (first,) = part_verdicts(store.log)
    later = first.model_copy(update={"source": first.source.model_copy(update={"offset": 1_000})})
    store.log.append([Outgoing(PART_VERDICTS, LINE, later.encode(), partition=0)])
    store.log.commit("parts", VERDICTS, 0, 1_000)
    append_verdicts(store.log, [view(3 + n, "B", n) for n in range(3)])
    work(worker(store))
    assert decided(store)[-1] == ("B", P)


def test_alerts_tell_of_parts_and_not_of_their_views(store: Store, clock: SetClock) -> None:
    append_verdicts(store.log, [view(n, "A", n, J) for n in range(3)])
    append_verdicts(store.log, [view(3, None, 3, J)])
    work(worker(store))
    work(Worker(Alerting(store), store.log, store.clock, 16))
    messages = {each.message for each in alerts(store.log)}
    assert messages == {
        f"{LINE}: 1 of its parts rejected, the first is A.",
        f"{LINE}: 1 rejected, the first is None-3.",
    }
    (of_part,) = (each for each in alerts(store.log) if "part_id" in each.detail)
    assert of_part.detail["rejected_views"] == ["A-0", "A-1", "A-2"]


def test_the_command_lists_the_latest_parts_of_a_line_and_their_views(
    store: Store, tmp_path: Path, flowgauge: Shell
) -> None:
    set_line(store.objects, "other", **PARTS)
    append_verdicts(store.log, [view(n, f"S{n // 3}", n % 3, J if n == 0 else P) for n in range(9)])
    append_verdicts(store.log, [view(9 + n, "X", n, line="other") for n in range(3)])
    work(worker(store))
    found = flowgauge("parts", "list", "--line", LINE, "--limit", 2, "--store", tmp_path, "--json").json
    assert [(part["subject"], part["decision"], len(part["views"])) for part in found] == [
        ("S1", "pass", 3),
        ("S2", "pass", 3),
    ]
    shown = flowgauge("parts", "list", "--store", tmp_path).out
    assert "S0-0 reject, S0-1 pass" in shown
    assert "1 of 3 views is rejected." in shown
    assert "other" in shown


def test_the_console_counts_parts_and_finds_the_other_views_of_one(store: Store) -> None:
    overview = Overview(store)
    views = [view(n, f"S{n // 3}", n % 3, J if n == 4 else P) for n in range(6)]
    append_verdicts(store.log, views)
    work(worker(store))
    overview.refresh()
    assert overview.summary(LINE).parts == {P: 1, J: 1}
    part = overview.part_of(views[5].verdict_id)
    assert part is not None
    assert [each.image_id for each in part.views] == ["S1-0", "S1-1", "S1-2"]
    assert overview.part_of(view(9, "unknown").verdict_id) is None


class History:
    """A log that grows, and workers on it that end anywhere, or lose the partition with a batch in hand and write it
    later."""

    def __init__(self, store: Store, verdicts: Sequence[Verdict]) -> None:
        self.store = store
        self.time = Time()
        self._coming = list(verdicts)
        self._frozen: list[list[Outgoing]] = []
        self._start()

    def _start(self) -> None:
        self._processor = Parts(self.store, self.time)
        self._position = self._processor.start_offset(VERDICTS, 0, self.store.log.position("parts", VERDICTS, 0))

    @property
    def behind(self) -> bool:
        return self._position < self.store.log.end(VERDICTS, 0)

    def grow(self, count: int, again: bool) -> None:
        """`again`: a worker that had lost its partition repeats the last two verdicts of it."""
        new, self._coming = self._coming[:count], self._coming[count:]
        append_verdicts(self.store.log, new + (new[-2:] if again else []))

    def step(self, batch: int, end: str, kept: int) -> None:
        log = self.store.log
        found = log.read(VERDICTS, 0, self._position, batch)
        if found:
            last = Verdict.decode(found[-1].value).arrived_at
            assert last is not None
            self.time.seconds = max(self.time.seconds, (last - START).total_seconds())
            self._deliver(self._processor.process(found), end, kept)
            if end == "":
                self._position = found[-1].offset + 1
        else:
            # as long as nothing comes: up to just before the next image arrives
            if self._coming and self._coming[0].arrived_at is not None:
                self.time.seconds = max(self.time.seconds, (self._coming[0].arrived_at - START).total_seconds() - 0.001)
            else:
                self.time.seconds += 1_000
            self._deliver(self._processor.punctuate(START), end, kept)
        safe = self._processor.committable_offset(VERDICTS, 0, self._position)
        if end == "" and safe != log.position("parts", VERDICTS, 0):
            log.commit("parts", VERDICTS, 0, safe)

    def _deliver(self, made: list[Outgoing], end: str, kept: int) -> None:
        if end == "killed":
            self.store.log.append(made[:kept])
        elif end == "frozen":
            self._frozen.append(made)
        else:
            self.store.log.append(made)
        if end:
            self._start()

    def flush(self) -> None:
        self.store.log.append(self._processor.flush())

    def thaw(self) -> None:
        for made in self._frozen:
            self.store.log.append(made)
        self._frozen = []


VIEWS = st.tuples(
    st.sampled_from("ABCD"),
    st.integers(0, 3),
    st.sampled_from([P, P, J, V]),
    st.sampled_from([0.0, 0.5, 1.0, 3.0, 11.0, 30.0, 70.0]),
)
DEEDS = st.one_of(
    st.tuples(st.just("grow"), st.integers(1, 8), st.booleans()),
    st.tuples(
        st.just("step"),
        st.integers(1, 6),
        st.sampled_from(["", "", "", "killed", "frozen", "unseen"]),
        st.integers(0, 2),
    ),
    st.tuples(st.just("thaw")),
)


@running(max_examples=examples(40), deadline=None)
@example(  # nothing was committed, and a late view was counted before the part verdict that tells where to start
    views=[("A", 0, P, 0.0), ("B", 0, P, 11.0), ("A", 0, P, 0.0), ("A", 0, P, 11.0), ("A", 0, P, 0.0)],
    deeds=[("grow", 5, False), ("step", 4, "unseen", 0)],
)
@given(views=st.lists(VIEWS, min_size=8, max_size=40), deeds=st.lists(DEEDS, min_size=15, max_size=60))
def test_any_order_of_ends_and_repetitions_gives_each_part_one_verdict_the_right_one(
    views: list[tuple[str, int, Decision, float]], deeds: list[tuple[Any, ...]]
) -> None:
    verdicts, seconds = [], 0.0
    for offset, (subject, number, decision, gap) in enumerate(views):
        seconds += gap
        verdicts.append(view(offset, subject, number, decision, seconds))
    with TemporaryDirectory() as folder, opened(Path(folder), SetClock()) as store:
        set_line(store.objects, LINE, **PARTS)
        history = History(store, verdicts)
        for name, *given_ in deeds:
            getattr(history, name)(*given_)
        history.thaw()
        history.grow(len(verdicts), again=True)
        while history.behind:
            history.step(16, "", 0)
        for _ in range(2):  # nothing comes any more: parts are decided by time, and alerts tell their counts
            history.step(16, "", 0)
        parts, late = wanted(verdicts)
        found = part_verdicts(store.log)
        assert sorted(map(summary, found), key=str) == sorted((each.summary for each in parts), key=str)
        assert len({each.part_id for each in found}) == len(found)
        history.flush()
        assert sum(each.count for each in alerts(store.log)) == late
