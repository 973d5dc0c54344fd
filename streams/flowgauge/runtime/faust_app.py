"""The distributed engine: one Faust app per processor, that is one consumer group, over the same processors.

Faust fetches, balances and commits; a `Member` says where partitions begin and what may be committed. Its thread is the
processor's own, so the event loop, and with it the group's heartbeat, never waits for a model or a store.

Three overrides of Faust 0.15 carry this. After every assignment, and while it rebalances, Faust seeks to what was
committed (`Consumer.seek_to_committed`); here it seeks to where the member starts. And it commits what was acknowledged
(`Consumer._new_offset`); here what the member says, so that events are acknowledged as soon as they are copied: while
any is held, Faust hangs in a rebalance. And it seeks in another thread than it fetches in;
here in the same one (`Consumer._seek`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from threading import Timer
from typing import Any, TypeVar

import faust
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka
from faust.types import TP

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import from_epoch, header_text
from flowgauge.domain.ports import Record
from flowgauge.runtime.group_member import Member
from flowgauge.runtime.meter import Meter
from flowgauge.runtime.roles import lower_priority
from flowgauge.runtime.task import Partition

T = TypeVar("T")

# between two calls of `punctuate`: longer, and schedules and uploads wait for it; shorter, and idle workers are busy
_PUNCTUATE_SECONDS = 1.0
# supervisors kill after half a minute as a rule; shorter, and a stop leaves more for the next start to repeat
_STOP_SECONDS = 25.0
# between two probes; an answer may take as long where a broker is away
_PROBE_SECONDS = 10.0
# longer, and partitions that were added and topics that were made anew wait; shorter, and brokers answer for nothing
_METADATA_SECONDS = 10
# bytes of one partition; no message of ours is larger, and more only takes memory
_LARGEST_FETCH = 10 * 1024 * 1024


@dataclass(frozen=True)
class GroupSettings:
    """`brokers`: Faust's address, `kafka://host:port;...`; `prefix` stands before names of topics and groups.

    `batch` events at most are taken together, and `linger_seconds` is how long a batch may wait to fill.
    `session_seconds`: a member that is not heard of for so long loses its partitions. `credentials` are Faust's.
    `nice` lowers the priority of the processor's thread.
    """

    brokers: str
    prefix: str
    batch: int
    linger_seconds: float
    session_seconds: float
    credentials: Any
    nice: int
    meter: Meter


class Consumer(aiokafka.Consumer):
    """Starts where the app's member says, and commits what loses nothing."""

    app: "GroupApp"

    async def seek_to_committed(self) -> Mapping[Any, int]:
        committed = await super().seek_to_committed()
        offsets = {self.app.partition_of(tp): offset or 0 for tp, offset in committed.items()}
        found = await self.app.on_thread(partial(self.app.member.assigned, offsets))
        starts = {tp: found[self.app.partition_of(tp)] for tp in committed}
        await self.seek_wait(starts)
        return starts

    async def _seek(self, partition: Any, offset: int) -> None:
        # Faust seeks from the event loop's thread and fetches in another. Both write a partition's position and delete
        # what was fetched of it: a seek between them ends the member with a KeyError, or is undone by the fetch.
        await self._thread.call_thread(self._seek_in_thread, partition, offset)

    async def _seek_in_thread(self, partition: Any, offset: int) -> None:
        # whatever takes a partition away while the seek waits for the thread also says where to start it the next time
        if partition in self._thread.assignment():
            self._thread.seek(partition, offset)

    def _new_offset(self, tp: Any) -> int | None:
        # Faust's own bookkeeping goes on. Ours counts also when nothing was acknowledged since: uploads that have
        # finished meanwhile let more be committed.
        super()._new_offset(tp)
        return self.app.member.committable_offset(self.app.partition_of(tp))


class Transport(aiokafka.Transport):
    Consumer = Consumer


