"""Notifying: alerts as messages to people, by routes, each once."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from flowgauge.domain.messages import ALERTS, SNAPSHOTS, Alert
from flowgauge.domain.ports import Outgoing, Record
from flowgauge.domain.routes import Address, Routes
from flowgauge.processors.delivery import STATE_SECONDS, Delivery
from flowgauge.processors.notice_text import text_of
from flowgauge.processors.notices import Ledger, LedgerState
from flowgauge.registry.lines import SettingsCache
from flowgauge.registry.snapshots import announcements_since
from flowgauge.runtime.backend import Store, kept_state
from flowgauge.runtime.processor import Processor, decoded

# before the first start: of a plant that has run for long, more would be told that nobody asked for; less, and what
# happened while the first worker was being set up is not told
_FIRST_LOOK_BACK = timedelta(hours=1)
# between two looks for gauges and silences; longer, and good news comes later, shorter asks the brokers all the time
_LOOK_INTERVAL = timedelta(seconds=5)
# alerts that a commit is held back by at most: more, and an address that is dead for months fills an embedded store's
# disk; fewer, and what such an address is owed is lost once state is
_LONGEST_HELD = 100_000
# for what is on its way at a stop; longer, and a supervisor kills the worker, shorter repeats a message of slow servers
_FLUSH_SECONDS = 10.0


class Notifying(Processor):
    """Reads alerts, and keeps what is to be told of them in state, partition by partition.

    Two things make sure that nothing is lost and nothing told twice. The commit is held back to the first alert that
    somebody has still to hear of, for state may be lost at any time (a Redis that is flushed), and offsets are not: the
    alerts are read again then. State remembers what was told beyond that offset, and spares people the repetition;
    offsets alone would repeat, after every restart, all that other addresses got while one was dead or a night was
    quiet. So state that is lost costs repeated messages, and never an alert.

    A message is in state before it is sent, and `Delivery` records that it was.
    """

    name = "notify"
    inputs = (ALERTS,)

    def __init__(self, store: Store, routes: Routes, delivery: Delivery) -> None:
        self._store = store
        self._routes = routes
        self._delivery = delivery
        self._settings = SettingsCache(store)
        self._ledgers: dict[int, Ledger] = {}
        self._not_before: dict[int, datetime] = {}
        self._gauges: dict[str, datetime] = {}
        self._versions: dict[str, str] = {}
        self._gauges_read: dict[int, int] = {}
        self._looked_at: datetime | None = None

    def start_offset(self, topic: str, partition: int, committed: int) -> int:
        kept = kept_state(self._store.state, _state_key(partition), LedgerState)
        topic_id = self._store.log.topic_id(ALERTS)
        if kept is None:
            self._ledgers[partition] = Ledger(self._routes, LedgerState(topic_id=topic_id, position=committed))
            if not committed:
                self._not_before[partition] = self._store.clock.now() - _FIRST_LOOK_BACK
            return committed
        ledger = self._ledgers[partition] = Ledger(self._routes, kept)
        for address in self._routes.addresses.values():
            last = self._delivery.last(partition, address)
            if last is not None:
                ledger.delivered(address.key, last)
        if ledger.state.topic_id != topic_id:
            ledger.restart(topic_id)
        ledger.state.position = max(committed, ledger.state.position)
        return ledger.state.position

    def process(self, records: Sequence[Record]) -> list[Outgoing]:
        partition = records[0].partition
        ledger = self._ledgers[partition]
        unreadable: list[Outgoing] = []
        for record, alert in decoded(records, Alert, "alert", unreadable):
            if partition not in self._not_before or record.at >= self._not_before[partition]:
                ledger.take(record.offset, record.at, alert)
        ledger.state.position = records[-1].offset + 1
        if ledger.crowded:
            ledger.compose(self._store.clock.now())
        return unreadable

    def checkpoint(self) -> None:
        for partition, ledger in self._ledgers.items():
            if ledger.changed:
                self._store.state.put(_state_key(partition), ledger.state.model_dump_json().encode(), STATE_SECONDS)
                ledger.changed = False

    def committable_offset(self, topic: str, partition: int, read: int) -> int:
        first = self._ledgers[partition].first_offset()
        return read if first is None else max(min(first, read), read - _LONGEST_HELD)

    def punctuate(self, now: datetime) -> list[Outgoing]:
        # a clock that was set back must not hold good news up, so the interval is looked at from both sides
        if self._looked_at is None or not timedelta() <= now - self._looked_at < _LOOK_INTERVAL:
            self._finish(now)
            self._looked_at = now
        self._compose_and_send(now)
        return []

    def flush(self) -> list[Outgoing]:
        """Digests are told as they are; what is quiet, or fails now, is told after the next start."""
        now = self._store.clock.now()
        deadline = now + timedelta(seconds=_FLUSH_SECONDS)
        self._compose_and_send(now, everything=True)
        while self._delivery.wait(_FLUSH_SECONDS) and self._collect() and self._store.clock.now() < deadline:
            self._compose_and_send(now, everything=True)
        self.checkpoint()
        return []

    def _finish(self, now: datetime) -> None:
        if any(ledger.waits_for_gauges for ledger in self._ledgers.values()):
            for partition in range(self._store.log.partitions(SNAPSHOTS)):
                begin = self._gauges_read.get(partition, 0)
                for record, message in announcements_since(self._store.log, partition, begin):
                    self._gauges_read[partition] = record.offset + 1
                    # a trial's announcements name the gauge that is there already
                    if message is not None and message.version != self._versions.get(message.line):
                        self._versions[message.line] = message.version
                        self._gauges[message.line] = max(message.at, self._gauges.get(message.line, message.at))
        for partition, ledger in self._ledgers.items():
            if ledger.state.position >= self._store.log.end(ALERTS, partition):
                ledger.finish(now, self._gauges, lambda line: self._settings.of(line).alert_window_seconds)

    def _compose_and_send(self, now: datetime, everything: bool = False) -> None:
        for ledger in self._ledgers.values():
            ledger.compose(now, everything)
        self._collect()
        self.checkpoint()
        while self._send():
            self._collect()
            self.checkpoint()

    def _send(self) -> bool:
        """Give each address that is idle its next message; whether there was any."""
        sent = False
        for address, partition, ledger in self._waiting():
            message = ledger.next(address.key)
            if message is not None and self._delivery.idle(address):
                text = text_of(message, self._routes.console)
                self._delivery.send(partition, address, message.id, text)
                sent = True
        return sent

    def _collect(self) -> bool:
        """Cross off what has been delivered; whether something was."""
        delivered = False
        for address in self._routes.addresses.values():
            outcome = self._delivery.outcome(address)
            if outcome is None:
                continue
            delivered |= outcome.delivered
            for ledger in self._ledgers.values():
                if outcome.delivered:
                    ledger.delivered(address.key, outcome.message_id)
                else:
                    ledger.failed(address.key)
        return delivered

    def _waiting(self) -> Iterator[tuple[Address, int, Ledger]]:
        for address in self._routes.addresses.values():
            for partition, ledger in self._ledgers.items():
                yield address, partition, ledger


def _state_key(partition: int) -> str:
    return f"notify/{partition}"
