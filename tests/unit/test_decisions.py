from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from flowgauge.domain.errors import UserError
from flowgauge.domain.messages import ALERTS, AdaptationRequest, AlertKind, Reason
from flowgauge.domain.ports import Log, Outgoing, Record
from flowgauge.processors.adaptation import request_adaptation
from flowgauge.processors.line_monitor import Trigger
from flowgauge.runtime.alerts import alert
from flowgauge.runtime.backend import Store
from flowgauge.services.decisions import Decisions, approved
from tests.support.streaming import LINE, START, SetClock, opened

TRIGGER = Trigger(LINE, Reason.DRIFT, "image-7", START, "the light rose", since=START)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Store:
    return opened(tmp_path, clock)


def decide(store: Store, request: AdaptationRequest, kind: AlertKind = AlertKind.ADAPTATION_REFUSED) -> None:
    store.log.append([alert(request.line, kind, str(request.request_id), store.clock.now(), "It was decided.")])


def leave_out(store: Store, request: AdaptationRequest, instead: UUID) -> None:
    kind, trigger = AlertKind.ADAPTATION_COALESCED, str(request.request_id)
    store.log.append([alert(request.line, kind, trigger, store.clock.now(), "It was left out.", instead=str(instead))])


def test_what_is_approved_is_what_was_proposed_in_the_name_of_who_approves(store: Store, clock: SetClock) -> None:
    store.log.append([TRIGGER.proposed()])
    clock.advance(3600)
    request = approved(store.log, TRIGGER.request.request_id, "kim", clock.now())
    assert request.approved
    assert (request.requested_by, request.requested_at) == ("kim", clock.now())
    kept = {"request_id", "line", "reason", "since"}
    assert request.model_dump(include=kept) == TRIGGER.request.model_dump(include=kept)


def test_an_id_under_which_nothing_is_proposed_says_where_ids_are(store: Store) -> None:
    store.log.append([TRIGGER.proposed()])
    with pytest.raises(UserError, match="flowgauge alerts"):
        approved(store.log, uuid4(), "kim", START)


def test_a_proposal_is_approved_once(store: Store, clock: SetClock) -> None:
    store.log.append([TRIGGER.proposed()])
    request = approved(store.log, TRIGGER.request.request_id, "kim", clock.now())
    request_adaptation(store, request)
    with pytest.raises(UserError, match="kim approved this proposal on 2026-03-01 06:00 UTC"):
        approved(store.log, request.request_id, "lee", clock.now())
    decide(store, request)
    with pytest.raises(UserError, match="approved and decided on 2026-03-01 06:00 UTC"):
        approved(store.log, request.request_id, "lee", clock.now())


def test_a_proposal_whose_patch_another_took_is_decided_with_it(store: Store, clock: SetClock) -> None:
    store.log.append([TRIGGER.proposed()])
    request = approved(store.log, TRIGGER.request.request_id, "kim", clock.now())
    other = request.model_copy(update={"request_id": uuid4()})
    decisions = Decisions(store.log)
    leave_out(store, request, other.request_id)
    assert decisions.of(request) is None
    decide(store, other, AlertKind.ADAPTATION_ACCEPTED)
    decided = decisions.of(request)
    assert decided is not None
    assert decided.kind is AlertKind.ADAPTATION_ACCEPTED
    with pytest.raises(UserError, match="decided"):
        approved(store.log, request.request_id, "lee", clock.now())


def test_decisions_from_before_are_not_those_on_a_new_request(store: Store) -> None:
    request = TRIGGER.request
    decide(store, request)
    decisions = Decisions(store.log)
    assert decisions.of(request) is None
    store.log.append([Outgoing(ALERTS, LINE, b"no alert")])
    decide(store, request, AlertKind.ADAPTATION_ACCEPTED)
    assert decisions.of(request) is not None


def test_a_proposal_that_a_worker_repeats_after_its_decision_stays_decided(store: Store, clock: SetClock) -> None:
    store.log.append([TRIGGER.proposed()])
    clock.advance(1800)
    decide(store, TRIGGER.request)
    clock.advance(60)
    store.log.append([TRIGGER.proposed()])
    with pytest.raises(UserError, match="approved and decided"):
        approved(store.log, TRIGGER.request.request_id, "kim", clock.now())


def test_alerts_that_are_older_than_a_proposal_are_not_read(tmp_path: Path, clock: SetClock) -> None:
    store = opened(tmp_path / "plant", clock, partitions=2)
    rejects = [alert(f"line-{number % 5}", AlertKind.REJECT, str(number), START, "1 reject") for number in range(4_000)]
    store.log.append(rejects)
    clock.advance(3 * 3600)
    proposed = replace(TRIGGER, at=clock.now())
    store.log.append([proposed.proposed()])
    log = Reading(store.log)
    assert approved(cast(Log, log), proposed.request.request_id, "kim", clock.now()).line == LINE
    assert 0 < log.records < 1_000


class Reading:
    """A log that counts the records that are read of it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.records = 0

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        found = self._log.read(topic, partition, offset, limit)
        self.records += len(found)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)
