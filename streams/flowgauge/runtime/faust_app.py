"""The distributed engine: one Faust app per processor, that is one consumer group, over the same processors.

Faust fetches, balances and commits; a `Member` says where partitions begin and what may be committed. Its thread is the
processor's own, so the event loop, and with it the group's heartbeat, never waits for a model or a store.

Two overrides of Faust 0.15 carry this. After every assignment, and while it rebalances, Faust seeks to what was
committed (`Consumer.seek_to_committed`); here it seeks to where the member starts. And it commits what was acknowledged
(`Consumer._new_offset`); here what is safe, so that events are acknowledged as soon as they are copied: while any is
held, Faust hangs in a rebalance.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import faust
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka
from faust.types import TP

from flowgauge.domain.errors import Unavailable
from flowgauge.domain.messages import from_epoch, header_text
from flowgauge.domain.ports import Record
from flowgauge.runtime.group_member import Member, by_partition
from flowgauge.runtime.liveness import Deadline
from flowgauge.runtime.meter import Meter, Unmetered
from flowgauge.runtime.priority import lower_priority
from flowgauge.runtime.task import Partition

T = TypeVar("T")

_IDLE_SECONDS = 1.0
_STOP_SECONDS = 25.0  # supervisors wait half a minute as a rule
_LOOK_SECONDS = 10.0  # an answer may take as long where a broker is away
# longer, and partitions that were added and topics that were made anew wait; shorter, and brokers answer for nothing
_METADATA_SECONDS = 10
_LARGEST_FETCH = 10 * 1024 * 1024  # bytes of one partition; no message of ours is larger


@dataclass(frozen=True)
class GroupSettings:
    """`brokers`: Faust's address, `kafka://host:port;...`; `prefix` stands before names of topics and groups.

    `batch` events at most are carried together, and `linger_seconds` is how long a batch may wait to fill.
    `session_seconds`: a member that is not heard of for so long loses its partitions. `credentials` are Faust's.
    `nice` lowers the priority of the processor's thread.
    """

    brokers: str
    prefix: str
    batch: int = 16
    linger_seconds: float = 0.02
    session_seconds: float = 15.0
    credentials: Any = None
    nice: int = 0
    meter: Meter = field(default_factory=Unmetered)


class Consumer(aiokafka.Consumer):
    """Starts where the app's member says, and commits what is safe."""

    app: "GroupApp"

    async def seek_to_committed(self) -> Mapping[Any, int]:
        committed = {
            topic_partition: offset or 0 for topic_partition, offset in (await super().seek_to_committed()).items()
        }
        starts = await self.app.starts(committed)
        await self.seek_wait(starts)
        return starts

    def _new_offset(self, tp: Any) -> int | None:
        """Also when nothing was acknowledged since: what is safe may have grown meanwhile."""
        super()._new_offset(tp)
        return self.app.safe(tp)


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
            broker_heartbeat_interval=settings.session_seconds / 10,
            broker_commit_interval=1.0,
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=_LARGEST_FETCH,
            consumer_metadata_max_age_ms=_METADATA_SECONDS * 1_000,
            stream_wait_empty=False,
            stream_buffer_maxsize=4 * settings.batch,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            autodiscover=False,
            store="memory://",
        )
        self.member = member
        self.failure: BaseException | None = None
        self._prefix = settings.prefix
        self._waiting: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=member.name, initializer=lower_priority(settings.nice))
        self._lookout = ThreadPoolExecutor(1, thread_name_prefix=f"{member.name}-look")
        self._listen(settings)

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Nothing of ours lies on the disk."""

    async def starts(self, committed: Mapping[Any, int]) -> dict[Any, int]:
        topic_partitions = {self._topic_partition(tp): tp for tp in committed}
        found = await self._ending_on_failure(
            self._on_thread(
                partial(
                    self.member.assigned,
                    {topic_partition: committed[tp] for topic_partition, tp in topic_partitions.items()},
                )
            )
        )
        return {topic_partitions[topic_partition]: offset for topic_partition, offset in found.items()}

    async def _on_partitions_assigned(self, assigned: set[Any], generation_id: int = 0) -> None:
        """Faust seeks nowhere for an assignment of nothing, and what the member held is another's now."""
        await super()._on_partitions_assigned(assigned, generation_id)
        if not assigned:
            await self._guarded(partial(self.member.assigned, {}))

    def safe(self, tp: Any) -> int | None:
        return self.member.safe(self._topic_partition(tp))

    async def on_stop(self) -> None:
        """Give up what cannot be delivered, and deliver what is owed."""
        self.member.stop()
        await self._guarded(self.member.flush)
        await super().on_stop()

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        self._thread.shutdown(wait=False)
        self._lookout.shutdown(wait=False)

    def _listen(self, settings: GroupSettings) -> None:
        names = [self._prefix + name for name in self.member.inputs]
        topic = self.topic(*names, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes)

        @self.agent(topic, name=self.member.name)
        async def carry(stream: Any) -> AsyncIterator[None]:
            self._waiting = stream.channel.queue
            async for events in stream.noack_take(settings.batch, within=settings.linger_seconds):
                await self._carry(events, settings.batch)
                yield

        async def idle() -> None:
            if self._waiting is not None:
                settings.meter.queued(self.member.name, self._waiting.qsize())
            await self._guarded(self.member.idle)
            for topic_partition, offset in self.member.restarts().items():
                await self._seek(topic_partition, offset)

        async def look() -> None:
            await self._guarded(self.member.look, self._lookout)

        self.timer(_IDLE_SECONDS)(idle)
        self.timer(_LOOK_SECONDS)(look)

    async def _carry(self, events: Sequence[Any], most_ahead: int) -> None:
        if self.should_stop:
            return
        records = [record_of(event.message, self._prefix) for event in events]
        for event in events:
            event.ack()
        self.member.prefetch([*records, *self._queued(most_ahead)])
        for topic_partition, part in by_partition(records).items():
            await self._guarded(partial(self.member.take, part))
            await self._go_back(topic_partition)

    def _queued(self, most: int) -> list[Record]:
        """What comes next, left where it is: a stream hands nothing out while its agent is at work."""
        # asyncio's queue has no way to look into it, and says that subclasses keep their items there
        return [
            record_of(event.message, self._prefix)
            for event in islice(self._waiting._queue, most)
            if hasattr(event, "message")
        ]

    async def _go_back(self, topic_partition: Partition) -> None:
        """Fetch anew what was passed over because something before it is missing."""
        wanted = self.member.missing(topic_partition)
        if wanted is not None:
            await self._seek(topic_partition, wanted)

    async def _seek(self, topic_partition: Partition, offset: int) -> None:
        tp = TP(self._prefix + topic_partition[0], topic_partition[1])
        if tp in self.consumer.assignment():
            await self.consumer.seek(tp, offset)

    async def _guarded(self, work: Callable[[], Any], thread: ThreadPoolExecutor | None = None) -> None:
        """An `Unavailable` comes out only while stopping. Anything else ends this app: never half a worker."""
        try:
            await self._ending_on_failure(self._on_thread(work, thread))
        except Unavailable as error:
            self.log.warning("%s stops with work left that a restart repeats: %s", self.member.name, error)

    async def _ending_on_failure(self, work: Awaitable[T]) -> T:
        """What ends this app is kept: Faust alone would log it and go on without this member."""
        try:
            return await work
        except (Unavailable, asyncio.CancelledError):
            raise
        except BaseException as error:
            self.failure = error
            await self.crash(error)
            raise

    async def _on_thread(self, work: Callable[[], T], thread: ThreadPoolExecutor | None = None) -> T:
        """The processor's own thread, unless another is given."""
        return await asyncio.get_running_loop().run_in_executor(thread or self._thread, work)

    def _topic_partition(self, tp: Any) -> Partition:
        return tp.topic.removeprefix(self._prefix), tp.partition


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