class GroupApp(faust.App):
    """One processor's member of its group. `failure` is what ended it, where something did."""

    def __init__(self, member: Member, settings: GroupSettings) -> None:
        super().__init__(
            id=settings.prefix + member.name,
            broker=settings.brokers,
            broker_credentials=settings.credentials,
            broker_session_timeout=settings.session_seconds,
            # ten in a session: with few, a busy machine loses its partitions for two heartbeats that are late
            broker_heartbeat_interval=settings.session_seconds / 10,
            # longer, and a restart repeats more; shorter, and brokers store offsets all the time
            broker_commit_interval=1.0,
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=_LARGEST_FETCH,
            consumer_metadata_max_age_ms=_METADATA_SECONDS * 1_000,
            stream_wait_empty=False,
            # the next batches, to look ahead into: less, and decoders have nothing to begin with; more takes memory
            stream_buffer_maxsize=4 * settings.batch,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            autodiscover=False,
            store="memory://",
        )
        self.member = member
        self.failure: BaseException | None = None
        self._settings = settings
        self._fetched: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=member.name, initializer=lower_priority(settings.nice))
        self._probing = ThreadPoolExecutor(1, thread_name_prefix=f"{member.name}-probe")
        topics = [settings.prefix + name for name in member.inputs]
        topic = self.topic(*topics, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes)
        self.agent(topic, name=member.name)(self._take_all)
        self.timer(_PUNCTUATE_SECONDS)(self._punctuate)
        self.timer(_PROBE_SECONDS)(self._probe)

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Nothing of ours lies on the disk."""

    def partition_of(self, tp: Any) -> Partition:
        """Faust's name of a partition as ours, without the prefix."""
        return tp.topic.removeprefix(self._settings.prefix), tp.partition

    async def _on_partitions_assigned(self, assigned: set[Any], generation_id: int = 0) -> None:
        """Faust seeks nowhere for an assignment of nothing, and what the member held is another's now."""
        await super()._on_partitions_assigned(assigned, generation_id)
        if not assigned:
            await self._guarded(partial(self.member.assigned, {}))

    async def on_stop(self) -> None:
        """Give up what cannot be delivered, and deliver what is pending."""
        self.member.stop()
        await self._guarded(self.member.flush)
        await super().on_stop()

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        self._thread.shutdown(wait=False)
        self._probing.shutdown(wait=False)

    async def _take_all(self, stream: Any) -> AsyncIterator[None]:
        """The agent: everything that the stream brings, batch by batch."""
        self._fetched = stream.channel.queue
        async for events in stream.noack_take(self._settings.batch, within=self._settings.linger_seconds):
            if not self.should_stop:
                await self._take(events)
            yield

    async def _take(self, events: Sequence[Any]) -> None:
        records = [record_of(event.message, self._settings.prefix) for event in events]
        # Acknowledged before they are processed, or a rebalance would wait for them. Nothing is lost by it: what is
        # committed is the member's committable offset alone.
        for event in events:
            event.ack()
        # What comes next is left where it is, since a stream hands nothing out while its agent is at work. asyncio's
        # queue has no way to look into it, and says that subclasses keep their items in `_queue`.
        queued = [
            event.message for event in islice(self._fetched._queue, self._settings.batch) if hasattr(event, "message")
        ]
        self.member.prefetch([*records, *(record_of(message, self._settings.prefix) for message in queued)])
        for batch in self.member.batches(records):
            await self._guarded(partial(self.member.take, batch))
            for topic_partition, offset in self.member.rewinds().items():
                await self._seek(topic_partition, offset)

    async def _punctuate(self) -> None:
        if self._fetched is not None:
            self._settings.meter.queued(self.member.name, self._fetched.qsize())
        await self._guarded(self.member.punctuate)
        for topic_partition, offset in self.member.restarts().items():
            await self._seek(topic_partition, offset)

    async def _probe(self) -> None:
        await self._guarded(self.member.probe, self._probing)

    async def _seek(self, topic_partition: Partition, offset: int) -> None:
        tp = TP(self._settings.prefix + topic_partition[0], topic_partition[1])
        if tp in self.consumer.assignment():
            await self.consumer.seek(tp, offset)

    async def _guarded(self, work: Callable[[], Any], thread: ThreadPoolExecutor | None = None) -> None:
        """An `Unavailable` comes out only while stopping. Anything else ends this app: never half a worker."""
        try:
            await self.on_thread(work, thread)
        except Unavailable as error:
            self.log.warning("%s stops with work left that a restart repeats: %s", self.member.name, error)

    async def on_thread(self, work: Callable[[], T], thread: ThreadPoolExecutor | None = None) -> T:
        """Run `work` on the processor's own thread, unless another is given. What it raises but `Unavailable` ends the
        app, and stays its `failure`: Faust alone would log it and go on without this member."""
        try:
            return await asyncio.get_running_loop().run_in_executor(thread or self._thread, work)
        except (Unavailable, asyncio.CancelledError):
            raise
        except BaseException as error:
            self.failure = error
            await self.crash(error)
            raise


def record_of(message: Any, prefix: str) -> Record:
    """What Faust read, from a topic whose name starts with `prefix`. What others sent may be no UTF-8, at any time."""
    headers = message.headers or {}
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return Record(
        topic=message.topic.removeprefix(prefix),
        partition=message.partition,
        offset=message.offset,
        key=header_text(message.key or b""),
        value=message.value or b"",
        headers={name: header_text(value or b"") for name, value in pairs},
        at=from_epoch(message.timestamp),
    )


Overdue = Callable[[BaseException | None], None]


async def run_groups(
    apps: Sequence[GroupApp], stopping: asyncio.Event, overdue: Overdue, stop_seconds: float = _STOP_SECONDS
) -> None:
    """Until `stopping` is set, or one app ends before: then its error is raised, so that a supervisor starts anew.

    `overdue` is called from another thread, with what led to the end where that was a failure, when the end takes
    longer than `stop_seconds`, as it does while brokers are away: it should end the process, for nothing that was not
    delivered is lost.
    """
    for app in apps:
        await app.start()
    try:
        while not stopping.is_set() and not any(app.failure or app.should_stop for app in apps):
            await asyncio.sleep(0.1)
    finally:
        deadline = Timer(stop_seconds, lambda: overdue(_failure(apps)))
        deadline.daemon = True
        deadline.start()
        try:
            # together: each waits for its brokers, and one after the other these waits add up towards the deadline
            await asyncio.gather(*(app.stop() for app in apps))
        finally:
            deadline.cancel()
    if (failure := _failure(apps)) is not None:
        raise failure
    if not stopping.is_set():
        raise Unavailable("A member of a consumer group ended by itself.", "The log says why; start the worker again.")


def _failure(apps: Sequence[GroupApp]) -> BaseException | None:
    """What ended the first app that did not end by itself; what Kafka ended a member with, such as a right that was
    taken away, in words for people."""
    failure = next((found for app in apps if (found := app.failure or app.crash_reason) is not None), None)
    if not isinstance(failure, KafkaError):
        return failure
    remedy = "Start the worker again; where a right is missing, docs/how-to/security.md lists who needs what."
    return Unavailable(f"Kafka ended a member of a consumer group ({failure}).", remedy)
