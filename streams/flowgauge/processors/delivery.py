"""Sending messages beside the stream: one of each address at a time, again after a pause where it failed."""

import logging
from concurrent.futures import Executor
from dataclasses import dataclass
from threading import Condition
from typing import NamedTuple

from flowgauge.domain.backoff import Backoff
from flowgauge.domain.errors import Unavailable
from flowgauge.domain.ports import Clock, Messenger, State
from flowgauge.domain.routes import ENVIRONMENT, Address
from flowgauge.processors.notice_text import Text
from flowgauge.runtime.meter import UNMETERED, Meter

log = logging.getLogger(__name__)

# longer, and whoever is back hears late; shorter, and services that count requests lock us out for good
_LONGEST_WAIT_SECONDS = 60.0
# of state that nobody renews: outlives a plant's holidays
STATE_SECONDS = 30 * 86_400.0


class Outcome(NamedTuple):
    message_id: str
    delivered: bool


@dataclass
class _Lane:
    """Of one address. `sending` is the message that is on its way, `outcome` what became of the last one."""

    backoff: Backoff
    sending: str | None = None
    outcome: Outcome | None = None
    failure: BaseException | None = None


class Delivery:
    """One for a process, however many processors it has in its life: what one of them has sent is known to the next.

    Without `executor` messages are sent in the caller's thread; with one, beside it: give it as many threads as there
    are addresses, or one that is dead holds others up. Every delivery is recorded in `state` by the thread that made
    it, before anything else is sent to the address. So a process that is killed repeats at most the one message of
    each address that was on its way.
    """

    def __init__(
        self,
        messenger: Messenger,
        state: State,
        clock: Clock,
        executor: Executor | None = None,
        meter: Meter = UNMETERED,
    ) -> None:
        self._messenger = messenger
        self._state = state
        self._clock = clock
        self._executor = executor
        self._meter = meter
        self._changed = Condition()
        self._lanes: dict[str, _Lane] = {}

    def last(self, partition: int, address: Address) -> str | None:
        """The id of the last message of `partition` that is on record as delivered. Raises `Unavailable`."""
        found = self._state.get(_record(partition, address))
        return None if found is None else found.decode()

    def idle(self, address: Address) -> bool:
        """Whether the address may be sent something now: nothing is on its way, and no pause is in force."""
        lane = self._lane(address)
        with self._changed:
            return lane.sending is None and lane.outcome is None and not lane.backoff.waiting()

    def send(self, partition: int, address: Address, message_id: str, text: Text) -> None:
        """To be called for an address that is idle."""
        lane = self._lane(address)
        with self._changed:
            lane.sending = message_id
        if self._executor is None:
            self._carry(lane, partition, address, text)
        else:
            self._executor.submit(self._carry, lane, partition, address, text)

    def outcome(self, address: Address) -> Outcome | None:
        """What became of the last message, once: None while it is on its way, and where it was told before. Raises what
        sending raised, but `Unavailable`."""
        lane = self._lane(address)
        with self._changed:
            if lane.failure is not None:
                raise lane.failure
            outcome, lane.outcome = lane.outcome, None
        return outcome

    def wait(self, seconds: float) -> bool:
        """Until nothing is on its way, so many seconds at most; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: all(lane.sending is None for lane in self._lanes.values()), seconds)

    def _lane(self, address: Address) -> _Lane:
        with self._changed:
            return self._lanes.setdefault(address.key, _Lane(Backoff(self._clock, _LONGEST_WAIT_SECONDS)))

    def _carry(self, lane: _Lane, partition: int, address: Address, text: Text) -> None:
        message_id = lane.sending
        assert message_id is not None
        delivered = False
        try:
            self._messenger.send(address.url.get_secret_value(), text.title, text.body, text.severity)
            delivered = True
            self._state.put(_record(partition, address), message_id.encode(), STATE_SECONDS)
        except Unavailable as error:
            # a delivery that cannot be recorded has been made all the same
            what = "A message was sent and is not on record:" if delivered else "A message waits:"
            log.warning("%s %s. %s", what, shown(address, self._messenger), error)
        except BaseException as error:
            lane.failure = error
        self._meter.notified(delivered)
        with self._changed:
            lane.backoff.succeeded() if delivered else lane.backoff.failed()
            lane.sending, lane.outcome = None, Outcome(message_id, delivered)
            self._changed.notify_all()


def shown(address: Address, messenger: Messenger) -> str:
    """For people: as the file of routes says it, without secrets."""
    if address.written.startswith(ENVIRONMENT):
        return address.written
    return messenger.shown(address.url.get_secret_value())


def _record(partition: int, address: Address) -> str:
    return f"notify/{partition}/delivered/{address.key}"