async def run_groups(apps: Sequence[GroupApp], stopping: asyncio.Event, overdue: Overdue) -> None:
    """Until `stopping` is set, or one app ends before: then its error is raised, so that a supervisor starts anew.

    `overdue` is called from another thread, with what led to the end where that was a failure, when the end takes too
    long, as it does while brokers are away: it should end the process, for nothing that was not delivered is lost.
    """
    for app in apps:
        await app.start()
    try:
        while not stopping.is_set() and not any(app.failure or app.should_stop for app in apps):
            await asyncio.sleep(0.1)
    finally:
        with Deadline(_STOP_SECONDS, lambda: overdue(_failure(apps))):
            for app in apps:
                await app.stop()
    if (failure := _failure(apps)) is not None:
        raise failure
    if not stopping.is_set():
        raise Unavailable("A member of a consumer group ended by itself.", "The log says why; start the worker again.")


def _failure(apps: Sequence[GroupApp]) -> BaseException | None:
    """What ended the first app that did not end by itself."""
    found = (app.failure or app.crash_reason for app in apps)
    return next((_cause(failure) for failure in found if failure is not None), None)


def _cause(failure: BaseException) -> BaseException:
    """What Kafka ended a member with, such as a right that was taken away, in words for people."""
    if not isinstance(failure, KafkaError):
        return failure
    remedy = "Start the worker again; where a right is missing, docs/security.md lists who needs what."
    return Unavailable(f"Kafka ended a member of a consumer group ({failure}).", remedy)
